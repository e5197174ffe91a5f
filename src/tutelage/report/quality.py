"""Blocks of ``report.json`` on the answers of the student: by class, beside its teacher's, and how sure it is of them."""

from __future__ import annotations

from tutelage.report.section import Block


class Difference(Block):
    """By how much a score is above another on the same examples, and its 95 % interval: paired bootstrap over examples."""

    value: float
    low: float | None
    """Null for a single example, of which nothing follows about others."""
    high: float | None
    """Null where ``low`` is."""

    @property
    def ends(self) -> tuple[float, float] | None:
        """The interval, where there is one."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def sign(self) -> int:
        """1 if the interval lies above 0, -1 if it lies below; 0 if it includes 0 or there is none."""
        low, high = self.ends or (0.0, 0.0)
        return int(low > 0) - int(high < 0)


class ClassScores(Block):
    """What a model scores on one class."""

    recall: float
    """Share of the texts of the class that are given it."""
    f1: float


class ClassEntry(Block):
    """One class on the evaluation set."""

    name: str
    support: int
    """Texts of the class. A class without any has no scores."""
    student: ClassScores | None
    """Null without texts of the class."""
    teacher: ClassScores | None
    """Null without a teacher, or without texts of the class."""
    recall_difference: Difference | None
    """Recall of the student minus the teacher's, over the texts of the class. Null without a teacher, or without such texts."""
    lost: int | None = None
    """Texts of the class that are given it by the teacher and not by the student. Null without a teacher."""


class Confusion(Block):
    """Texts of one class that are given another."""

    label: str
    predicted: str
    student: int
    """Number of such texts."""
    teacher: int | None
    """The same of the teacher. Null without a teacher."""


class Disagreement(Block):
    """A text of the evaluation set for which student, teacher and label are not the same."""

    text: str
    text_pair: str | None
    label: str
    student: str
    student_probability: float
    """The student's probability of its class, at temperature 1."""
    teacher: str
    teacher_probability: float


class DisagreementsEntry(Block):
    """Texts on which student and teacher differ, or on which both differ from the label."""

    found: int
    """Number of such texts."""
    listed: list[Disagreement]
    """At most 200. Where they differ: those on which only the teacher is right first, then those on which the student is surest.
    Where both differ from the label: those on which the teacher is surest first."""


class ReliabilityBin(Block):
    """Predictions of about the same confidence (the largest probability)."""

    count: int
    confidence: float
    """Mean."""
    accuracy: float


class CalibrationScores(Block):
    """How far the student's probabilities can be trusted, on the evaluation set."""

    ece: float
    """Expected calibration error: mean distance of accuracy and confidence, over 15 bins of equal width."""
    brier: float
    """Brier score, 0 to 2: squared distance of the probabilities from the label."""
    kl_to_teacher: float | None
    """KL divergence of the student's probabilities from the teacher's (at temperature 1), in nats. Null without a teacher."""
    bins: list[ReliabilityBin]


class CalibrationEntry(Block):
    """The temperature of the student's probabilities."""

    temperature: float | None
    """Divides the logits; it has the lowest cross-entropy on rows that the student was not trained on. Null without such rows,
    beside those of the evaluation set, and where the student is right on all of them: the sharper, the better."""
    texts: int
    """Such rows."""
    source: str | None
    """Where these come from. Null where there are none."""
    before: CalibrationScores
    """At temperature 1."""
    after: CalibrationScores | None
    """At the fitted temperature. Null where there is none."""

    @property
    def unfitted(self) -> str:
        """Why there is no temperature."""
        if not self.texts:
            return "the run kept no labels beside its evaluation set to fit one on"
        return f"it could not be fitted: all {self.texts:,} rows of the validation split are right"
