"""What commands return that write no report: scores, out-of-fold predictions, a store's cost, a corpus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.report.section import Block
from tutelage.report.teachers import Scores

if TYPE_CHECKING:
    from tutelage.data.corpus.reading import Corpus


class Evaluation(Block):
    """Scores of a model on the evaluation set."""

    model: str
    """Folder or hub id."""
    task: str
    metric: str
    """The task's first metric."""
    scores: dict[str, Scores]
    """All metrics, by part of the evaluation set."""
    notes: list[str]
    """What limits the worth of the scores: texts that are cut, texts that the model has learnt."""


class Crossfit(Block):
    """Out-of-fold predictions for a training set."""

    model: str
    """Checkpoint that each fold started from."""
    task: str
    folds: int
    labels: list[str]
    """Classes in the order of the predictions. Empty for regression."""
    accuracy: float | None
    """Accuracy of the predictions. Null for regression."""
    sha256: str
    """Checksum of the predicted logits."""
    examples: int
    """Number of predicted examples."""


class StorePlan(Block):
    """What a store of teacher knowledge would cost and save; operations are floating-point operations."""

    examples: int
    mean_length: float
    """Mean length of an example in tokens."""
    keeps: str
    """What is stored of an example, in words."""
    bytes: int
    """Of all records."""
    bytes_per_example: float
    share_of_these_layers: float
    """Bytes divided by those of whole hidden states, all tokens and neurons, of the same layers."""
    teacher_pass_flops: int
    """Operations of one pass of the teacher over all examples."""
    teacher_flops_per_example: int
    """Operations of the teacher on an example of mean length."""
    student_step_flops_per_example: int
    """Operations of a training step of the student, per example: forward and backward passes."""
    break_even_epochs: float
    """Epochs beside a running teacher that cost as much as writing the store."""
    planned_epochs_beside_the_teacher: float
    """Epochs of the method in which a teacher without a store would run."""
    ideal_speedup_per_step: float
    """Operations of a step with a running teacher divided by those with the store; reading is not counted."""
    ideal_speedup_of_the_run: float
    """The same for a whole run, the writing of the store counted."""
    ideal_speedup_of_the_next_run: float
    """The same for a run that finds the store written."""


class CorpusSummary(Block):
    """What a corpus holds."""

    path: str
    tokens: int
    sentences: int
    documents: int
    tokens_per_document: float
    """Mean number of tokens of a document."""
    bytes: int
    """Size of its files on disk."""
    split: str
    """What a line of the sources was: ``sentences`` (a paragraph of them) or ``lines`` (one sentence)."""
    sources: str
    """Files and data sets that it was built from, with commas between them."""
    tokenizer_fingerprint: str

    def __fspath__(self) -> str:
        """The folder: the result stands for it."""
        return self.path

    @classmethod
    def of(cls, corpus: Corpus) -> CorpusSummary:
        """The summary of a corpus."""
        about = corpus.manifest
        return cls(
            path=corpus.name,
            tokens=about.tokens,
            sentences=about.sentences,
            documents=about.documents,
            tokens_per_document=about.tokens / about.documents,
            bytes=sum(about.bytes.values()),
            split=about.split,
            sources=", ".join(about.sources),
            tokenizer_fingerprint=about.tokenizer_fingerprint,
        )
