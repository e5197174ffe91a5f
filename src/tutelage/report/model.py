"""``report.json`` as types: what a run measured. The page, the model card and the command line are made from it.

``python -m tutelage.report.model`` prints the JSON schema of both kinds of report. ``schema_version`` rises when a field goes or
changes its meaning; new fields leave it as it is. Numbers are finite; a value that does not exist is null.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from tutelage.errors import TutelageError
from tutelage.report.mechanisms import MechanismEntry
from tutelage.report.quality import CalibrationEntry, ClassEntry, Confusion, Difference, DisagreementsEntry
from tutelage.report.references import Paper
from tutelage.report.section import Block, Section
from tutelage.report.served import Served
from tutelage.report.teachers import PredictionsEntry, Scores, StoreEntry

REPORT = "report.json"
"""Name of the file in the folder of a run."""


def _absent(value: object) -> bool:
    return value is None


class ModelEntry(Block):
    """What a model of the run scores and costs."""

    name: str
    """Folder or hub id. For the baseline: ``without teacher``."""
    score: float
    """The task's first metric on the first part of the evaluation set."""
    scores: dict[str, Scores]
    """All metrics, by part of the evaluation set."""
    parameters: int
    """Number of parameters; a tied tensor counts once."""
    flops: int
    """Floating-point operations of one forward pass of one example of mean length."""
    latency_ms: dict[str, float] | None
    """Median milliseconds of a forward pass, by batch size (``1``, ``32``). Null if only a store of the teacher is present."""
    latency_spread_ms: dict[str, float] | None = None
    """Distance of the quartiles of these milliseconds."""
    bytes: int | None = None
    """Size of the weights on disk. Null for the baseline, which is not saved, and if only a store of the teacher is present."""
    shape: str
    """Layers, width, heads and intermediate size, in words."""


class StudentEntry(ModelEntry):
    """The student, and how it compares with its teacher."""

    bytes: int
    """Size of the weights on disk."""
    agreement: float | None
    """Share of evaluation examples (or tokens) on which student and teacher predict the same class. Null without classes."""
    against_label: float | None = None
    """Share of evaluation examples (or tokens) on which student and teacher agree on a class that is not the label's. Null without
    classes."""
    over_teacher: Difference | None = None
    """Score of the student minus the teacher's. Null without a teacher, and for scores that compare with one."""
    over_baseline: Difference | None = None
    """Score of the student minus the baseline's."""
    module: str | None = Field(default=None, exclude_if=_absent)
    """Module to import before ``transformers`` can load the student. Absent for standard architectures."""
    retention: float | None = Field(default=None, exclude_if=_absent)
    """Score of the student divided by the teacher's. Absent without a teacher, or if the teacher scores 0."""
    speedup: float | None = Field(default=None, exclude_if=_absent)
    """Latency of the teacher divided by the student's, at batch size 32. Absent if the teacher was not timed."""


class Best(Block):
    """The epoch whose weights were kept."""

    epoch: int
    """From 1; 0 if the student was best before training."""
    score: float
    """On the validation split."""


class FirstStep(Block):
    """One term in the first step of a stage."""

    loss: float
    """Weighted loss."""
    gradient: float | None
    """Norm of its gradient over all trained parameters. Null where it overflows the precision."""
    weight: float | None = None
    """What the term was multiplied by. Null where it is not known."""


class Finding(Block):
    """What the numbers of a run say about its settings."""

    kind: str
    """A few words, the same for findings of one kind."""
    text: str
    remedy: str | None
    """The setting that mends it."""


class StageEntry(Block):
    """One stage of training."""

    name: str
    epochs: int
    """Epochs that were trained; early stopping makes them fewer."""
    steps: int
    """Optimiser steps."""
    seconds: float
    """Wall-clock time."""
    best: Best | None
    """Null if the last epoch was kept."""
    losses: dict[str, list[tuple[int, float]]]
    """By term: pairs of step and mean loss since the pair before."""
    scores: list[tuple[int, float]]
    """Pairs of epoch and score on the validation split; epoch 0 is the start of the stage, where that was scored. On a corpus: the
    negative loss on held-out text."""
    tokens: int
    """Tokens the student read, without padding."""
    first_step: dict[str, FirstStep] = Field(default_factory=dict)
    """By term, of stages with several: losses and gradients of some texts before the first update."""


