"""Which data a run reads, as settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _plain(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


Place = Annotated[str, BeforeValidator(_plain)]
"""A path or a name; ``pathlib.Path`` becomes a string."""


class DataConfig(BaseModel):
    """The texts of a run: a task by name, or files with columns."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    task: str | None = None
    """Name of a task: sst2, mrpc, stsb, cola and the rest of GLUE, squad, squad2, conll2003."""
    data_dir: Place | None = None
    """Folder of the task's original files. Default: the Hub."""
    train: Place | None = None
    """Training file: CSV, TSV, JSONL or Parquet; SQuAD's JSON for spans, CoNLL's columns for tokens, .txt for embedding."""
    dev: Place | None = None
    """Evaluation file. Default: 10 % of the training file."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text, for pairs."""
    label: str = "label"
    """Column of the label."""
    kind: str | None = None
    """Kind of task: classification, regression, multilabel, tokens, spans, embedding, or that of a plug-in. Default: inferred from
    the labels, between the first three."""
    unlabeled: Place | None = None
    """File of texts without labels. The teacher's predictions are their labels."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training set that is kept as validation split, on which the best checkpoint is selected. With 0 it is
    selected on the evaluation set, and the report says so."""
    max_train: Annotated[int, Field(ge=1)] | None = None
    """Number of training examples to use, drawn with seed 0. Default: all."""
    leave_out: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """``(k, n)``: leave out part k (from 1) of n parts of the training set, drawn with seed 0 (``tutelage crossfit``)."""
    only: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """``(k, n)``: use only part k (from 1) of n parts of what is not left out, drawn with seed 0."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training set that gets a wrong label, drawn with seed 0: for a teacher that is bad on purpose."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """For spans: tokens that neighbouring windows of a long context share. Default: 128, or a third of a short window."""
    pooling: Literal["mean", "first"] | None = None
    """For embeddings: how a teacher whose folder does not say so makes one vector of its tokens. Default: mean."""
    projection: Literal["pca", "dense"] = "pca"
    """For embeddings, where the student is narrower than its teacher's vectors: ``pca`` compares in the principal directions of the
    teacher's vectors, and the student comes out at its own width; ``dense`` adds a learnt linear map to the teacher's width."""
    candidates: Place | None = None
    """Folder of `tutelage augment`: the substitution candidates for augmented texts."""
    drop_flipped: bool = False
    """Leave out augmented texts for which the teacher predicts another class than for their original."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest input in tokens. Default: the positions of the models."""

    @model_validator(mode="after")
    def _parts_exist(self) -> DataConfig:
        for name, given in (("leave_out", self.leave_out), ("only", self.only)):
            if given is not None and given[0] > given[1]:
                raise ValueError(f"{name} names part {given[0]} of {given[1]}; count from 1 to {given[1]}")
        return self


BY_SETTING = ("holdout", "leave_out", "only", "noise", "stride", "pooling", "projection", "drop_flipped")
"""Fields for experiments: ``--set data.NAME=VALUE`` sets them, no command has an option for them."""


class Frame(Protocol):
    """A pandas ``DataFrame`` or a ``datasets.Dataset``."""

    def to_parquet(self, *args: Any, **more: Any) -> Any: ...


Table = Frame | Mapping[str, Sequence[Any]] | tuple[Sequence[str], Sequence[Any]] | Sequence[str]
"""Texts in memory: a frame, a dict of columns, ``(texts, labels)``, or texts alone (unlabelled)."""

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
    kind: str | None
    unlabeled: FilePath | Table | None
    holdout: float
    max_train: int | None
    leave_out: tuple[int, int] | None
    only: tuple[int, int] | None
    noise: float
    stride: int | None
    pooling: Literal["mean", "first"] | None
    projection: Literal["pca", "dense"]
    candidates: FilePath | None
    drop_flipped: bool
    max_length: int | None
