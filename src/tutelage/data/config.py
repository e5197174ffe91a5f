"""Which data a run reads, as settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tutelage.fields import Count, Length


def _plain(value: Any) -> Any:
    return os.path.expanduser(os.fspath(value)) if isinstance(value, str | os.PathLike) else value


Pooling = Literal["mean", "first"]
"""How a sentence encoder makes one vector of its tokens."""
Projection = Literal["pca", "dense"]
"""How a narrow sentence encoder is compared with a wider one."""

Place = Annotated[str, BeforeValidator(_plain)]
"""A path or a name; ``pathlib.Path`` becomes a string, and ``~`` the home folder."""


Frequency = Annotated[float, Field(ge=0, le=1e18)]


def _names(value: Any) -> Any:
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


def _prior(value: Any) -> Any:
    if not isinstance(value, str) or value in ("uniform", "data"):
        return value
    try:
        return tuple(float(number) for number in value.split(","))
    except ValueError:
        raise ValueError("give uniform, data, or a number for each label, with commas between them") from None


class Predictions(BaseModel):
    """A file of predictions as the teacher: the answers of a large language model, say."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True, defer_build=True
    )

    file: Place
    """CSV, TSV, JSONL, JSON or Parquet: a column of texts, named as in the training file, and the predictions."""
    columns: Annotated[
        tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
    ] = ()
    """Columns of the predictions: one of labels, distributions, log-probabilities or votes; or several: one for each class, or
    one for each vote. Default: recognised by their names."""
    id: str | None = None
    """Column of both files by which rows are matched. Default: rows are matched by their texts."""
    missing: Literal["spread", "drop"] = "spread"
    """Probability that the file gives to no label, as the rest of top-k log-probabilities: ``spread`` evenly over the labels that
    the row does not list, or ``drop``: the listed labels are scaled to sum to 1."""
    unknown: Literal["error", "drop"] = "error"
    """Answers that are none of the labels: stop, or leave them out and count them."""
    prior: Annotated[Literal["uniform", "data"] | tuple[Frequency, ...] | None, BeforeValidator(_prior)] = None
    """Class frequencies to correct the predictions to: ``uniform``, ``data`` (those of the labelled rows), or one number for each
    label. Probabilities are divided by their mean over the file and multiplied by the prior. Default: no correction."""
    weights: Literal["equal", "entropy"] = "equal"
    """Weight of a text in the losses on predictions: ``equal``, or ``entropy``: 1 - entropy / log(classes), scaled to mean 1."""
    gold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the label in the target of a text that has both a label and a prediction."""


class DataConfig(BaseModel):
    """The texts of a run: a task by name, or files with columns."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, defer_build=True)

    task: str | None = None
    """Name of a task: sst2, mrpc, stsb, cola and the rest of GLUE, squad, squad2, conll2003."""
    data_dir: Place | None = None
    """Folder of the task's original files. Default: the Hub."""
    train: Place | None = None
    """Training file: CSV, TSV, JSON, JSON lines or Parquet; for spans also SQuAD's JSON, for tokens CoNLL's columns, for embedding
    lines of .txt."""
    dev: Place | None = None
    """Evaluation file. Default: 10 % of the training file."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text, for pairs."""
    label: str = "label"
    """Column of the label."""
    labels: Annotated[tuple[str, ...], BeforeValidator(_names)] | None = None
    """Names of the classes, with commas between them, in the order of the model's outputs. They name the labels 0, 1, ... of a
    file, and the classes of a teacher without names. Default: the labels of the training file, sorted."""
    header: bool = True
    """First line of a CSV or TSV file names the columns. Without a header columns are numbers: --text 0 --label 1."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be used (no text, no label, too many fields) and say how many. Default: stop and name them."""
    kind: str | None = None
    """Kind of task: classification, regression, multilabel, tokens, spans, embedding, or that of a plug-in. Default: inferred from
    the labels, between the first three."""
    metric: str | None = None
    """Metric that leads the report and selects the best epoch: accuracy, f1, macro_f1, micro_f1, mcc, spearman, pearson, or
    another of the kind of task (precision, exact_match, knn_accuracy). Default: the task's own; the mean of F1 and accuracy selects
    for MRPC and QQP."""
    unlabeled: Place | None = None
    """File of texts without labels. The teacher's predictions are their labels."""
    predictions: Predictions | None = None
    """Predictions that replace a teacher model."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training set that is kept as validation split, on which the best checkpoint is selected. With 0 it is
    selected on the evaluation set, and the report says so."""
    max_train: Count | None = None
    """Number of training examples to use, drawn with seed 0. Default: all."""
    leave_out: tuple[Count, Annotated[Count, Field(ge=2)]] | None = None
    """``(k, n)``: leave out part k (from 1) of n parts of the training set, drawn with seed 0 (``tutelage crossfit``)."""
    only: tuple[Count, Annotated[Count, Field(ge=2)]] | None = None
    """``(k, n)``: use only part k (from 1) of n parts of what is not left out, drawn with seed 0."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training set that gets a wrong label, drawn with seed 0: for a teacher that is bad on purpose."""
    stride: Count | None = None
    """For spans: tokens that neighbouring windows of a long context share. Default: 128, or a third of a short window."""
    pooling: Pooling | None = None
    """For embeddings: how a teacher whose folder does not say so makes one vector of its tokens. Default: mean."""
    projection: Projection = "pca"
    """For embeddings, where the student is narrower than its teacher's vectors: ``pca`` compares in the principal directions of the
    teacher's vectors, and the student comes out at its own width; ``dense`` adds a learnt linear map to the teacher's width."""
    candidates: Place | None = None
    """Folder of `tutelage augment`: the substitution candidates for augmented texts."""
    drop_flipped: bool = False
    """Leave out augmented texts for which the teacher predicts another class than for their original."""
    max_length: Length | None = None
    """Longest input in tokens. Default: that of the method or of the model's run; else 384 for questions, and for other tasks the
    models' positions."""

    @field_validator("labels")
    @classmethod
    def _are_classes(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels) or not all(labels)):
            raise ValueError("give two or more names, no two of them alike, with commas between them")
        return labels

    @model_validator(mode="after")
    def _parts_exist(self) -> DataConfig:
        for name, given in (("leave_out", self.leave_out), ("only", self.only)):
            if given is not None and given[0] > given[1]:
                raise ValueError(f"{name} names part {given[0]} of {given[1]}; count from 1 to {given[1]}")
        return self


