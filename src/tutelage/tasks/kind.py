"""What the rest of the program asks of a kind of task.

A kind is one subclass of :class:`Kind` in a file of its own: what a model must answer, how texts become token ids, what the labels
mean to a model's configuration, how answers are scored, which losses they have. Everything above asks the object; nothing compares
its name. A kind with one answer for each text starts from :class:`TextKind`.

What follows from the form of the labels alone (which are known, how a split keeps their proportions, how classes are renumbered)
is in ``data/labels.py``. A new kind stores its labels in one of the forms there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tutelage.anatomy import Head
from tutelage.data.alignment import Place
from tutelage.data.batches import Batch
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples, Rows, encode, token_places
from tutelage.data.labels import Labels, class_counts, in_list, label_names, listed, places_of, unnamed
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError, option
from tutelage.evaluation.intervals import Metric
from tutelage.objectives import losses
from tutelage.objectives.losses import Count, SoftLossOptions
from tutelage.tasks.metrics import standard_error, value_of
from tutelage.tasks.prediction_columns import PredictionColumns
from tutelage.tasks.prediction_forms import PredictedValues, Values, classes_in
from tutelage.tasks.reply import MOST, Reply, by_share

LEAST = 1e-8
"""The smallest probability of a prediction from a file: a logarithm needs one. At temperature 2 it is still 1e-4."""


class Kind(ABC):
    """One kind of task. Its methods depend on their arguments alone, so one object serves every run.

    Shapes: ``logits`` are ``(answers, outputs)``, one row per prediction, as ``Encoded.logit_rows`` counts them.
    """

    name: str
    """As in ``DataConfig.kind``, ``Data.kind`` and reports."""
    head: Head
    """What a model must answer."""
    pipeline: str = "text-classification"
    """The Hub's name for such tasks."""
    library: str = "transformers"
    """The Hub's name for the library that loads the student."""
    unit: str = "texts"
    """The plural noun for examples, in messages."""
    served_as: Literal["class", "classes", "number", "tags", "span", "vector"] = "class"
    """How the script in an exported folder reads the outputs."""

    own_columns: bool = False
    """Whether its reader knows the columns of tables by names of its own. A table in memory is then written with all of them."""
    per_text: bool = False
    """Whether each text has one row of logits. Only then can a store keep teacher predictions, can a team give each example its own
    teacher, and can the predictions of a team's teachers be compared text by text."""
    single_label: bool = False
    """Whether each answer is exactly one of the task's classes. Then student and teacher can agree, and errors of a teacher count
    against its weight (``combine=discounted``)."""
    several: bool = False
    """Whether an answer may be any number of the task's classes."""
    named: bool = True
    """Whether the outputs are the task's classes, matched by name between models."""
    fixed_outputs: bool = True
    """Whether all answers have the same outputs. A span is chosen among the tokens of its own text."""
    probabilities: bool = True
    """Whether logits stand for probabilities, so that a temperature softens them."""
    problem_type: str | None = None
    """What the configuration of such a model says in its field of this name; ``None`` where it says nothing of this kind."""
    ptp: bool = False
    """Whether a teacher's prediction of a text can be called right and confident (PTP labels and cross-fitting)."""
    learns_labels: bool = True
    """Whether the data has labels to learn. Without them terms on labels are left out, no checkpoint is selected by score, and the
    baseline is the student before training."""
    metric_words: Mapping[str, str] = MappingProxyType({})
    """Names of metrics for people, where they are not the metric's name with spaces."""
    against_teacher: tuple[str, ...] = ()
    """Metrics that compare with the teacher's outputs, of which a student keeps no share."""
    takes_unlabelled: bool = False
    """Whether a file of texts alone can be more to learn from, with the teacher's predictions as labels."""
    answers_in_pair: bool = False
    """Whether answers are places in the second text, which must then stay as it is."""

    @property
    def classifies_texts(self) -> bool:
        """Whether each text has exactly one class."""
        return self.per_text and self.single_label

    def describes(self, config: Any) -> bool:
        """Whether a model with this kind's head and this configuration answers such a task; if not overridden, it does."""
        return True

    # ------------------------------------------------------------------------------------------------------------- data

    def read(self, train: Path, dev: Path | None, config: DataConfig) -> Data | None:
        """The user's own files in a format of this kind (``config`` names columns); ``None`` where they are tables of texts and
        labels."""
        return None

    def longest(self, limit: int) -> int:
        """Default length of the longest input in tokens, for models that take ``limit``."""
        return limit

    def encode(self, examples: Examples, tokenizer: Any, max_length: int, stride: int | None = None) -> Encoded:
        """Examples as token ids, with the tokens to predict; ``stride`` is ``DataConfig.stride``."""
        return encode(examples, tokenizer, max_length)

    def places(self, examples: Examples, tokenizer: Any, max_length: int) -> Iterator[list[Place]]:
        """For each example, where the tokens of :meth:`encode` stand in it. Only where an example is one row."""
        return token_places(examples, tokenizer, max_length)

    # ----------------------------------------------------------------------------------------------------------- labels

    def label_settings(self, data: Data) -> dict[str, Any]:
        """The fields of the student's configuration that describe its outputs."""
        return {
            "id2label": dict(enumerate(data.labels)),
            "label2id": {name: i for i, name in enumerate(data.labels)},
            "problem_type": self.problem_type,
        }

    def about(self, data: Data) -> str:
        """The labels of the training set, for the plan: the kind, the classes, and how often each occurs."""
        counts = class_counts(data.train.labels, data.labels)
        first = ", ".join(f"{in_list(name)} {count:,}" for name, count in list(counts.items())[:20])
        more = f" and {len(counts) - 20} more" if len(counts) > 20 else ""
        return f"{self.name}, {len(counts)} classes: {first}{more}" if counts else self.name

    def other_kinds(self, data: Data, outputs: int) -> dict[str, str]:
        """The kinds as which files with these labels can also be read, for a model with so many outputs, by their
        :attr:`problem_type`; if not overridden, none."""
        return {}

    def check_problem(self, data: Data, config: Any, name: str, role: str = "teacher") -> None:
        """See that a model answers this kind of task, if its configuration says which it answers. Arguments as for :meth:`match`.

        transformers writes ``problem_type`` when a loss is first computed, so many configurations have none.

        Raises:
            TutelageError: it answers another.
        """
        theirs = config.problem_type or ("regression" if config.num_labels == 1 else None)
        if self.problem_type is None or theirs in (None, self.problem_type):
            return
        says = f"problem_type {theirs} in its config.json" if config.problem_type else "one output, a regression"
        other = self.other_kinds(data, config.num_labels).get(theirs)
        remedy = f"use a {role} fine-tuned on a {self.name} task"
        raise TutelageError(
            f"the {role} {name!r} has {says}, and the data are read as {self.name}; "
            + (f"read files of your own with {option('kind')} {other}, or {remedy}" if other else remedy)
        )

    def match(self, data: Data, config: Any, name: str, role: str = "teacher") -> tuple[Data, list[str]]:
        """The data with the label numbers of a model's configuration, and warnings.

        Args:
            data: As it was read.
            config: The configuration of the model.
            name: Its name, for messages.
            role: What messages call it.

        Raises:
            TutelageError: the model's outputs are not those of the data.
        """
        self.check_problem(data, config, name, role)
        theirs = label_names(config)
        places = places_of(data.labels, theirs)
        if places is not None:
            # The data's spelling wins; labels that only the teacher knows keep theirs.
            spelt = dict(zip(places, data.labels, strict=True))
            return data.with_labels(tuple(spelt.get(i, label) for i, label in enumerate(theirs))), []
        if unnamed(config) and config.num_labels == len(data.labels):
            named = ", ".join(f"LABEL_{i}={label}" for i, label in enumerate(data.labels))
            return data, [f"the {role}'s labels have no names; they were taken in the data's order ({named})"]
        numbered = list(data.labels) == [str(place) for place in range(config.num_labels)]
        numbered &= len(theirs) <= 10 and not any("," in label for label in theirs)
        raise TutelageError(
            f"the {role} {name!r} knows the labels {listed(theirs)}, the data {listed(data.labels)}; "
            + (f"if these are their numbers, give {option('labels')} {','.join(theirs)}; else " if numbered else "")
            + f"use a {role} fine-tuned on these labels, or correct id2label in its config.json"
        )

    def columns(self, data: Data, config: Any, name: str, given: tuple[str, ...]) -> list[int]:
        """Where a further teacher of a team has the outputs of ``data``, in their order.

        Args:
            data: As :meth:`match` returned it for the first teacher.
            config: The configuration of this teacher.
            name: Its name, for messages.
            given: The data's classes in their own order, which classes without names are taken to have.

        Raises:
            TutelageError: its outputs are others.
        """
        self.check_problem(data, config, name)
        theirs = list(given) if unnamed(config) and config.num_labels == len(given) else label_names(config)
        places = places_of(data.labels, theirs)
        if places is None:
            more = [label for label in data.labels if label not in given]
            raise TutelageError(
                f"the teacher {name!r} knows the labels {listed(theirs)}, and would have to know "
                f"{listed(data.labels)}; "
                + (
                    f"give another as {option('teacher')}, or name another first: the first knows {listed(more)} beside the data's"
                    if more and places_of(given, theirs) is not None
                    else "use teachers fine-tuned on this task, or correct id2label in its config.json"
                )
            )
        return places

    def start(self, student: Any, theirs: Callable[[], Tensor], ours: Callable[[Rows], Tensor]) -> str | None:
        """Prepare a new student for its teacher's outputs on the training texts, ``(answers, outputs)``; returns a note on it.
        ``ours`` gives the student's own outputs on some of the texts."""
        return None

    def answered(self, examples: Examples, outputs: Tensor) -> Examples:
        """A part of the evaluation set, with the teacher's outputs as labels where it has none and the kind has use for them."""
        return examples

    # ----------------------------------------------------------------------------------------------------------- scores

    @abstractmethod
    def scores(self, data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
        """The task's metrics of the predictions for ``texts``, which are all labelled and read as ``texts.student``."""

    @abstractmethod
    def constant_scores(self, data: Data, examples: Examples) -> dict[str, float]:
        """The same metrics of the best constant answer: chance level."""

    def selection_score(self, data: Data, logits: Tensor, texts: Texts) -> float:
        """What selects the best epoch: the mean of ``data.selected_by``, higher is better; 0 for the same answer to all texts."""
        if self.is_constant(logits):
            return 0.0
        return _selecting(data, self.scores(data, logits, texts))

    def selection_floor(self, data: Data, examples: Examples) -> float:
        """What a :meth:`selection_score` on these examples must exceed to show anything: the score of the best constant answer, and
        one standard error more. Nearly constant answers come that close to it, which F1 of a frequent class makes a high score."""
        return _selecting(data, self.constant_scores(data, examples)) + standard_error(len(examples))

    def is_constant(self, logits: Tensor) -> bool:
        """Whether all texts get the same answer; if not overridden, never."""
        return False

    @abstractmethod
    def per_example(self, data: Data, logits: Tensor, texts: Texts) -> npt.NDArray[Any]:
        """``(examples, columns)``: what the task's first metric asks of each example, for :meth:`pooled`; predictions as
        :meth:`scores` takes them."""

    def pooled(self, metric: str, rows: npt.NDArray[Any]) -> float:
        """The first metric of a task, of rows of :meth:`per_example`; if not overridden, their mean."""
        return float(rows.mean())

    def resampled(self, data: Data, logits: Tensor, texts: Texts) -> tuple[int, Metric]:
        """The first metric of predictions as :meth:`scores` takes them, as a function of the examples that count, and how many
        there are: for intervals."""
        each = self.per_example(data, logits, texts)
        return len(each), self.counted(data.metrics[0], each)

    def counted(self, metric: str, each: npt.NDArray[Any]) -> Metric:
        """The first metric of a task, of rows of :meth:`per_example`, as a function of the examples that count."""
        # A bootstrap reads rows at random: few bytes stay in the processor's cache.
        if each.dtype.kind == "i" and each.size:
            each = each.astype(np.result_type(*map(np.min_scalar_type, (each.min(), each.max()))))
        # ``take`` gathers rows ten times as fast as ``each[rows]``, and a bootstrap does it a thousand times.
        return lambda rows: self.pooled(metric, each.take(rows, axis=0))

    def agreement(self, ours: Tensor, theirs: Tensor) -> float | None:
        """Share of equal answers of two models, of their logits ``(answers, outputs)``; ``None`` where answers are no classes."""
        return float((ours.argmax(1) == theirs.argmax(1)).float().mean()) if self.single_label else None

    def confusion(self, logits: Tensor, texts: Texts, classes: int) -> npt.NDArray[np.int64] | None:
        """``(classes, classes)``: how many answers of each class (rows) were predicted as each (columns), over those that are
        known; ``None`` where an answer is not one class."""
        return None

    def judged(
        self, logits: npt.NDArray[np.float32], labels: Labels
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
        """``(n,)`` whether each prediction is right, and ``(n,)`` how confident it is. Only where :attr:`ptp` is true.

        Args:
            logits: ``(n, outputs)``, of a teacher.
            labels: ``(n,)``, all known.
        """
        raise NotImplementedError(f"{self.name} has no PTP labels")

    # ----------------------------------------------------------------------------------------------------------- losses

    def answers(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits as :meth:`hard_loss` and :meth:`soft_loss` take them."""
        return logits

    def hard_loss(self, logits: Tensor, labels: Tensor, count: Count = None) -> Tensor:
        """The loss on the labels of the data, summed over known answers and divided by ``count`` (by default their number); if not
        overridden, cross-entropy.

        Args:
            logits: As :meth:`answers` returns them.
            labels: As in :class:`~tutelage.data.batches.Batch`.
            count: Known answers of the whole step.
        """
        return losses.cross_entropy(logits, labels, count)

    def soft_loss(self, student: Tensor, teacher: Tensor, how: SoftLossOptions) -> Tensor:
        """The loss on a teacher's predictions; if not overridden, that of a softmax over the outputs.

        Args:
            student: As :meth:`answers` returns them.
            teacher: Likewise.
            how: Its settings. ``temperature`` counts only where :attr:`probabilities` is true; ``weights`` are given only where
                :attr:`single_label` is true.
        """
        return losses.soft_cross_entropy(
            student,
            teacher,
            how.temperature,
            scale=how.scale,
            reduction=how.reduction,
            count=how.count,
            weights=how.weights,
        )

    def mix(self, logits: Tensor, shares: Tensor, temperature: float) -> Tensor:
        """Logits ``(answers, outputs)`` whose probabilities at ``temperature`` are the weighted mean of several teachers'; if not
        overridden, those of a softmax. Asked only where :attr:`fixed_outputs` is true.

        Args:
            logits: ``(teachers, answers, outputs)``, float32.
            shares: ``(teachers, 1 or answers, 1)``, float32, summing to 1 over teachers.
            temperature: At which probabilities are averaged.
        """
        return temperature * (shares.log() + (logits / temperature).log_softmax(dim=-1)).logsumexp(dim=0)

    # -------------------------------------------------------------------------------------------------------- for people

    def typed(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Examples:
        """Texts that somebody types, as examples without labels.

        Raises:
            TutelageError: the answers are places in a second text, and there is none.
        """
        if self.answers_in_pair and pairs is None:
            raise TutelageError("a question needs the text that holds its answer; give it as the second text")
        return Examples(
            [f"typed/{i}" for i in range(len(texts))], texts, pairs, np.full(len(texts), None, dtype=object)
        )

    def replies(self, logits: Tensor, texts: Texts, labels: Sequence[str], temperature: float = 1.0) -> list[Reply]:
        """The answers to :meth:`typed` texts, for people.

        Args:
            logits: ``(answers, outputs)`` of ``texts.student``.
            texts: The texts.
            labels: The names of the outputs.
            temperature: Divides logits before they become probabilities.

        Raises:
            TutelageError: such answers cannot be read by people.
        """
        raise TutelageError(f"the answers of {self.name} cannot be shown; use the model with its own library")

    # ------------------------------------------------------------------------------------------------------- model card

    def usage(self, model: str) -> str:
        """Lines of Python that ask a student about one text; ``model`` is its quoted name."""
        return "\n".join(
            [
                "from transformers import pipeline",
                f'classify = pipeline("text-classification", model={model})',
                'print(classify("A text."))  # of two texts: classify({"text": "The first.", "text_pair": "The second."})',
            ]
        )


def _selecting(data: Data, scores: Mapping[str, float]) -> float:
    """Of a task's metrics the mean of those that select the best epoch."""
    names = data.selected_by or data.metrics[:1]
    return sum(scores[name] for name in names) / len(names)


class TextKind(Kind):
    """A kind with one row of logits for each text, whose data may be a table with a column of labels."""

    per_text = True
    takes_unlabelled = True
    head: Head = "classes"
    known_metrics: tuple[str, ...]
    """All metrics that exist."""
    metrics: tuple[str, ...]
    """Those of the user's own data; the first decides."""

    # -------------------------------------------------------------------------------------------------- column of labels

    def fits(self, values: Sequence[Any]) -> bool:
        """Whether a column of labels is of this kind; of the kinds in ``KINDS`` exactly one says so."""
        return False

    def prepared(self, values: Sequence[Any], separator: str | None = None) -> tuple[list[Any], list[str]]:
        """A column of labels, made plain by ``cells.plain``, as :meth:`answer` takes its cells, and notes on how it was read.
        ``separator`` is that of the column: what parts the classes of a cell that names several."""
        return list(values), []

    @abstractmethod
    def answer(self, value: Any) -> Any:
        """What one cell says: the names of its classes, or (where the kind is not :attr:`named`) a number.

        Raises:
            cells.Unreadable: it says nothing of this kind.
        """

    @abstractmethod
    def labels_of(self, answers: Sequence[Any], count: int) -> Labels:
        """Labels as in ``Examples.labels``, of answers with the numbers of classes in place of their names; ``count`` classes."""

    # -------------------------------------------------------------------------------------------- predictions of a file

    def read_predictions(self, table: PredictionColumns, labels: Sequence[str]) -> PredictedValues:
        """What a file predicts, as probabilities of the classes (or as numbers); ``labels`` are the classes, empty if the file has
        to say them; if not overridden, one class a text.

        Raises:
            TutelageError: as ``prediction_forms.classes_in``.
        """
        return classes_in(table, labels)

    def logits_of(self, values: Values) -> npt.NDArray[np.float32]:
        """Logits ``(n, outputs)`` of what :meth:`read_predictions` returns; if not overridden, log-probabilities with mean 0."""
        logs = np.log(np.maximum(values, LEAST))
        return np.asarray(logs - logs.mean(axis=1, keepdims=True), dtype=np.float32)

    def as_outputs(self, labels: Labels, outputs: int) -> Values:
        """Labels as if they had been predicted, ``(n, outputs)``, ``nan`` where unknown; if not overridden, one class a text."""
        found = np.full((len(labels), outputs), np.nan)
        known = labels >= 0
        found[known] = np.eye(outputs)[labels[known]]
        return found

    def likeliest(self, values: Values) -> Labels:
        """The likeliest labels of what :meth:`read_predictions` returns, as in ``Examples.labels``."""
        return self.predictions(self.logits_of(values))

    # -------------------------------------------------------------------------------------------------------- for people

    def replies(self, logits: Tensor, texts: Texts, labels: Sequence[str], temperature: float = 1.0) -> list[Reply]:
        """If not overridden, the likeliest class."""
        shares = (logits / temperature).softmax(dim=1).tolist()
        return [Reply(ranked[0][0], ranked[:MOST]) for ranked in (by_share(labels, row) for row in shares)]

    # ----------------------------------------------------------------------------------------------------------- scores

    @abstractmethod
    def predictions(self, logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Answers as ``metrics.value_of`` takes them, of logits ``(n, outputs)``."""

    def members(self, answers: npt.NDArray[Any], classes: int) -> npt.NDArray[np.bool_] | None:
        """``(n, classes)``: which classes each text is in, by its label or its prediction, in the form of :meth:`predictions`; if
        not overridden ``None``: answers are no classes."""
        return None

    @abstractmethod
    def constant(self, name: str, labels: Labels, positive: int = 1) -> npt.NDArray[Any]:
        """The answer to every text that scores best in metric ``name``."""

    def is_constant(self, logits: Tensor) -> bool:
        answers = self.predictions(logits.numpy())
        return len(answers) > 1 and bool((answers == answers[:1]).all())

    def score(
        self, names: Sequence[str], logits: npt.NDArray[Any], labels: Labels, positive: int = 1
    ) -> dict[str, float]:
        """The metrics ``names`` of predictions ``(n, outputs)`` for labels that are all known.

        Raises:
            TutelageError: a metric does not exist for this kind, or as ``metrics.value_of``.
        """
        predictions = self.predictions(logits)
        return {name: self.value(name, predictions, labels, positive) for name in names}

    def chance(self, name: str, labels: Labels, positive: int = 1) -> float:
        """The metric ``name`` of the best constant answer.

        Raises:
            TutelageError: as :meth:`score`.
        """
        constant = self.constant(name, labels, positive)
        return self.value(name, np.broadcast_to(constant, labels.shape), labels, positive)

    def scores(self, data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
        return self.score(data.metrics, logits.numpy(), texts.examples.labels, data.positive)

    def per_example(self, data: Data, logits: Tensor, texts: Texts) -> npt.NDArray[Any]:
        """The prediction and the label, one after the other; for F1 of one class, whether they are that class."""
        sides = [self.predictions(logits.numpy()), texts.examples.labels]
        if data.metrics[0] == "f1":
            sides = [(side == data.positive).astype(np.int64) for side in sides]
        return np.concatenate([side.reshape(len(side), -1) for side in sides], axis=1)

    def pooled(self, metric: str, rows: npt.NDArray[Any]) -> float:
        predictions, labels = (side.squeeze(1) if side.shape[1] == 1 else side for side in np.split(rows, 2, axis=1))
        return self.value(metric, predictions, labels, 1)

    def constant_scores(self, data: Data, examples: Examples) -> dict[str, float]:
        return {name: self.chance(name, examples.labels, data.positive) for name in data.metrics}

    def value(self, name: str, predictions: npt.NDArray[Any], labels: Labels, positive: int) -> float:
        """One metric, higher is better, of answers in the form of :meth:`predictions` for labels that are all known; a kind with
        metrics of its own overrides this.

        Raises:
            TutelageError: as :meth:`score`.
        """
        if name not in self.known_metrics:
            raise TutelageError(
                f"metric {name} does not exist for {self.name}: choose from {', '.join(self.known_metrics)}"
            )
        return value_of(name, predictions, labels, positive)
