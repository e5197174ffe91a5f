"""What a run learns from and is scored on: loaded, divided, with the teacher's labels, as its models read it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.config import DataConfig
from tutelage.data.batches import Rows
from tutelage.data.conll import encode_words, load_conll, own_sentences
from tutelage.data.docstrings import demo_data
from tutelage.data.examples import Data, Encoded, Examples, Kind, encode
from tutelage.data.files import load_files, read_unlabeled
from tutelage.data.squad import encode_spans, load_squad, own_questions
from tutelage.data.tasks import load_glue
from tutelage.errors import TutelageError
from tutelage.evaluation.answers import answer_chance, best_answers, squad_scores
from tutelage.evaluation.entities import best_tags, tag_chance, tag_scores
from tutelage.evaluation.metrics import chance, score
from tutelage.knowledge.out_of_fold import content


@dataclass
class Texts:
    """One part of the data as the student reads it, and as the teacher does where that differs."""

    examples: Examples
    student: Encoded
    teacher: Encoded | None

    def at(self, rows: Rows) -> Texts:
        """The examples at ``rows``, with all the windows in which they are read."""

        def taken(encoded: Encoded) -> Encoded:
            read, of = rows_of(encoded, rows)
            part = encoded.take(read)
            return part if part.windows is None else replace(part, windows=replace(part.windows, of=of))

        teacher = None if self.teacher is None else taken(self.teacher)
        return Texts(self.examples.take(rows), taken(self.student), teacher)


def rows_of(encoded: Encoded, examples: Rows) -> tuple[Rows, Rows]:
    """Where ``encoded`` has these examples: its rows, all windows of each, and of which of ``examples`` each row is."""
    if encoded.windows is None:
        return examples, np.arange(len(examples))
    of = encoded.windows.of
    first, last = np.searchsorted(of, examples), np.searchsorted(of, examples, side="right")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return rows, np.repeat(np.arange(len(examples)), last - first)


def load_data(config: DataConfig) -> Data:
    """The data that a configuration names.

    Raises:
        TutelageError: for anything missing, malformed or contradictory.
    """
    if config.task is not None and (config.train is not None or config.dev is not None):
        raise TutelageError("--task and --train/--dev exclude each other: a task by name, or files of your own")
    folder = Path(config.data_dir) if config.data_dir else None
    named = "".join(filter(str.isalnum, (config.task or "").lower()))
    if config.task == "docstrings":
        data = demo_data()
    elif named in ("squad", "squad2"):
        data = load_squad("squad" if named == "squad" else "squad2", folder)
    elif named == "conll2003":
        data = load_conll(folder)
    elif config.task is not None:
        data = load_glue(config.task, folder)
    elif config.train is not None and config.kind in ("spans", "tokens"):
        data = (own_questions if config.kind == "spans" else own_sentences)(
            Path(config.train), Path(config.dev) if config.dev else None
        )
    elif config.train is not None:
        data = load_files(
            Path(config.train),
            Path(config.dev) if config.dev else None,
            None,
            config.text,
            config.text_pair,
            config.label,
            config.kind,
        )
    else:
        raise TutelageError("there is nothing to learn from; give --task NAME or --train FILE")
    if config.max_train is not None and config.max_train < len(data.train):
        rows = np.sort(np.random.default_rng(0).permutation(len(data.train))[: config.max_train])
        source = f"{data.sources.get('train', 'train')}, cut to {config.max_train:,} rows"
        data = replace(data, train=data.train.take(rows), sources={**data.sources, "train": source})
    for given, taken in ((config.leave_out, False), (config.only, True)):
        if given is not None:
            part, parts = given
            rows = np.flatnonzero((part_of(data.train, data.kind, parts) == part) == taken)
            source = f"{data.sources.get('train', 'train')}, {'only' if taken else 'without'} part {part} of {parts}"
            data = replace(data, train=data.train.take(rows), sources={**data.sources, "train": source})
    if config.noise:
        source = f"{data.sources.get('train', 'train')}, {config.noise:.0%} of the labels wrong on purpose"
        data = replace(data, train=_mislabelled(data, config.noise), sources={**data.sources, "train": source})
    if config.unlabeled is not None:
        if data.kind in ("spans", "tokens"):
            raise TutelageError(
                f"unlabelled texts cannot be read for a task of kind {data.kind}; leave out --unlabeled"
            )
        # GLUE's columns have names of their own, which a file of the user's need not share.
        data = replace(data, unlabeled=read_unlabeled(Path(config.unlabeled), config.text, config.text_pair, data))
    return data


def part_of(examples: Examples, kind: Kind, parts: int) -> Rows:
    """``(n,)``: in which part (from 1) each example is, drawn with seed 0. Equal texts are in one part, so that a model of the
    others has not seen them; but for such, parts differ by one example at most, of each class too."""
    _, first, text_of = np.unique(content(examples), return_index=True, return_inverse=True)
    order = np.random.default_rng([0, 0xF01D]).permutation(len(first))
    if kind == "classification":
        order = order[np.argsort(examples.labels[first][order], kind="stable")]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) % parts + 1
    return found[text_of]


def held_part(count: int) -> tuple[int, int]:
    """``(k, n)``: the part of a training set of ``count`` on which a team's weights are learnt, and its teachers compared: a
    tenth, but about 300 to 2,000 examples, and at most a fifth. Its teachers must not have learnt from it."""
    return 1, max(5, round(count / min(max(0.1 * count, 300), 2000)))


def _mislabelled(data: Data, share: float) -> Examples:
    """Train with so many wrong labels."""
    if data.kind != "classification":
        raise TutelageError(f"data.noise changes classes, and {data.task!r} is a {data.kind}; leave it out")
    generator = np.random.default_rng([0, 0x401E])
    labels, classes = data.train.labels.copy(), len(data.labels)
    wrong = generator.permutation(np.flatnonzero(labels >= 0))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + generator.integers(1, classes, len(wrong))) % classes
    return replace(data.train, labels=labels)


def match_labels(data: Data, config: Any, name: str) -> tuple[Data, list[str]]:
    """The data with the label numbers of the teacher's configuration, matched by name; and warnings.

    Raises:
        TutelageError: when the teacher's labels are others than the data's.
    """
    count = config.num_labels
    if data.kind == "spans":
        return data, []
    if data.kind == "regression":
        if count != 1:
            raise TutelageError(
                f"the task {data.task!r} is a regression, but the teacher {name!r} has {count} labels; fine-tune it here"
            )
        return data, []
    theirs = label_names(config)
    places = places_of(data.labels, theirs)
    if places is not None:
        # The data's spelling wins; labels that only the teacher knows keep theirs.
        spelt = dict(zip(places, data.labels, strict=True))
        return data.with_labels(tuple(spelt.get(i, label) for i, label in enumerate(theirs))), []
    if unnamed(config) and count == len(data.labels):
        named = ", ".join(f"LABEL_{i}={label}" for i, label in enumerate(data.labels))
        return data, [f"the teacher's labels have no names; they were taken in the data's order ({named})"]
    raise TutelageError(
        f"the teacher {name!r} knows the labels {listed(theirs)}, the data {listed(data.labels)}; use a teacher "
        "fine-tuned on these labels, or correct id2label in its config.json"
    )


def label_names(config: Any) -> list[str]:
    """A model's classes, in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def places_of(labels: Sequence[str], theirs: Sequence[str]) -> list[int] | None:
    """Where each of ``labels`` is among a model's, spelt the same or, where that is unambiguous, but for upper case."""
    for spelt in (str, str.lower):
        ours, known = [spelt(label) for label in labels], [spelt(label) for label in theirs]
        if len(set(ours)) == len(ours) and all(known.count(label) == 1 for label in ours):
            return [known.index(label) for label in ours]
    return None