class TaskStage(StageEntry):
    """One stage of training on a task."""

    discarded: bool
    """Whether the next stage began with a new student."""


class InstancesEntry(Block):
    """What a stage on a corpus reads."""

    packing: str
    """``pairs``, ``segments`` or ``packed``."""
    length: int
    """Tokens of an instance, at most."""
    masking: dict[str, Any] | None
    """Settings of masking. Null if the next token is predicted, or nothing."""


class HeldOutLosses(Block):
    """Losses on held-out text, by term (and ``perplexity``, if tokens are predicted)."""

    before: dict[str, float]
    """Before the stage."""
    after: dict[str, float]
    """After the stage."""


class CorpusStage(StageEntry):
    """One stage of training on a corpus."""

    held_out: HeldOutLosses
    data: InstancesEntry


class DataEntry(Block):
    """Numbers of examples, and where they come from."""

    train: int
    """Training examples with a label."""
    unlabeled: int
    """Training examples that only the teacher labels."""
    augmented: int
    """Training examples made by augmentation."""
    held_out: int
    """Training examples that are held out for mechanisms."""
    validation: int
    """Examples of the validation split, which selects checkpoints."""
    evaluation: int
    """Examples of the evaluation set; nothing was chosen by them."""
    classes: dict[str, int] = Field(default_factory=dict)
    """Training examples by class. Empty where answers are no classes."""
    notes: list[str] = Field(default_factory=list)
    """How the user's own files were read, where there was a choice; and the rows that were left out."""
    sources: dict[str, str]
    """By part (``train``, ``unlabeled``, ``validation``, ``evaluation``, and each part of the evaluation set by its name): file,
    data set, or how it was split off."""
    truncated: dict[str, int]
    """Texts that were cut to the maximum length: of ``train``, and of ``evaluation``."""
    mean_length: float
    """Mean tokens of an evaluation example, as the student reads it."""


class MappingEntry(Block):
    """The layers that one term of a stage compares."""

    stage: str
    knowledge: str
    """Kind of the term."""
    pairs: list[tuple[int, int]]
    """Student layer and teacher layer; 0 is the embeddings."""
    teacher: int | None = None
    """Where several teach each step: the number of the teacher, from 1."""
    teacher_layers: int | None = None
    student_layers: int | None = None
    """While the stage trains; a later one may make the student shallower."""


class Trial(Block):
    """A candidate that was measured, and trained for a few steps, before the choice."""

    name: str
    examples: int | None = None
    """Training texts, where the trials differ in them."""
    untrained_loss: float
    """Loss on the held-out texts before the trial."""
    untrained_agreement: float | None = None
    """Agreement with the teacher on the held-out texts before the trial, as ``student.agreement``. Null without a teacher, and
    where answers are numbers."""
    untrained_score: float | None
    """What chooses checkpoints, on the validation split. Null where no score does."""
    trained: bool = True
    """Whether it was trained: of several starts the best untrained ones are."""
    loss: float | None
    """Loss on the held-out texts after the trial. Null if it was not trained, or if it is no number: the training diverged."""
    score: float | None


class Trials(Block):
    """Candidates for one choice; the one with the lowest loss is the best."""

    chosen: str
    """Name of the candidate."""
    steps: int
    """Steps of a trial."""
    texts: int
    """Held-out texts, of the validation split."""
    tried: list[Trial]


class Rise(Block):
    """A stage that was still improving when it ended."""

    stage: str
    epochs: int
    """Epochs that were trained."""
    by: float
    """How much higher than ever before the last epoch scored on the validation split."""


