"""A vector for each text: the student learns a sentence encoder's vectors. Texts need no labels.

What a student is scored by follows from the evaluation file: pairs of texts with a score of their similarity (Spearman's and
Pearson's correlation of the cosines with the scores), texts with classes (k-nearest-neighbour accuracy), or texts alone (the mean
cosine with the teacher's vectors).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage import anatomy
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Examples
from tutelage.data.labels import Labels
from tutelage.data.readers.files import ending_of, read_columns, read_lines, shown, texts_of
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.objectives import losses
from tutelage.objectives.losses import Count
from tutelage.sentence import Pooling, Projection, SentenceEncoder, plain_settings, width_of
from tutelage.tasks import cells
from tutelage.tasks.kind import Kind
from tutelage.tasks.metrics import value_of

PAIRS: tuple[str, ...] = ("spearman", "pearson")
CLASSES: tuple[str, ...] = ("knn_accuracy",)
TEACHER: tuple[str, ...] = ("teacher_cosine",)
"""Metrics of an evaluation set of pairs, of classes, and of texts alone."""
NEIGHBOURS = 5


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
    named = False
    probabilities = False
    learns_labels = False
    untaught = "before training"
    against_teacher = TEACHER

    # ------------------------------------------------------------------------------------------------------------- data

    def read(self, train: Path, dev: Path | None, config: DataConfig) -> Data:
        """Lines of .txt, or the text columns of a table, each text once; for the evaluation set see this module.

        Raises:
            TutelageError: as ``files.read_columns``; or a score is no number, or train is too small to hold out texts.
        """
        texts = list(dict.fromkeys(_texts(train, config.text, config.text_pair)))
        sources, metrics = {"train": train.name}, TEACHER
        if dev is None:
            held = np.zeros(len(texts), dtype=bool)
            held[np.random.default_rng(0xDE7).permutation(len(texts))[4::10]] = True
            if not held.any():
                raise TutelageError(f"{train}: {len(texts)} texts are too few to hold out some as dev; give a dev file")
            whole = _unlabelled("train", texts)
            learnt, part = whole.take(np.flatnonzero(~held)), whole.take(np.flatnonzero(held))
            sources["dev"] = "10% of train, held out"
        else:
            learnt = _unlabelled("train", texts)
            part, metrics, classes = _evaluation(dev, config)
            sources["dev"] = dev.name + ("" if not classes else f", {len(classes)} classes")
        task = train.name.removesuffix(".gz").rpartition(".")[0]
        return EmbeddingData(
            task, self.name, (), metrics, learnt, {"dev": part}, sources=sources, pooling=config.pooling,
            projection=config.projection,
        )  # fmt: skip

    # ----------------------------------------------------------------------------------------------------------- labels

    def label_settings(self, data: Data) -> dict[str, Any]:
        """The head of the student: the teacher's pooling and width, and the map to that width where the student's is another."""
        assert isinstance(data, EmbeddingData)
        head = plain_settings(data.pooling) | {"projection": data.projection, "width": data.width}
        theirs = data.head or {}
        return {"sentence": head | {name: theirs[name] for name in ("pooling", "normalize") if name in theirs}}

    def match(self, data: Data, config: Any, name: str) -> tuple[Data, list[str]]:
        assert isinstance(data, EmbeddingData)
        if config.sentence["pooling"] == "first" and anatomy.is_causal(config):
            raise TutelageError(f"the first token of {name!r} sees no other token; use data.pooling=mean")
        return replace(data, head=config.sentence, width=width_of(config)), []

    def columns(self, data: Data, config: Any, name: str, given: tuple[str, ...]) -> list[int]:
        raise TutelageError(
            f"vectors of several teachers ({name!r}) lie in different spaces and have no mean; use one teacher"
        )

    def start(self, student: Any, outputs: Callable[[], Tensor]) -> str | None:
        """Turn the student's space to the principal directions of the teacher's vectors, where it is narrower."""
        if not isinstance(student, SentenceEncoder) or student.space is None:
            return None
        share = student.fit_space(outputs())
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
            return {"knn_accuracy": _neighbours(vectors, labels)}
        return {"teacher_cosine": float((vectors * F.normalize(torch.from_numpy(labels), dim=-1)).sum(dim=-1).mean())}

    def constant_scores(self, data: Data, examples: Examples) -> dict[str, float]:
        """Correlations of a constant are 0; the commonest class; the cosine with one vector, the best for all texts."""
        if data.metrics == PAIRS:
            return dict.fromkeys(PAIRS, 0.0)
        if data.metrics == CLASSES:
            return {"knn_accuracy": float(np.bincount(examples.labels).max() / len(examples))}
        return {"teacher_cosine": float(F.normalize(torch.from_numpy(examples.labels), dim=-1).mean(dim=0).norm())}

    # ----------------------------------------------------------------------------------------------------------- losses

    def soft_loss(
        self,
        student: Tensor,
        teacher: Tensor,
        temperature: float = 1.0,
        *,
        scale: bool = True,
        reduction: Literal["batchmean", "mean"] = "batchmean",
        count: Count = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """One minus the cosine: there is nothing to soften."""
        return losses.vector_cosine(student, teacher, count)

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


def _texts(path: Path, text: str, pair: str | None) -> list[str]:
    """All texts of a file: lines, or a column; of pairs both."""
    if ending_of(path) == ".txt":
        return read_lines(path)
    columns = read_columns(path, {"text": text, "text_pair": pair}, optional=("text_pair",))
    return [one for role in columns for one in texts_of(path, role, columns)]


def _unlabelled(part: str, texts: list[str]) -> Examples:
    labels = np.full(len(texts), np.nan, dtype=np.float32)
    return Examples([f"{part}/{i}" for i in range(len(texts))], texts, None, labels)


def _evaluation(path: Path, config: DataConfig) -> tuple[Examples, tuple[str, ...], list[str]]:
    """The evaluation set of a file, its metrics, and its classes if it has any."""
    if ending_of(path) == ".txt":
        return _unlabelled("dev", read_lines(path)), TEACHER, []
    wanted = {"text": config.text, "text_pair": config.text_pair, "label": config.label}
    columns = read_columns(path, wanted, optional=() if config.text_pair else ("label",))
    texts = texts_of(path, "text", columns)
    if "text_pair" in columns:
        pairs = texts_of(path, "text_pair", columns)
        scores = [cells.number(value) for value in columns["label"]]
        wrong = next((row for row, score in enumerate(scores) if score is None or not np.isfinite(score)), None)
        if wrong is not None:
            raise TutelageError(
                f"{path}: row {wrong + 1} has label {shown(columns['label'][wrong])}, which is no score of similarity; "
                "correct it, or leave out text_pair"
            )
        labels: Labels = np.repeat(np.array(scores, dtype=np.float32), 2)
        both = [one for row in zip(texts, pairs, strict=True) for one in row]
        return replace(_unlabelled("dev", both), labels=labels), PAIRS, []
    part = _unlabelled("dev", texts)
    if "label" not in columns:
        return part, TEACHER, []
    names = [cells.one_name(path, row, value) for row, value in enumerate(columns["label"], 1)]
    classes = list(cells.sorted_classes(path, names))
    number_of = {name: number for number, name in enumerate(classes)}
    return replace(part, labels=np.array([number_of[name] for name in names], dtype=np.int64)), CLASSES, classes


def _neighbours(vectors: Tensor, labels: Labels) -> float:
    """The share of texts whose class is that of their nearest neighbours among the other texts.

    The 5 nearest vote with their cosines; among classes with equal votes the first wins. Vectors are of unit length.
    """
    classes, right = torch.from_numpy(labels), 0
    count = min(NEIGHBOURS, len(labels) - 1)
    for start in range(0, len(labels), 1024):
        rows = torch.arange(start, min(start + 1024, len(labels)))
        cosines = vectors[rows] @ vectors.T
        cosines[torch.arange(len(rows)), rows] = -2.0
        near, places = cosines.topk(count, dim=1)
        votes = torch.zeros(len(rows), int(classes.max()) + 1).scatter_add_(1, classes[places], near + 1)
        right += int((votes.argmax(dim=1) == classes[rows]).sum())
    return right / len(labels)
