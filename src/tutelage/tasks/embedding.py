"""A vector for each text: the student learns a sentence encoder's vectors. Texts need no labels.

What a student is scored by follows from the evaluation file: pairs of texts with a score of their similarity (Spearman's and
Pearson's correlation of the cosines with the scores), texts with classes (k-nearest-neighbour accuracy), or texts alone (the mean
cosine with the teacher's vectors).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage import anatomy
from tutelage.data.config import DataConfig, Pooling, Projection
from tutelage.data.draws import hashes
from tutelage.data.examples import Data, Examples, Rows
from tutelage.data.given import task_name, titled
from tutelage.data.labels import Labels
from tutelage.data.mapped import held, taken
from tutelage.data.readers.files import ending_of, read_lines, read_table
from tutelage.data.readers.table import FileTable, shown
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.evaluation.intervals import drawn
from tutelage.objectives import losses
from tutelage.objectives.losses import SoftLossOptions
from tutelage.tasks import cells
from tutelage.tasks.kind import Kind
from tutelage.tasks.metrics import value_of
from tutelage.tasks.regression import Regression
from tutelage.tasks.sentence import SentenceEncoder, plain_settings, width_of

PAIRS: tuple[str, ...] = ("spearman", "pearson")
CLASSES: tuple[str, ...] = ("knn_accuracy",)
TEACHER: tuple[str, ...] = ("teacher_cosine",)
"""Metrics of an evaluation set of pairs, of classes, and of texts alone."""
NEIGHBOURS = 5
ALIGNED = 2048
"""Training texts on which a student's own space is compared with its teacher's, at most."""


@dataclass(frozen=True)
class EmbeddingData(Data):
    """Texts, and the form of the vectors that a student is to give them.

    Labels of the evaluation set are scores ``(n,)`` float32, where rows ``2 i`` and ``2 i + 1`` are a pair and have the same
    score; classes ``(n,)`` int64; or the teacher's vectors ``(n, width)`` float32.
    """

    pooling: Pooling | None = None
    projection: Projection = "pca"
    head: dict[str, Any] | None = None
    """``config.sentence`` of the teacher."""
    width: int | None = None
    """Size of the teacher's vectors."""