class Coverage(Block):
    """How a trimmed vocabulary reads texts that it was not made of."""

    tokens: float
    """Share of the tokens of the whole vocabulary that are kept pieces, special tokens left out."""
    texts: float
    """Share of the texts (or windows) that are read as with the whole vocabulary."""
    unknown: float
    """Share of unknown tokens."""
    unknown_before: float
    """The same with the whole vocabulary."""


class VocabularyEntry(Block):
    """The part of a tokenizer's vocabulary that the student keeps."""

    kept: int
    """Pieces."""
    of: int
    """Rows of the whole embedding table."""
    parameters: int
    """Parameters of the rows that were removed."""
    bytes: int
    """Their size on disk."""
    held_out: dict[str, Coverage]
    """By part of the data that the vocabulary was not made of."""


class Environment(Block):
    """What the run was computed with."""

    torch: str
    transformers: str
    device: str
    """Type of the torch device."""
    cpu: str | None = Field(default=None, exclude_if=_absent)
    """Model of the CPU. Absent in reports of older versions."""
    gpu: str | None = Field(default=None, exclude_if=_absent)
    """Name of the GPU. Absent on other devices."""
    threads: int
    """CPU threads."""
    precision: str
    """``fp32``, ``bf16`` or ``fp16``."""
    command: str | None = Field(default=None, exclude_if=_absent)
    """The command that made the run, of a resumed run the last one. Absent where it was started from Python."""


class TaskReport(Block):
    """Report of a run on a task."""

    schema_version: Literal[2] = 2
    tutelage: str
    """Version of the package."""
    method: str
    title: str
    """Name of the method, for people."""
    paper: str
    """Where the method comes from, in words."""
    references: list[Paper] = Field(default_factory=list)
    """The same as papers, which the card cites. Empty in reports of older versions."""
    task: str
    kind: str
    """Kind of task, e.g. ``classification``."""
    metric: str
    """The task's first metric."""
    selected_by: list[str] = Field(default_factory=list)
    """Metrics whose mean on the validation split chose the epoch. Empty: ``metric``."""
    chance: Scores = Field(default_factory=dict)
    """All metrics of the best constant answer, for macro F1 of guesses where they score more, on the first part of the evaluation
    set. Empty in reports of older versions."""
    labels: list[str]
    """Class names in the order of the logits; empty for a regression."""
    data: DataEntry
    teacher: ModelEntry | None
    """Null for a run without a teacher. Of several: the one that the student is compared with; with teacher
    assistants, the one that they began with."""
    assistants: list[StudentEntry] = Field(default_factory=list)
    """The teacher assistants, from the first teacher to the student: each learnt from the one before."""
    student: StudentEntry
    baseline: ModelEntry | None
    """The same student without distillation. Null if it was not trained."""
    classes: list[ClassEntry] = Field(default_factory=list)
    """The classes on the first part of the evaluation set: the worst regressions first, those without texts last. Empty where texts
    have no classes."""
    confusions: list[Confusion] = Field(default_factory=list)
    """The student's most frequent errors there, at most 100. Empty where texts do not have exactly one class."""
    disagreements: DisagreementsEntry | None = None
    """Where student and teacher differ. Null without a teacher, and where texts do not have exactly one class."""
    doubtful: DisagreementsEntry | None = None
    """Where they agree against the label. Null as ``disagreements``."""
    calibration: CalibrationEntry | None = None
    """Null where texts do not have exactly one class."""
    predictions: PredictionsEntry | None = None
    """Null unless a file of predictions was the teacher."""
    store: StoreEntry | None
    mapping: list[MappingEntry]
    teacher_layers: int | None
    student_layers: int
    vocabulary: VocabularyEntry | None = None
    """Null unless the student has a trimmed vocabulary."""
    served: Served | None = None
    """The models in ONNX and int8. Null if they were not measured in these forms."""
    stages: list[TaskStage]
    """In order; the baseline's stage is the last."""
    mechanisms: dict[str, MechanismEntry] = Field(default_factory=dict)
    """What the mechanisms of the stages say, by kind."""
    start: Trials | None = None
    """Starts that were tried: the teacher's layers (from 1) that the student is made of. Null if there was no choice."""
    rates: Trials | None = None
    """Peak learning rates that were tried for the student. Null if the recipe names the rate."""
    twin_rates: Trials | None = None
    """Peak learning rates that were tried for the baseline."""
    half: Trials | None = None
    """Half of the training texts, and all of them. Null where they are not few."""
    teacher_rise: Rise | None = None
    """The last stage of the run that made the teacher, if it was still improving. Null of a teacher that lies in the folder of no
    run."""
    findings: list[Finding] = Field(default_factory=list)
    """What the numbers say about the settings."""
    warnings: list[str]
    environment: Environment
    origins: dict[str, str] = Field(default_factory=dict)
    """What the run learnt from, by name: fingerprints of the texts with their labels, of the teacher (of its weights and of its
    tokenizer) and of further files. Empty in reports of older versions."""
    seed: int
    sections: list[Section] = Field(default_factory=list)
    """Further sections of the page, from mechanisms."""
    seconds: float
    """Wall-clock time of the whole run, resumed parts included."""


