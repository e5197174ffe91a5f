"""What a report says of the teacher: its store, a file of predictions."""

from __future__ import annotations

from typing import TypeAlias

from tutelage.report.section import Block

Scores: TypeAlias = dict[str, float]
"""By metric."""


class StoreEntry(Block):
    """A store of teacher knowledge."""

    path: str
    task: str
    teacher: str
    """Name of the model that wrote the store."""
    teacher_fingerprint: str
    tokenizer_fingerprint: str
    precision: str
    """Precision in which the teacher computed: ``float32``, ``bf16`` or ``fp16``."""
    max_length: int
    """In tokens."""
    examples: int
    tokens: int
    keeps: str
    """What is stored of an example, in words."""
    dtype: str
    bytes: int
    """Of all records."""
    bytes_per_example: float
    shards: int
    dev: list[str]
    """Parts of the evaluation set whose teacher predictions are stored."""

    def __fspath__(self) -> str:
        """The folder: the result stands for it."""
        return self.path


class TeacherEntry(Block):
    """One of several teachers of a task."""

    name: str
    shape: str
    """Layers, width, heads and intermediate size, in words."""
    parameters: int
    """Number of parameters; a tied tensor counts once."""
    scores: dict[str, Scores]
    """By part of the evaluation set; ``held_out`` is the held-out part of train."""


class Agreement(Block):
    """Predictions of a file compared with labels."""

    texts: int
    """Texts that have both."""
    scores: Scores
    constant: Scores
    """The same metrics of the best constant answer."""


class Suspect(Block):
    """A training text on which the student is sure of another class than the file of predictions."""

    text: str
    text_pair: str | None
    predicted: str
    """The file's likeliest class."""
    student: str
    """The student's class."""
    probability: float
    """The student's probability of its class."""
    label: str | None
    """The label of the data. Null where there is none."""


class PredictionsEntry(Block):
    """The file of predictions that the student was trained from."""

    file: str
    form: str
    """What the file says of a text, in words."""
    rows: int
    labelled: int
    """Training texts with a label of their own, before the validation split is taken. 0: the labels of train, and of every part
    that was split off, are the file's likeliest ones."""
    baseline: str
    """What the baseline learns from: ``labels`` or ``likeliest labels``."""
    options: dict[str, str]
    """The settings that were used, in words."""
    counts: dict[str, int]
    """Rows and texts that were not used as they are, by what became of them."""
    agreement: dict[str, Agreement]
    """By part of the data, where it has labels of its own."""
    suspects_found: int | None
    """Number of suspects. Null if texts do not have exactly one class."""
    suspects: list[Suspect]
    """The suspects of which the student is most sure, at most 100."""
