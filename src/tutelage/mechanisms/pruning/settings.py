"""The pruning schedule of a student with compactors, as settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Forgetting(BaseModel):
    """What a stage does beside its loss to a student with ``init=inherited``.

    ``penalty`` says how a masked row vanishes: ``prox`` takes a constant length off it after each step (one of norm 1, as all
    are at first, is exactly 0 after ``forget`` intervals, whatever the optimiser); ``adam_l2`` is the authors' code
    (``strength`` 20), which writes the penalty into Adam's first moment; ``lasso`` is ResRep's (``strength`` 1e-4), on kept
    rows too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    penalty: Literal["prox", "adam_l2", "lasso"] = "prox"
    strength: Annotated[float, Field(gt=0)] | None = None
    """Of ``adam_l2`` and ``lasso``; none takes theirs."""
    selection: Literal["norm", "taylor", "random"] = "norm"
    """Which coordinates go first: those with the smallest rows, those that matter least to the loss by its gradients (the
    sum of ``(row . gradient)^2`` over the steps), or any."""
    scope: Literal["all", "master"] = "all"
    """Whose rows count for ``norm``: all compactors of a group, or one, as in the authors' code."""
    schedule: Literal["even", "reference"] = "even"
    """``even`` masks all groups in ``increments`` equal parts. ``reference`` counts as the authors' code, which cuts the
    residual stream as if it had heads, and these (and heads) in half or twice the time."""
    increments: Annotated[int, Field(ge=1)] = 16
    share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of the stage's steps, after how many everything is masked; 0.02 in the paper's long run."""
    interval: Annotated[int, Field(ge=1)] | None = None
    """Steps between increments, instead of ``share``."""
    forget: Annotated[float, Field(gt=0)] = 2.0
    """Intervals in which a masked row of norm 1 vanishes (``prox``)."""
    weights_lr: Annotated[float, Field(ge=0)] = 0.02
    """Learning rate of the teacher's own weights, in units of the stage's, which is the compactors'."""
