"""A method as data: which student, and the stages it goes through. A recipe prints as YAML and is read back from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.anatomy import Head, Trained
from tutelage.data.augmentation.rules import Rules
from tutelage.data.augmentation.variants import Augmentation
from tutelage.data.corpus.packing import Packing
from tutelage.data.masking import Masking
from tutelage.errors import TutelageError, option
from tutelage.fields import Count, Length, Positive, Rate, Weight
from tutelage.mechanisms.mechanism import AnyMechanism
from tutelage.objectives.term import Term
from tutelage.objectives.terms import AnyTerm
from tutelage.report.references import Paper
from tutelage.students.specs import Between, Student, StudentSpec


class Instances(BaseModel):
    """Raw text as training data: instances are drawn from a corpus, other ones in every epoch.

    With ``masking`` the terms on predictions are about the masked tokens; without it, about the next tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    packing: Packing = "pairs"
    """Sentence ``pairs``, single ``segments``, or full ``packed`` inputs."""
    length: Length = 128
    """Longest instance in tokens."""
    masking: Masking | None = None
    """How tokens are masked."""


class Stage(BaseModel):
    """One stretch of training with one objective."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: str
    """The stage's name, by which ``--set stages.NAME.field=value`` finds it."""
    data: Literal["train", "augmented"] | Instances = "train"
    """The training texts: the task's own (``train``), these and the recipe's augmented texts (``augmented``), or instances of a
    corpus."""
    objective: list[AnyTerm]
    """The losses."""
    mechanisms: list[AnyMechanism] = []
    """What the stage does beside its losses."""
    train: Trained = "all"
    """What is trained: all of the student, all but its embeddings, its head alone, or some layers."""
    epochs: Count | Literal["auto"] = 3
    """Passes over the training data; ``auto``: enough for the number of texts (on a task)."""
    max_steps: Count | None = None
    """Optimiser steps after which the stage ends, even within its epochs."""
    lr: Rate | Literal["auto"] = 5e-5
    """Peak learning rate; ``auto``: by the student's width and start (on a task)."""
    optimizer: Literal["adamw", "bert_adam", "adadelta"] = "adamw"
    """``adamw``; ``bert_adam``, as in BERT's code: Adam without bias correction, each tensor's gradient clipped on its own;
    ``adadelta``, whose usual rate is 1."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Decay of the two moments of ``adamw`` and ``bert_adam``."""
    eps: Positive | None = None
    """Term in the denominator of ``adamw`` (default: 1e-8) and ``bert_adam`` (1e-6)."""
    batch_size: Count = 32
    """Examples in an optimiser step, whatever their lengths."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps in which the learning rate rises from zero."""
    decay: Literal["linear", "constant"] = "linear"
    """The learning rate after warm-up: linear to zero, or constant."""
    weight_decay: Weight = 0.01
    """Weight decay of matrices; vectors have none."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a step's gradient; for ``bert_adam`` of each tensor's gradient."""
    dropout: bool = True
    """Whether the student's dropout is on. Off, hidden states are compared as the student computes them later."""
    select: Literal["best", "last"] = "best"
    """Keep the epoch with the best score on the validation split (of equals the later), or the last one. The start of the stage
    counts as epoch 0, if it scores above chance: by more than a standard error over the best constant answer."""
    patience: Count | None = None
    """Epochs in a row below the best score after which the stage ends."""
    max_tokens: Count = 16384
    """Padded tokens computed at once; changes memory and speed, not the result. A term that compares the texts of a step with
    each other ignores it."""
    pad_to: Count | None = None
    """Pad every input to this length, as some reference codes do."""
    fresh: bool = False
    """Begin with a new student; what earlier stages trained served only their mechanisms."""

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        kinds = [term.kind for term in self.objective]
        if len(set(kinds)) != len(kinds) or not kinds:
            raise ValueError(f"stage {self.name!r} needs each term once, and at least one; it has {kinds}")
        mechanisms = [mechanism.kind for mechanism in self.mechanisms]
        if len(set(mechanisms)) != len(mechanisms):
            raise ValueError(f"stage {self.name!r} needs each mechanism once; it has {mechanisms}")
        if self.lr != "auto" and self.lr * self.weight_decay >= 1:
            raise ValueError(
                f"stage {self.name!r} has lr={self.lr:g} and weight_decay={self.weight_decay:g}, and a step would take away "
                f"{self.lr * self.weight_decay:g} of each weight; give less than 1, as lr=5e-5 and weight_decay=0.01"
            )
        if self.on_corpus and "auto" in (self.epochs, self.lr):
            raise ValueError(f"stage {self.name!r} is on a corpus, where epochs and lr are numbers; set both")
        if self.on_corpus and self.select == "best":
            raise ValueError(f"stage {self.name!r} is on a corpus, where the last epoch is kept; set select=last")
        for term in self.objective:
            if term.labels_from is not None and term.labels_from not in mechanisms:
                raise ValueError(
                    f"stage {self.name!r} has the term {term.kind}, whose labels come from the mechanism "
                    f"{term.labels_from}; give it one"
                )
        for mechanism in self.mechanisms:
            mechanism.check(self)
        return self

    @property
    def schedule(self) -> tuple[int, float]:
        """Epochs and peak learning rate, once both are numbers."""
        assert self.epochs != "auto" and self.lr != "auto"
        return self.epochs, self.lr

    @property
    def on_corpus(self) -> bool:
        """Whether the stage trains on raw text."""
        return isinstance(self.data, Instances)

    @property
    def labels_only(self) -> bool:
        """Whether the stage learns from the task's labels alone: it needs no teacher and cannot use unlabelled text."""
        asks = any(mechanism.asks_teacher for mechanism in self.mechanisms)
        return not asks and all(term.teacherless for term in self.objective if term.weight > 0)

    @property
    def needs_labels(self) -> bool:
        """Whether the stage leaves out texts without labels."""
        reads = any(term.labelled_only for term in self.objective if term.weight > 0)
        return self.labels_only or reads or any(mechanism.brings_labels for mechanism in self.mechanisms)

    @property
    def brings_teacher(self) -> bool:
        """Whether a mechanism answers in place of the run's teacher."""
        return any(mechanism.brings_teacher for mechanism in self.mechanisms)

    @property
    def head(self) -> Head:
        """The head that a model needs in a stage on a corpus: a language-model head, where a term reads predictions."""
        assert isinstance(self.data, Instances)
        if not any(term.on_logits for term in self.objective if term.weight > 0):
            return "none"
        return "masked_lm" if self.data.masking else "causal_lm"


