"""How a team of teachers teaches in a stage, as settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Learning(BaseModel):
    """How a stage learns the distribution from which teachers are drawn, on examples that it holds out of training.

    A teacher's reward is the alignment of its loss's gradient with the gradient of the labels' loss on held-out examples,
    ``<g_k, g_v> / ||g_v||``: by how much a step towards this teacher lowers the loss there (one step of look-ahead, in first
    order).

    With ``unseen`` the teachers' gradients are taken on as many other held-out examples, and not on the step's: a student that
    has learnt the step's by heart in earlier epochs is led away from them, to held-out ones, by whoever contradicts them.
    ``calibrated`` takes the labels' loss of logits divided by the temperature (1 or more) at which it is lowest: else a student
    that has become too sure of itself loses less by whoever is unsure. Both are ours.

    ``update="single"`` changes the log-weight of the drawn teacher only, as published: by the advantage of its reward over
    the running mean, in units of the running standard deviation, divided by the probability of the draw; ``reinforce`` is
    the policy gradient of the same reward; ``all`` compares all teachers on the step's examples. ``naive`` adds the reward
    itself, in standard deviations, to whoever is drawn, and shrinks nothing: a control. Most teachers have some reward, so that
    the first to be drawn often wins.

    The cost of an update: one pass forward and back over ``examples`` and two forward over the step's, or with ``unseen`` over
    as many as ``examples``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    update: Literal["single", "reinforce", "all", "naive"] = "single"
    unseen: bool = False
    """Whether teachers are judged on held-out examples, and not on the step's."""
    calibrated: bool = False
    """Whether the labels' loss forgives too much confidence; regression knows none."""
    parameters: Literal["all", "head"] | Annotated[int, Field(ge=1)] = "all"
    """Whose gradients are compared: of all the student, of its so many last layers and its head, or of its head."""
    examples: Annotated[int, Field(ge=1)] = 64
    """Held-out examples for one update."""
    every: Annotated[int, Field(ge=1)] = 1
    """Steps between updates."""
    travel: Annotated[float, Field(gt=0)] = 28.0
    """Rate of the log-weights, times the updates of the stage; 14 to 28 are sensible."""
    shrink: Annotated[float, Field(ge=0)] = 0.6
    """How strongly log-weights are drawn to equality: they settle at the mean advantage divided by this."""
    watch: Annotated[int, Field(ge=0)] = 20
    """Updates at the beginning that only learn what rewards are usual."""
    settled: Annotated[float, Field(ge=0, lt=1)] | None = None
    """What the stage finds is the mean of its log-weights, from this share of its steps on; none takes the last ones."""
    keep: Annotated[float, Field(ge=0)] | None = 0.5
    """At the end of the stage teachers are dropped whose probability is below this share of a uniform team's; none drops
    nobody."""
    handed_on: Literal["proportional", "equal"] = "proportional"
    """How the weight of those that are dropped goes to the others."""


class Team(BaseModel):
    """How a team teaches in a stage.

    ``combine="sample"`` draws one teacher for each optimiser step (or with ``granularity="example"`` for each example) from
    ``weights``. ``average`` mixes all of them by ``weights``: their softened probabilities, or with ``average="logits"``
    their logits. ``discounted`` sums them, each divided by 1 + its own cross-entropy on the example's label (MT-BERT).

    ``weights`` are ``uniform``, by each teacher's rank (``teacher_rank``: by its score on held-out training examples;
    ``student_rank``: by the ``scores`` of students that it alone has taught; the best has the largest weight, in linear
    steps), a number for each teacher, or what an earlier stage has ``found``. ``learning`` lets the stage change them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    combine: Literal["sample", "average", "discounted"] = "sample"
    weights: Literal["uniform", "teacher_rank", "student_rank", "found"] | tuple[Annotated[float, Field(ge=0)], ...] = (
        "uniform"
    )
    granularity: Literal["step", "example"] = "step"
    average: Literal["probabilities", "logits"] = "probabilities"
    scores: tuple[float, ...] | None = None
    resident: Annotated[int, Field(ge=1)] = 2
    """Where hidden states are compared, teachers run: at most so many are on the device at once."""
    learning: Learning | None = None

    @model_validator(mode="after")
    def _can_be(self) -> Team:
        if self.learning is not None and (self.combine != "sample" or self.granularity != "step"):
            raise ValueError("a distribution is learnt where one teacher is drawn at each step; set combine=sample")
        if not isinstance(self.weights, str) and not sum(self.weights) > 0:
            raise ValueError("team.weights are all 0; give at least one teacher a weight")
        if (self.weights == "student_rank") != (self.scores is not None):
            raise ValueError(
                "weights=student_rank goes with scores: of a student of each teacher alone, in their order"
            )
        return self