class Embedding(Kind):
    """A vector for each text. There are no labels to learn: a student's only source is its teacher."""

    name = "embedding"
    head = "vectors"
    pipeline = "sentence-similarity"
    library = "sentence-transformers"
    per_text = True
    served_as = "vector"
    named = False
    probabilities = False
    learns_labels = False
    metric_words = MappingProxyType(
        {
            "knn_accuracy": "k-NN accuracy",
            "teacher_cosine": "cosine with the teacher",
            "model_cosine": "cosine with the model in PyTorch",
        }
    )
    against_teacher = TEACHER

    # ------------------------------------------------------------------------------------------------------------- data

    def read(self, train: Path, dev: Path | None, config: DataConfig) -> Data:
        """Lines of .txt, or the text columns of a table, each text once; for the evaluation set see this module.

        Raises:
            TutelageError: as ``tables.load_files``; or a score is no number, or train is too small to hold out texts.
        """
        texts, notes = _texts(train, config)
        sources, metrics = {"train": titled(train).name}, TEACHER
        if dev is None:
            held = np.zeros(len(texts), dtype=bool)
            held[np.random.default_rng(0xDE7).permutation(len(texts))[4::10]] = True
            if not held.any():
                raise TutelageError(
                    f"{titled(train)}: {len(texts)} texts are too few to hold out some as dev; give a dev file"
                )
            whole = _unlabelled("train", texts)
            learnt, part = whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
            sources["dev"] = "10% of train, held out"
        else:
            learnt = _unlabelled("train", texts)
            part, metrics, sources["dev"], more = _evaluation(dev, config)
            notes += more
        return EmbeddingData(
            task_name(train), self.name, (), metrics, learnt, {"dev": part}, sources=sources, pooling=config.pooling,
            projection=config.projection, notes=tuple(notes),
        )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------------- labels

    def label_settings(self, data: Data) -> dict[str, Any]:
        """The head of the student: the teacher's pooling and width, and the map to that width where the student's is another."""
        assert isinstance(data, EmbeddingData)
        head = plain_settings(data.pooling) | {"projection": data.projection, "width": data.width}
        theirs = data.head or {}
        return {"sentence": head | {name: theirs[name] for name in ("pooling", "normalize") if name in theirs}}

    def match(self, data: Data, config: Any, name: str, role: str = "teacher") -> tuple[Data, list[str]]:
        assert isinstance(data, EmbeddingData)
        if config.sentence["pooling"] == "first" and anatomy.is_causal(config):
            raise TutelageError(f"the first token of {name!r} sees no other token; use data.pooling=mean")
        return replace(data, head=config.sentence, width=width_of(config)), []

    def columns(self, data: Data, config: Any, name: str, given: tuple[str, ...]) -> list[int]:
        raise TutelageError(
            f"vectors of several teachers ({name!r}) lie in different spaces and have no mean; use one teacher"
        )

    def start(self, student: Any, theirs: Callable[[], Tensor], ours: Callable[[Rows], Tensor]) -> str | None:
        """Turn the student's space to the principal directions of the teacher's vectors, where it is narrower, and within them to
        where its own vectors are nearest."""
        if not isinstance(student, SentenceEncoder) or student.space is None:
            return None
        outputs = theirs()
        share = student.fit_space(outputs)
        rows = np.array(drawn(len(outputs), ALIGNED))
        student.align_space(ours(rows), outputs[rows])
        return (
            f"{student.space.in_features} principal directions hold {share:.1%} of the squares of the teacher's vectors"
        )

    def answered(self, examples: Examples, outputs: Tensor) -> Examples:
        return examples if examples.labelled.all() else replace(examples, labels=outputs.numpy())

    # ----------------------------------------------------------------------------------------------------------- scores

    def scores(self, data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
        labels = texts.examples.labels
        if not texts.examples.labelled.all():
            raise TutelageError(
                "the evaluation set has texts alone, which only a teacher's vectors can score; give pairs with scores, or "
                "texts with classes"
            )
        vectors = F.normalize(logits.float(), dim=-1)
        if data.metrics == PAIRS:
            cosines = (vectors[::2] * vectors[1::2]).sum(dim=-1).numpy()
            return {name: value_of(name, cosines, labels[::2]) for name in PAIRS}
        if data.metrics == CLASSES:
            return {"knn_accuracy": float(_neighbours(vectors, labels).float().mean())}
        return {"teacher_cosine": float((vectors * F.normalize(torch.from_numpy(labels), dim=-1)).sum(dim=-1).mean())}

    def per_example(self, data: Data, logits: Tensor, texts: Texts) -> npt.NDArray[Any]:
        """Of pairs cosine and score, of texts alone the cosine with the teacher's vector. Of classes whether a text is right: its
        neighbours are those among all texts, so a text that counts twice is no neighbour of itself."""
        labels, vectors = texts.examples.labels, F.normalize(logits.float(), dim=-1)
        if data.metrics == PAIRS:
            cosines, scores = (vectors[::2] * vectors[1::2]).sum(dim=-1).numpy(), labels[::2]
            return np.stack([cosines, scores], axis=1)
        if data.metrics == CLASSES:
            each = _neighbours(vectors, labels).numpy()
        else:
            each = (vectors * F.normalize(torch.from_numpy(labels), dim=-1)).sum(dim=-1).numpy()
        return each.astype(np.float64)[:, None]

    def pooled(self, metric: str, rows: npt.NDArray[Any]) -> float:
        return value_of(metric, *rows.T) if metric in PAIRS else super().pooled(metric, rows)

    def agreement(self, ours: Tensor, theirs: Tensor) -> float | None:
        """Mean cosine of the two vectors of a text."""
        return float(F.cosine_similarity(ours.float(), theirs.float()).mean())

    def constant_scores(self, data: Data, examples: Examples) -> dict[str, float]:
        """Correlations of a constant are 0; the commonest class; the cosine with one vector, the best for all texts."""
        if data.metrics == PAIRS:
            return dict.fromkeys(PAIRS, 0.0)
        if data.metrics == CLASSES:
            return {"knn_accuracy": float(np.bincount(examples.labels).max() / len(examples))}
        return {"teacher_cosine": float(F.normalize(torch.from_numpy(examples.labels), dim=-1).mean(dim=0).norm())}

    # ----------------------------------------------------------------------------------------------------------- losses

    def soft_loss(self, student: Tensor, teacher: Tensor, how: SoftLossOptions) -> Tensor:
        """One minus the cosine: there is nothing to soften."""
        return losses.vector_cosine(student, teacher, how.count)

    def mix(self, logits: Tensor, shares: Tensor, temperature: float) -> Tensor:
        """The weighted mean of the teachers' vectors."""
        return (shares * logits).sum(dim=0)

    # ------------------------------------------------------------------------------------------------------- model card

    def usage(self, model: str) -> str:
        return "\n".join(
            [
                "from sentence_transformers import SentenceTransformer",
                f"encoder = SentenceTransformer({model})",
                'vectors = encoder.encode(["A text.", "Another text."])',
                "print(encoder.similarity(vectors, vectors))",
            ]
        )


def _table(path: Path, config: DataConfig, *columns: str | None) -> tuple[FileTable, str]:
    """The rows of a file, and its column of texts."""
    if ending_of(path) == ".txt":
        return read_lines(path), "text"
    return read_table(path, [name for name in columns if name is not None], config.header), config.text


def _texts(path: Path, config: DataConfig) -> tuple[Sequence[str], list[str]]:
    """All texts of a file, each once, and notes: lines, or a column; of pairs both."""
    table, text = _table(path, config, config.text, config.text_pair)
    columns = [table.texts(text, "text")]
    if config.text_pair is not None and config.text_pair in table.columns:
        columns.append(table.texts(config.text_pair, "text_pair"))
    rows = table.kept(config.skip_bad_rows)
    every = held(chain.from_iterable(taken(texts, rows) for texts in columns))
    _, first = np.unique(hashes(every), return_index=True)
    return taken(every, np.sort(first)), table.said()


def _unlabelled(part: str, texts: Sequence[str]) -> Examples:
    labels = np.full(len(texts), np.nan, dtype=np.float32)
    return Examples(held(f"{part}/{i}" for i in range(len(texts))), texts, None, labels)


def _evaluation(path: Path, config: DataConfig) -> tuple[Examples, tuple[str, ...], str, list[str]]:
    """The evaluation set of a file, its metrics, where it came from in words, and notes."""
    table, text = _table(path, config, config.text, config.text_pair, config.label)
    texts = table.texts(text, "text")
    lines = ending_of(path) == ".txt"
    if config.text_pair is not None and not lines:
        pairs = table.texts(config.text_pair, "text_pair")
        scores = _scores(table, config.label)
        rows = table.kept(config.skip_bad_rows)
        both = _unlabelled("dev", [one for row in rows for one in (texts[row], pairs[row])])
        labels: Labels = np.repeat(np.array([scores[row] for row in rows], dtype=np.float32), 2)
        return replace(both, labels=labels), PAIRS, table.path.name, table.said()
    if lines or config.label not in table.columns:
        rows = table.kept(config.skip_bad_rows)
        return _unlabelled("dev", [texts[row] for row in rows]), TEACHER, table.path.name, table.said()
    names = []
    for row, value in enumerate(table.column(config.label, "label")):
        try:
            names.append(cells.one_name(value))
        except cells.Unreadable as why:
            table.reject(row, str(why))
            names.append("")
    rows = table.kept(config.skip_bad_rows)
    classes = cells.found_classes(table.path, Counter(names[row] for row in rows), nameable=False)
    numbers = np.array([classes.place(names[row]) for row in rows], dtype=np.int64)
    part = replace(_unlabelled("dev", [texts[row] for row in rows]), labels=numbers)
    return part, CLASSES, f"{table.path.name}, {len(classes.names)} classes", table.said()


def _scores(table: FileTable, name: str) -> list[float]:
    """A column of scores of similarity, ``nan`` in bad rows; a row without a score is bad."""
    values, notes = Regression().prepared(list(table.column(name, "label")))
    table.notes += notes
    found = []
    for row, value in enumerate(values):
        score = cells.number(value)
        if score is None or not np.isfinite(score):
            table.reject(row, f"has label {shown(value)}, which is no score of similarity")
        found.append(float("nan") if score is None else score)
    return found


def _neighbours(vectors: Tensor, labels: Labels) -> Tensor:
    """``(n,)``: whether the class of a text is that of its nearest neighbours among the other texts.

    The 5 nearest vote with their cosines; among classes with equal votes the first wins. Vectors are of unit length.
    """
    classes = torch.from_numpy(labels)
    right: list[Tensor] = []
    count = min(NEIGHBOURS, len(labels) - 1)
    for start in range(0, len(labels), 1024):
        rows = torch.arange(start, min(start + 1024, len(labels)))
        cosines = vectors[rows] @ vectors.T
        cosines[torch.arange(len(rows)), rows] = -2.0
        near, places = cosines.topk(count, dim=1)
        votes = torch.zeros(len(rows), int(classes.max()) + 1).scatter_add_(1, classes[places], near + 1)
        right.append(votes.argmax(dim=1) == classes[rows])
    return torch.cat(right)
