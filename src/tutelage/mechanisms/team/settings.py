"""A team of teachers and how its sampling weights are learned, as settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tutelage.errors import TutelageError, option
from tutelage.fields import MOST, Count, Positive, Size, Weight
from tutelage.mechanisms.mechanism import Mechanism, StageLike

if TYPE_CHECKING:
    from tutelage.anatomy import Head
    from tutelage.mechanisms.hook import Hook
    from tutelage.mechanisms.scene import Scene, StageScene
    from tutelage.mechanisms.team.teacher import TeamTeacher
    from tutelage.mechanisms.team.weights import Members
    from tutelage.report.mechanisms import MechanismEntry
    from tutelage.report.section import Section
    from tutelage.teachers.source import Source
    from tutelage.teachers.teacher import Teacher


class Learning(BaseModel):
    """How a stage learns the distribution that teachers are sampled from, on held-out training examples.

    A teacher's reward is the alignment of its loss's gradient with the gradient of the labels' loss on held-out examples,
    ``<g_k, g_v> / ||g_v||``: how much a step towards this teacher lowers that loss, to first order.

    The cost of an update: one pass forward and backward over ``examples`` and two forward over the step's examples, or with
    ``unseen`` over as many as ``examples``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    update: Literal["single", "reinforce", "all", "naive"] = "single"
    """``single`` changes the log-weight of the sampled teacher only, as published: by the advantage of its reward over the
    running mean, in running standard deviations, divided by the probability of the sample. ``reinforce`` is the policy
    gradient of the same reward. ``all`` compares all teachers on the step's examples. ``naive`` is a control: it adds the reward
    itself to the sampled teacher and shrinks nothing, so that the first teachers sampled often win."""
    unseen: bool = False
    """Compute the teachers' gradients on further held-out examples instead of the step's. If the student has memorised the
    batch, it rewards the teacher that disagrees most; held-out examples avoid this. Ours."""
    calibrated: bool = False
    """Divide logits by the temperature (1 or more) that fits the held-out labels best before the labels' loss is computed. An
    overconfident student otherwise rewards unsure teachers. Regression has no temperature. Ours."""
    parameters: Literal["all", "head"] | Size = "all"
    """Parameters whose gradients are compared: the whole student, its head, or this many last layers and the head."""
    examples: Count = 64
    """Held-out examples for one update."""
    every: Count = 1
    """Steps between updates."""
    travel: Positive = 28.0
    """Learning rate of the log-weights times the number of updates of the stage; 14 to 28 are sensible."""
    shrink: Weight = 0.6
    """Strength of the pull towards equal log-weights; they settle at the mean advantage divided by this."""
    watch: Annotated[int, Field(ge=0, le=MOST)] = 20
    """Updates at the beginning that only estimate the mean and deviation of rewards."""
    settled: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the stage's steps after which log-weights are averaged; the average is the result. Default: the last ones."""
    keep: Weight | None = 0.5
    """At the end of the stage, drop teachers whose probability is below this share of a uniform team's. None drops none."""
    top_m: Count | None = None
    """At the end of the stage, keep this many teachers, the most probable, in place of those above ``keep``."""
    handed_on: Literal["proportional", "equal"] = "proportional"
    """How the weight of dropped teachers is divided among the others."""


