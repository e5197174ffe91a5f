"""A method as data: which student, and the stages it goes through. A recipe prints as YAML and is read back from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.anatomy import Head
from tutelage.data.augmentation.rules import Rules
from tutelage.data.augmentation.variants import Augmentation
from tutelage.data.corpus.packing import Packing
from tutelage.data.masking import Masking
from tutelage.errors import TutelageError
from tutelage.mechanisms.pruning.settings import Forgetting
from tutelage.mechanisms.ptp import Verdicts
from tutelage.mechanisms.team.settings import Team
from tutelage.objectives.predictions import HardLabels
from tutelage.objectives.terms import AnyTerm
from tutelage.students.specs import Inherited, Student


class Instances(BaseModel):
    """Text without a task, drawn from a corpus anew in every epoch.

    ``packing`` makes sentence ``pairs``, single ``segments`` or full ``packed`` inputs of at most ``length`` tokens. With
    ``masking`` the terms on predictions are about the masked words; without it, about the next words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    packing: Packing = "pairs"
    length: Annotated[int, Field(ge=8)] = 128
    masking: Masking | None = None


class Stage(BaseModel):
    """One stretch of training with one objective.

    ``data`` says on which texts: the task's own (``train``), these and the recipe's augmented ones (``augmented``), or
    instances of a corpus. ``train="head"`` leaves everything below the head as it is.

    ``batch_size`` is the number of examples in an optimiser step, whatever their lengths; ``max_tokens`` bounds how many
    padded tokens are computed at once and changes nothing else. ``select="best"`` keeps the epoch with the best score on
    the selection data, ``last`` the last one; ``patience`` stops after so many epochs without a better one. ``pad_to``
    pads every input to a fixed length, as some reference codes do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    data: Literal["train", "augmented"] | Instances = "train"
    objective: list[AnyTerm]
    train: Literal["all", "head"] = "all"
    epochs: Annotated[int, Field(ge=1)] = 3
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """End after so many optimiser steps, even within the epochs."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    batch_size: Annotated[int, Field(ge=1)] = 32
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    decay: Literal["linear", "constant"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0
    select: Literal["best", "last"] = "best"
    patience: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 16384
    pad_to: Annotated[int, Field(ge=1)] | None = None
    verdicts: Verdicts | None = None
    """How the labels of the term ``verdict`` are made, which a stage learns alone."""
    forgetting: Forgetting | None = None
    """How a student with compactors loses its widths in this stage, at the end of which they are multiplied out."""
    team: Team | None = None
    """How a team of teachers teaches in this stage; none is for one teacher."""
    fresh: bool = False
    """Begin with a new student: what earlier stages have made of it was for finding out about the team."""

    @model_validator(mode="after")
    def _terms_once(self) -> Stage:
        kinds = [term.kind for term in self.objective]
        if len(set(kinds)) != len(kinds) or not kinds:
            raise ValueError(f"stage {self.name!r} needs each term once, and at least one; it has {kinds}")
        if isinstance(self.data, Instances) and self.select == "best":
            raise ValueError(f"stage {self.name!r} is on a corpus, where the last epoch is kept; set select=last")
        if (self.verdicts is not None) != (kinds == ["verdict"]):
            raise ValueError(
                f"stage {self.name!r} needs verdicts and the term verdict alone, or neither; it has {kinds}"
            )
        if self.verdicts is not None and (self.select == "best" or isinstance(self.data, Instances)):
            raise ValueError(
                f"stage {self.name!r} on verdicts is about a task and keeps its last epoch; set select=last"
            )
        if self.forgetting is not None:
            if self.select == "best":
                raise ValueError(f"stage {self.name!r} forgets, and is the student only at its end; set select=last")
            if self.patience is not None:
                raise ValueError(f"stage {self.name!r} forgets, which takes all of its steps; leave out patience")
            others = [kind for kind in kinds if kind not in PREDICTIONS]
            if others or self.train != "all":
                raise ValueError(
                    f"stage {self.name!r} forgets and learns from predictions alone; leave out {', '.join(others) or 'train=head'}"
                )
        return self

    @model_validator(mode="after")
    def _team_fits(self) -> Stage:
        if self.team is None:
            return self
        if isinstance(self.data, Instances) or self.labels_only or self.verdicts is not None:
            raise ValueError(f"stage {self.name!r} has a team, but nothing to learn from one; leave out team")
        kinds = [term.kind for term in self.objective if term.weight > 0]
        one = self.team.combine == "sample" and self.team.granularity == "step"
        if not one and any(kind not in PREDICTIONS for kind in kinds):
            raise ValueError(
                f"stage {self.name!r} compares layers, which only one teacher a step can teach; set combine=sample"
            )
        if self.team.combine == "discounted" and "soft_labels" not in kinds:
            raise ValueError(f"stage {self.name!r} discounts soft labels, of which it has none; use combine=average")
        if self.team.combine != "sample" and {"soft_labels", "logits_mse"} <= set(kinds):
            raise ValueError(
                f"stage {self.name!r} mixes its teachers for soft_labels and for logits_mse, which are not mixed alike; leave out "
                "one of them"
            )
        if self.team.learning is None:
            return self
        if self.forgetting is not None:
            raise ValueError(f"stage {self.name!r} forgets and learns about a team; do one of them")
        if any(kind not in PREDICTIONS for kind in kinds) or len({"soft_labels", "logits_mse"} & set(kinds)) != 1:
            raise ValueError(
                f"stage {self.name!r} learns which teachers help by their predictions; give it soft_labels (or logits_mse) and "
                "hard_labels alone"
            )
        if self.data != "train" or self.select == "best":
            raise ValueError(
                f"stage {self.name!r} learns about its team on train, to its end; set data=train, select=last"
            )
        return self

    @property
    def labels_only(self) -> bool:
        """Whether the stage learns from labels alone: no teacher, and no use for unlabelled text."""
        return all(isinstance(term, HardLabels) for term in self.objective if term.weight > 0)

    @property
    def head(self) -> Head:
        """What a model answers in a stage on a corpus: words, where a term is about predictions."""
        assert isinstance(self.data, Instances)
        if all(term.kind not in PREDICTIONS for term in self.objective if term.weight > 0):
            return "none"
        return "words" if self.data.masking else "next_words"


PREDICTIONS = ("hard_labels", "soft_labels", "logits_mse")
"""The terms that are about what a model predicts."""


class Recipe(BaseModel):
    """A method: the student and the stages; ``title`` and ``paper`` say where it comes from.

    Stages on a corpus come first: they are run on their own (the general part, :meth:`part`), once for all tasks.
    ``augmentation`` says how the texts of stages with ``data="augmented"`` are made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    title: str
    paper: str
    student: Student
    augmentation: Annotated[Augmentation | Rules, Field(discriminator="kind")] | None = None
    longest: Annotated[int, Field(ge=8)] | None = None
    """Longest input in tokens that the method takes of this task, unless ``data.max_length`` says otherwise."""
    stages: list[Stage]

    @model_validator(mode="after")
    def _names_once(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a recipe needs at least one stage and each name once; it has {names}")
        return self

    @model_validator(mode="after")
    def _forgets_first(self) -> Recipe:
        for general in (True, False):
            part = [stage for stage in self.stages if isinstance(stage.data, Instances) == general]
            for number, stage in enumerate(part):
                wanted = isinstance(self.student, Inherited) and number == 0
                if wanted and stage.forgetting is None:
                    raise ValueError(
                        f"a student with init=inherited has compactors, which stage {stage.name!r} must let go; give it "
                        "forgetting"
                    )
                if not wanted and stage.forgetting is not None:
                    raise ValueError(
                        f"stage {stage.name!r} has forgetting, which is for the first stage of a student with "
                        "init=inherited; give one (init=inherited,hidden=...), or take another method for this student"
                    )
                if isinstance(self.student, Inherited) and stage.fresh and number:
                    raise ValueError(
                        f"stage {stage.name!r} begins with a new student, whose compactors would stay; use another"
                    )
        return self

    @property
    def begins(self) -> int:
        """The number of the stage with which the student begins that is kept."""
        return max((number for number, stage in enumerate(self.stages) if stage.fresh), default=0)

    @property
    def needs_teacher(self) -> bool:
        inherits = isinstance(self.student, Inherited) and self.student.source is None
        return inherits or any(not stage.labels_only for stage in self.stages)

    def part(self, name: Literal["general", "task"]) -> Recipe:
        """The stages on a corpus, or those on a task.

        Raises:
            TutelageError: when there are none.
        """
        stages = [stage for stage in self.stages if isinstance(stage.data, Instances) == (name == "general")]
        if not stages:
            where = "a corpus" if name == "general" else "a task"
            raise TutelageError(f"the method {self.method!r} has no stage on {where}; use --stage {_other(name)}")
        return self.model_copy(update={"stages": stages})


def _other(name: Literal["general", "task"]) -> str:
    return "task" if name == "general" else "general"