BY_SETTING = ("predictions", "holdout", "leave_out", "only", "noise", "stride", "pooling", "projection", "drop_flipped")
"""Fields for experiments: ``--set data.NAME=VALUE`` sets them, no command has an option for them."""


class Frame(Protocol):
    """A pandas ``DataFrame`` or a ``datasets.Dataset``."""

    def to_parquet(self, *args: Any, **more: Any) -> Any: ...


Table = (
    Frame
    | Mapping[str, Iterable[Any]]
    | tuple[Iterable[str], Iterable[Any]]
    | Iterable[str]
    | Iterable[Mapping[str, Any]]
)
"""Texts in memory: a frame, a dict of columns, ``(texts, labels)``, texts alone (unlabelled), or rows. Texts and labels may
be lists, arrays, a pandas ``Series``, or a generator."""

FilePath = str | os.PathLike[str]


class DataOptions(TypedDict, total=False):
    """The fields of :class:`DataConfig` as keyword arguments; ``train``, ``dev`` and ``unlabeled`` may be tables in memory."""

    task: str | None
    data_dir: FilePath | None
    train: FilePath | Table | None
    dev: FilePath | Table | None
    text: str
    text_pair: str | None
    label: str
    labels: str | Sequence[str] | None
    header: bool
    skip_bad_rows: bool
    kind: str | None
    metric: str | None
    unlabeled: FilePath | Table | None
    predictions: Predictions | None
    holdout: float
    max_train: int | None
    leave_out: tuple[int, int] | None
    only: tuple[int, int] | None
    noise: float
    stride: int | None
    pooling: Pooling | None
    projection: Projection
    candidates: FilePath | None
    drop_flipped: bool
    max_length: int | None