class CorpusModel(Block):
    """A model of a run on a corpus."""

    name: str
    """Folder or hub id."""
    shape: str
    """Layers, width, heads and intermediate size, in words."""
    parameters: int
    bytes: int | None = None
    """Size of the weights on disk. Null in reports of older versions."""


class CorpusStudent(CorpusModel):
    """The student of a run on a corpus."""

    bytes: int
    """Size of the weights on disk."""


class CorpusEntry(Block):
    """The corpus."""

    path: str
    sources: list[str]
    """Files and data sets it was built from."""
    tokens: int
    documents: int


class CorpusReport(Block):
    """Report of a run on a corpus: general distillation, or pretraining."""

    schema_version: Literal[2] = 2
    tutelage: str
    """Version of the package."""
    general: Literal[True] = True
    """Tells the two kinds of report apart."""
    method: str
    title: str
    """Name of the method, for people."""
    paper: str
    """Where the method comes from, in words."""
    references: list[Paper] = Field(default_factory=list)
    """The same as papers, which the card cites. Empty in reports of older versions."""
    predicts: str
    """The student's head: ``masked_lm`` (masked tokens), ``causal_lm`` or ``none``."""
    held_out: int
    """Instances on which the losses before and after each stage are measured."""
    corpus: CorpusEntry
    teacher: CorpusModel | None
    """Null for pretraining."""
    student: CorpusStudent
    stages: list[CorpusStage]
    projections: bool = False
    """Whether the run saved projections, which a run on a task goes on with."""
    mechanisms: dict[str, MechanismEntry] = Field(default_factory=dict)
    """What the mechanisms of the stages say, by kind."""
    environment: Environment
    origins: dict[str, str] = Field(default_factory=dict)
    """What the run learnt from, by name: fingerprints of the texts with their labels, of the teacher (of its weights and of its
    tokenizer) and of further files. Empty in reports of older versions."""
    seed: int
    sections: list[Section] = Field(default_factory=list)
    """Further sections of the page, from mechanisms."""
    seconds: float
    """Wall-clock time of the whole run, resumed parts included."""


Report: TypeAlias = TaskReport | CorpusReport


def load_report(folder: Path | str) -> Report:
    """The report of a finished run, from its folder.

    Raises:
        TutelageError: if the folder has no report, or the file is damaged or not a report of this version.
    """
    path = Path(folder) / REPORT
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TutelageError(f"{str(folder)!r} holds no {REPORT}; name the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise TutelageError(f"{str(path)!r} cannot be read ({error}); repeat the run") from None
    kind = CorpusReport if isinstance(tree, dict) and tree.get("general") else TaskReport
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise TutelageError(
            f"{str(path)!r} is not a report of this version of tutelage ({place}: {first['msg']}); repeat the run"
        ) from None


def schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``, by kind of run."""
    return {"task": TaskReport.model_json_schema(), "corpus": CorpusReport.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