def unnamed(config: Any) -> bool:
    """Whether a model's classes have no names but those that transformers gives them."""
    return label_names(config) == [f"LABEL_{i}" for i in range(config.num_labels)]


def listed(names: Sequence[str]) -> str:
    """As errors name labels: the first of very many."""
    return ", ".join(map(repr, names[:6])) + (f" ... ({len(names)} in all)" if len(names) > 6 else "")


def label_settings(data: Data) -> dict[str, Any]:
    """What the student's configuration says about labels."""
    if data.kind == "spans":
        return {}
    if data.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    names = {"id2label": dict(enumerate(data.labels)), "label2id": {name: i for i, name in enumerate(data.labels)}}
    if data.kind == "tokens":
        return names
    kind = "single" if data.kind == "classification" else "multi"
    return {**names, "problem_type": f"{kind}_label_classification"}


HEADS: dict[Kind, Head] = {
    "classification": "classes",
    "regression": "classes",
    "multilabel": "classes",
    "tokens": "tokens",
    "spans": "spans",
}
"""What a model must answer for each kind of data."""


def encoded_as(kind: Kind, examples: Examples, tokenizer: Any, max_length: int, stride: int | None) -> Encoded:
    """Examples of a kind as token ids, with what is asked of which token."""
    if kind == "spans":
        third = max_length // 3
        return encode_spans(examples, tokenizer, max_length, stride or min(128, third), min(64, third))
    return (encode_words if kind == "tokens" else encode)(examples, tokenizer, max_length)


def longest(data: Data, config: DataConfig, limit: int) -> int:
    """The longest input in tokens: what the configuration says, else what the models take; windows are 384 at most."""
    return config.max_length or (min(limit, 384) if data.kind == "spans" else limit)


def fitted_tokenizer(tokenizer: Any, model: PreTrainedModel) -> Any:
    """The tokenizer, giving only what the model's ``forward`` takes (DistilBERT has no token types)."""
    has_types = anatomy.has_token_types(model.config)
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    if has_types and "token_type_ids" not in tokenizer.model_input_names:
        return tokenizer
    if list(tokenizer.model_input_names) == names:
        return tokenizer
    fitted = copy.deepcopy(tokenizer)
    fitted.model_input_names = names
    fitted.init_kwargs["model_input_names"] = names
    return fitted


def scores_of(data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
    """The task's metrics of the student's (or the teacher's, which reads the same words) predictions ``(answers, classes)``."""
    examples = texts.examples
    if data.kind == "spans":
        unanswerable = any(answers == () for answers in examples.labels)
        return squad_scores(best_answers(logits, texts.student, examples, with_null=unanswerable), examples)
    if data.kind == "tokens":
        return tag_scores(best_tags(logits, texts.student, examples, data.labels), examples, data.labels)
    return score(data.metrics, logits.numpy(), examples.labels, data.kind, data.positive)


def constant_scores(data: Data, examples: Examples) -> dict[str, float]:
    """What the same answer to everything scores."""
    if data.kind == "spans":
        return answer_chance(examples)
    if data.kind == "tokens":
        return tag_chance(examples, data.labels)
    return {name: chance(name, examples.labels, data.kind, data.positive) for name in data.metrics}
