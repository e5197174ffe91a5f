"""``cascade.json`` as types: when the student answers and when its teacher is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from tutelage.errors import TutelageError
from tutelage.report.section import Block

CASCADE = "cascade.json"
"""Name of the file in the folder."""


class Rule(Block):
    """When the student answers, and what that gives on the rows that it was chosen on."""

    threshold: float | None
    """The student answers where the probability of its class is above. Null: it never answers."""
    rows: int
    """Rows that the threshold was chosen on."""
    answered: int
    """Rows above the threshold."""
    agreement: float | None
    """Share of these on which the teacher predicts the same class. Null without such rows."""
    bound: float | None
    """Lower bound of the agreement (Clopper-Pearson), at the confidence at which this threshold was tested."""


class Point(Block):
    """One threshold of the coverage curve."""

    threshold: float
    coverage: float
    """Share of the rows that the student answers."""
    agreement: float
    bound: float
    """95 % lower bound of the agreement at this threshold alone."""


class CascadeSuspect(Block):
    """A row that the student answers, and on which the teacher or the label disagrees."""

    text: str
    text_pair: str | None
    label: str
    student: str
    probability: float
    """The student's probability of its class."""
    teacher: str


class CascadeReport(Block):
    """A cascade of a student and its teacher."""

    version: Literal[1] = 1
    tutelage: str
    """Version of the package."""
    student: str | None
    """Absolute path of a folder or of a file, or a hub id. Null for a model in memory."""
    file: str | None
    """The ONNX file that answered. Null for a checkpoint."""
    fingerprint: str
    """Of the student's weights. Another model must not answer by these rules."""
    teacher: str | None
    """As ``student``."""
    source: str
    """Where the rows come from."""
    labels: list[str]
    """In the order of the student's logits."""
    temperature: float
    """Divides the student's logits before they become probabilities."""
    agreement: float
    """The promised rate."""
    confidence: float
    """Of the promise: over draws of the rows it is kept with at least this probability. By class: all classes together."""
    rule: Rule | None
    """The rule for all classes. Null if there is one for each class."""
    classes: dict[str, Rule] = Field(default_factory=dict)
    """The rule for each class that the student predicts. Empty if there is one for all."""
    coverage: float
    """Share of the rows that the student answers: the share of the teacher's calls that are saved."""
    accuracy: dict[str, float]
    """On the rows: of the ``student``, the ``teacher`` and the ``cascade``."""
    curve: list[Point]
    """From few answered rows to all, over all classes."""
    suspects_found: int
    suspects: list[CascadeSuspect]
    """At most 100, the surest first."""
    notes: list[str]

    def is_sure(self, number: int, share: float) -> bool:
        """Whether the student answers with a class, by number, to which it gives a probability of ``share``."""
        rule = self.rule or self.classes.get(self.labels[number])
        return rule is not None and rule.threshold is not None and share > rule.threshold


def load_cascade(folder: Path, fingerprint: Callable[[], str]) -> CascadeReport | None:
    """The cascade beside a student; None without one.

    Args:
        folder: The folder of the student.
        fingerprint: That of its weights.

    Raises:
        TutelageError: the file cannot be read, or was chosen for another student.
    """
    path = folder / CASCADE
    if not path.is_file():
        return None
    try:
        found = CascadeReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise TutelageError(
            f"{str(path)!r} is no cascade of this version of tutelage ({reason}); remove it, and run tutelage cascade again for "
            "a new one"
        ) from None
    if found.fingerprint != fingerprint():
        raise TutelageError(
            f"{str(path)!r} was chosen for another student; remove it, and run tutelage cascade again for a new one"
        )
    return found
