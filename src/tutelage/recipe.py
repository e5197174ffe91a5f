"""A method as data: which student, and the stages it goes through. A recipe prints as YAML and is read back from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.objectives.terms import AnyTerm, HardLabels
from tutelage.students.build import Student


class Stage(BaseModel):
    """One stretch of training with one objective.

    ``batch_size`` is the number of examples in an optimiser step, whatever their lengths; ``max_tokens`` bounds how many
    padded tokens are computed at once and changes nothing else. ``select="best"`` keeps the epoch with the best score on
    the selection data, ``last`` the last one; ``patience`` stops after so many epochs without a better one. ``pad_to``
    pads every input to a fixed length, as some reference codes do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    objective: list[AnyTerm]
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

    @model_validator(mode="after")
    def _terms_once(self) -> Stage:
        kinds = [term.kind for term in self.objective]
        if len(set(kinds)) != len(kinds) or not kinds:
            raise ValueError(f"stage {self.name!r} needs each term once, and at least one; it has {kinds}")
        return self

    @property
    def labels_only(self) -> bool:
        """Whether the stage learns from labels alone: no teacher, and no use for unlabelled text."""
        return all(isinstance(term, HardLabels) for term in self.objective if term.weight > 0)


class Recipe(BaseModel):
    """A method: the student and the stages; ``title`` and ``paper`` say where it comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    title: str
    paper: str
    student: Student
    stages: list[Stage]

    @model_validator(mode="after")
    def _names_once(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a recipe needs at least one stage and each name once; it has {names}")
        return self

    @property
    def needs_teacher(self) -> bool:
        return any(not stage.labels_only for stage in self.stages)


def method_row(recipe: Recipe) -> dict[str, Any]:
    """What a recipe uses, for the table of methods: computed from the recipe, never typed.

    Keys: ``method``, ``init``, and for each stage the knowledge (``embeddings``, ``attention``, ``hidden``,
    ``predictions``, ``labels``) with the loss that compares it, and ``augmentation`` (no recipe has any so far).
    """
    student = recipe.student
    init = {"fresh": "random"}.get(student.init, student.init)
    if student.init == "copied" and isinstance(student.layers, int):
        init += f", {student.choose}"
    columns = {
        "embeddings": ("embeddings",),
        "attention": ("attention_scores",),
        "hidden": ("hidden", "first_token", "hidden_knowledge"),
        "predictions": ("soft_labels", "logits_mse"),
        "labels": ("hard_labels",),
    }
    stages = []
    for stage in recipe.stages:
        row = {"stage": stage.name}
        for column, kinds in columns.items():
            row[column] = ", ".join(_words(term) for term in stage.objective if term.kind in kinds and term.weight > 0)
        row["augmentation"] = ""
        stages.append(row)
    return {"method": recipe.method, "title": recipe.title, "paper": recipe.paper, "init": init, "stages": stages}


def _words(term: AnyTerm) -> str:
    if term.kind == "hard_labels":
        return "CE"
    if term.kind == "soft_labels":
        return f"KL, T={term.temperature:g}"
    if term.kind == "first_token":
        return f"MSE of [CLS], {term.layers}"
    if term.kind == "hidden":
        return f"{'cosine' if term.loss == 'cosine' else 'MSE'}, {term.layers}"
    if term.kind == "hidden_knowledge":
        return f"MSE, {term.keep}, {term.neurons_by}"
    if term.kind == "attention_scores":
        return f"MSE of scores, {term.layers}"
    return "MSE"