class Assistant(BaseModel):
    """A student between teacher and student, which learns from the teacher and then teaches. A student alone stands for one."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    student: Student | None = None
    """Its network and first weights; none: those that the recipe's student has."""
    stages: Annotated[list[Stage], Field(min_length=1)] | None = None
    """What it goes through; none: the recipe's stages."""

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        alone = isinstance(value, StudentSpec) or (isinstance(value, dict) and "init" in value)
        return {"student": value} if alone else value


class Recipe(BaseModel):
    """A method: the student and the stages.

    Stages on a corpus come first. They are a run of their own (the general part, :meth:`part`), once for all tasks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    method: str
    """The method's name."""
    title: str
    """Its name for people."""
    paper: str | Paper | list[Paper]
    """Where it comes from: words, or papers that model cards cite."""
    student: Student
    """Which network learns, and where its first weights come from."""
    assistants: list[Assistant] = []
    """Teacher assistants, from large to small: students each of which teaches the next one (TAKD). They go through the same stages
    as the student, or through stages of their own."""
    augmentation: Annotated[Augmentation | Rules, Field(discriminator="kind")] | None = None
    """How the texts of stages with ``data="augmented"`` are made."""
    longest: Length | None = None
    """Longest input in tokens that the method takes of this task; ``data.max_length`` overrides it."""
    stages: list[Stage]
    """What the student goes through, in order."""

    @model_validator(mode="after")
    def _names_once(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a recipe needs at least one stage and each name once; it has {names}")
        return self

    @model_validator(mode="after")
    def _terms_fit(self) -> Recipe:
        before: list[Term] = []
        for stage in self.stages:
            terms = [term for term in stage.objective if term.weight > 0]
            for term in terms:
                term.check(before, on_corpus=stage.on_corpus)
            before += terms
        return self

    @model_validator(mode="after")
    def _mechanisms_fit(self) -> Recipe:
        if isinstance(self.student, Between):
            raise ValueError(
                "init=between is a teacher assistant's; name the student's own layers, as init=copied,layers=3"
            )
        needed = self.student.needs_mechanism
        for general in (True, False):
            for number, stage in enumerate(stage for stage in self.stages if stage.on_corpus == general):
                kinds = [mechanism.kind for mechanism in stage.mechanisms]
                if number == 0 and needed is not None and needed not in kinds:
                    raise ValueError(
                        f"a student with init={self.student.init} needs the mechanism {needed} in its first stage, "
                        f"{stage.name!r}; give it one"
                    )
                if number and needed is not None and stage.fresh:
                    raise ValueError(
                        f"stage {stage.name!r} begins with a new student, which would need the mechanism {needed}; use another "
                        "student"
                    )
                for mechanism in stage.mechanisms:
                    mechanism.check_student(stage, self.student, first=number == 0)
        return self

    @model_validator(mode="after")
    def _assistants_fit(self) -> Recipe:
        for assistant in self.assistants:
            own = self.of(assistant)
            if own.takes_teachers or self.takes_teachers:
                raise ValueError(
                    "teacher assistants learn from one teacher, and a stage has several; leave out assistants"
                )
            if not isinstance(own.student, Between):  # one that is not known yet
                Recipe.model_validate(dict(own))
        return self

    @property
    def papers(self) -> list[Paper]:
        """Where it comes from, as papers."""
        if isinstance(self.paper, list):
            return self.paper
        return [Paper(text=self.paper) if isinstance(self.paper, str) else self.paper]

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return "; ".join(map(str, self.papers))

    @property
    def begins(self) -> int:
        """The number of the stage with which the final student begins."""
        return max((number for number, stage in enumerate(self.stages) if stage.fresh), default=0)

    @property
    def on_corpus(self) -> bool:
        """Whether all stages train on raw text."""
        return all(stage.on_corpus for stage in self.stages)

    @property
    def needs_teacher(self) -> bool:
        """Whether a stage, or the student's start, needs a teacher."""
        starts_from_it = self.student.needs_mechanism is not None and getattr(self.student, "source", None) is None
        return starts_from_it or any(not stage.labels_only for stage in self.stages)

    @property
    def takes_teachers(self) -> bool:
        """Whether a stage learns from several teachers."""
        return any(mechanism.takes_teachers for stage in self.stages for mechanism in stage.mechanisms)

    @property
    def int8_file(self) -> dict[str, int]:
        """Arguments of :func:`tutelage.serving.quantize` for the file for which the last stage trains the student."""
        mechanisms = self.stages[-1].mechanisms
        return {name: value for mechanism in mechanisms for name, value in mechanism.int8_file().items()}

    def of(self, assistant: Assistant) -> Recipe:
        """What a teacher assistant goes through, as a recipe of its own."""
        student, stages = assistant.student or self.student, assistant.stages or self.stages
        return self.model_copy(update={"student": student, "stages": stages, "assistants": []})

    def for_epochs(self, epochs: int | Literal["auto"]) -> Recipe:
        """The recipe with so many epochs in each stage, those of teacher assistants too.

        Raises:
            ValidationError: for a number that a stage does not take.
        """

        def of(stages: list[Stage]) -> list[Stage]:
            return [Stage.model_validate({**dict(stage), "epochs": epochs}) for stage in stages]

        own = [a if a.stages is None else a.model_copy(update={"stages": of(a.stages)}) for a in self.assistants]
        return self.model_copy(update={"stages": of(self.stages), "assistants": own})

    def part(self, name: Literal["general", "task"]) -> Recipe:
        """The stages on a corpus, or those on a task.

        Raises:
            TutelageError: when there are none.
        """

        def of(stages: list[Stage]) -> list[Stage]:
            return [stage for stage in stages if stage.on_corpus == (name == "general")]

        stages = of(self.stages)
        if not stages:
            where, other = ("a corpus", "task") if name == "general" else ("a task", "general")
            raise TutelageError(f"the method {self.method!r} has no stage on {where}; use {option('stage')} {other}")
        own = [a if a.stages is None else a.model_copy(update={"stages": of(a.stages)}) for a in self.assistants]
        assistants = [assistant for assistant in own if assistant.stages != []]
        return self.model_copy(update={"stages": stages, "assistants": assistants})
