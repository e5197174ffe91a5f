"""Which data a run reads, as settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DataConfig(BaseModel):
    """Which texts: a GLUE task by name, or files with columns.

    ``holdout`` is the share of train that is kept out of training to choose checkpoints on; 0 chooses them on dev, and
    the report then says so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str | None = None
    data_dir: str | None = None
    """Folder of GLUE's original TSV files; without it the task comes from the Hub."""
    train: str | None = None
    dev: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    kind: str | None = None
    """The kind of task: classification, regression, multilabel, tokens, spans, or that of a plug-in; without it the labels of
    train decide between the first three."""
    unlabeled: str | None = None
    """A file of text without labels, which the teacher labels softly."""
    holdout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_train: Annotated[int, Field(ge=1)] | None = None
    """Use only so many training examples, drawn with seed 0."""
    leave_out: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """``(k, n)``: do not learn from part k (from 1) of n, which are drawn with seed 0 (``tutelage crossfit``)."""
    only: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=2)]] | None = None
    """``(k, n)``: learn from part k (from 1) of n alone, drawn with seed 0 from what is not left out."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Give so large a share of train another label, drawn with seed 0: to make a teacher that is bad on purpose."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """For questions: tokens that neighbouring windows of a long context share; 128, or a third of short windows."""
    candidates: str | None = None
    """A folder of ``tutelage augment``: the words that may stand for others in augmented texts."""
    drop_flipped: bool = False
    """Leave out the augmented texts of which the teacher predicts another class than of their originals."""
    max_length: Annotated[int, Field(ge=8)] | None = None
    """Longest input in tokens; the model's positions where it is not given."""

    @model_validator(mode="after")
    def _parts_exist(self) -> DataConfig:
        for name, given in (("leave_out", self.leave_out), ("only", self.only)):
            if given is not None and given[0] > given[1]:
                raise ValueError(f"{name} names part {given[0]} of {given[1]}; count from 1 to {given[1]}")
        return self