class Team(Mechanism):
    """Several teachers teach a stage. ``RunConfig.teachers`` names them."""

    brings_teacher = True
    takes_teachers = True

    kind: Literal["team"] = "team"
    combine: Literal["sample", "average", "discounted"] = "sample"
    """``sample`` draws one teacher from ``weights`` for each optimiser step (or each example). ``average`` mixes all teachers by
    ``weights``. ``discounted`` sums them, each divided by 1 + its own cross-entropy on the example's label (MT-BERT). Where all
    teach, a loss on layers is the weighted mean, or the sum, of the losses against each teacher that reads the student's tokens."""
    weights: Literal["uniform", "teacher_rank", "student_rank", "score_softmax", "found"] | tuple[Weight, ...] = (
        "uniform"
    )
    """``uniform``; linear in each teacher's rank (``teacher_rank``: by its score on held-out training examples;
    ``student_rank``: by ``scores``); ``score_softmax``: proportional to ``exp(beta * score)``, of ``scores`` if given, else of
    the teachers' own; a number for each teacher; or ``found``, what an earlier stage has learned."""
    beta: Positive = 20.0
    """For ``score_softmax``: with 20, a score higher by 0.05 has e times the weight."""
    granularity: Literal["step", "example"] = "step"
    """Sample one teacher for each optimiser step, or for each example."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """Average softened probabilities, or logits."""
    scores: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] | None = None
    """For ``student_rank`` and ``score_softmax``: the score of a student distilled from each teacher alone, in the order of the
    teachers."""
    resident: Count = 2
    """For ``sample``: number of teachers on the device at once, if hidden states are compared (then teachers run)."""
    learning: Learning | None = None
    """Learn the sampling weights during the stage."""

    @model_validator(mode="after")
    def _consistent(self) -> Team:
        if self.learning is not None and (self.combine != "sample" or self.granularity != "step"):
            raise ValueError("learning sampling weights needs one sampled teacher per step; set combine=sample")
        if not isinstance(self.weights, str) and not sum(self.weights) > 0:
            raise ValueError("team.weights are all 0; give at least one teacher a weight")
        if self.weights == "student_rank" and self.scores is None:
            raise ValueError("weights=student_rank needs scores, one for each teacher")
        if self.scores is not None and self.weights not in ("student_rank", "score_softmax"):
            raise ValueError("team.scores need weights=student_rank or weights=score_softmax")
        return self

    @property
    def judges(self) -> bool:
        """Whether the weights at the start follow from the teachers' own scores on held-out training examples."""
        return self.weights == "teacher_rank" or (self.weights == "score_softmax" and self.scores is None)

    def trains_without_held_out(self) -> bool:
        return self.learning is not None

    def check(self, stage: StageLike) -> None:
        name = f"stage {stage.name!r}"
        if stage.on_corpus or stage.labels_only or any(m.brings_labels for m in stage.mechanisms):
            raise ValueError(
                f"{name} has a team, but no term that learns from a teacher's predictions or layers; leave out team"
            )
        terms = [term for term in stage.objective if term.weight > 0]
        kinds = [term.kind for term in terms]
        mixed = self.combine == "sample" and self.granularity == "example"
        if mixed and any(not term.on_logits for term in terms):
            raise ValueError(
                f"{name} compares layers, which examples of a step take from one teacher; set granularity=step"
            )
        if self.combine == "discounted" and "soft_labels" not in kinds:
            raise ValueError(f"{name} discounts soft labels, but its objective has none; use combine=average")
        if self.combine != "sample" and {"soft_labels", "logits_mse"} <= set(kinds):
            raise ValueError(
                f"{name} has soft_labels and logits_mse, for which teachers are mixed differently; leave out one of them"
            )
        if self.learning is None:
            return
        if any(m is not self for m in stage.mechanisms):
            raise ValueError(f"{name} learns sampling weights, which excludes other mechanisms; leave them out")
        if any(not term.on_logits for term in terms) or len({"soft_labels", "logits_mse"} & set(kinds)) != 1:
            raise ValueError(
                f"{name} learns sampling weights from predictions; give it only soft_labels (or logits_mse) and hard_labels"
            )
        if stage.data != "train" or stage.select == "best":
            raise ValueError(f"{name} learns sampling weights, which needs data=train and select=last; set both")

    def expanded(self, teachers: tuple[str, ...]) -> tuple[str, ...]:
        from tutelage.mechanisms.team.folders import members_in

        if not teachers:
            raise TutelageError(
                "a team stage learns from several teachers; use "
                "`tutelage distill --team FOLDER` (`tutelage team train` makes one)"
            )
        return members_in(teachers)

    def lead(self, teachers: tuple[str, ...]) -> str | None:
        from tutelage.mechanisms.team.folders import is_store

        return str(Path(teachers[0]) / "teacher") if is_store(teachers[0]) else teachers[0]

    def together(self, teachers: tuple[str, ...], head: Head) -> list[Source]:
        from tutelage.mechanisms.team.members import source_of

        return [] if self.combine == "sample" else [source_of(name, head) for name in teachers]

    def prepare(self, scene: Scene, stage: StageScene) -> None:
        from tutelage.mechanisms.team.members import gather

        if self.kind not in scene.shared:
            scene.shared[self.kind] = gather(scene)

    def about(self, scene: Scene) -> list[str]:
        assert scene.task is not None
        members: Members = scene.shared[self.kind]
        lines = members.lines(scene.task.data.metrics[0], next(iter(scene.task.dev)))
        return [f"team     {line}" for line in lines]

    def plan(self, scene: Scene, stage: StageScene, steps: int) -> list[str]:
        if (how := self.learning) is None:
            return []
        count = len(scene.shared[self.kind].names)
        updates = -(-steps // how.every)
        held = how.examples / stage.stage.batch_size
        cost = (3 * held + 2 * (held if how.unseen else 1)) / how.every
        lines = [
            f"  {updates:,} updates of the sampling weights; learning them makes a step about {1 + cost / 3:.1f}x slower (not in "
            "the time below)"
        ]
        if updates < 100 * count:
            lines.append(
                f"note: {updates:,} updates are few for {count} teachers, and the weights may be noise; take {100 * count:,} or "
                f"more ({option('settings')} stages.{stage.stage.name}.max_steps={100 * count * how.every})"
            )
        if all(not term.teacherless for term in stage.stage.objective if term.weight > 0):
            lines.append(
                f"note: stage {stage.stage.name} has no labels in its objective; if many teachers are bad, its student cannot "
                f"identify them"
            )
        return lines

    def teacher(self, scene: Scene, stage: StageScene) -> TeamTeacher:
        from tutelage.mechanisms.team.members import team_teacher

        return team_teacher(self, scene, stage)

    def hook(self, scene: Scene, stage: StageScene, teacher: Teacher | None) -> Hook | None:
        from tutelage.mechanisms.team.members import weigher

        return None if self.learning is None else weigher(self.learning, scene, stage, cast("TeamTeacher", teacher))

    def report(self, scene: Scene) -> MechanismEntry:
        from tutelage.mechanisms.team.members import summary
        from tutelage.mechanisms.team.report import entry

        return entry(summary(scene))

    def sections(self, scene: Scene) -> list[Section]:
        from tutelage.mechanisms.team.members import summary
        from tutelage.mechanisms.team.report import section

        assert scene.task is not None and scene.task.held is not None
        return [section(summary(scene), scene.task.data.metrics[0], len(scene.task.held.examples))]

    def warnings(self, folder: Path) -> list[str]:
        from tutelage.mechanisms.team.members import doubts

        return doubts(folder)
