"""Build the student of a run on a task, and the student without distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.anatomy.checkpoints import resolve
from tutelage.artifacts import check_seal
from tutelage.data import batches
from tutelage.data.batches import Batch
from tutelage.data.examples import Data, Examples
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.objectives.mapping import of_origin
from tutelage.objectives.objective import ObjectivePlan
from tutelage.recipes.config import RunConfig, from_yaml
from tutelage.recipes.recipe import Recipe
from tutelage.report.model import REPORT, CorpusReport, load_report
from tutelage.run.workspace import PROJECTIONS
from tutelage.students.bilstm import word_tokenizer
from tutelage.students.build import StudentInput, build
from tutelage.students.copied import chosen_layers
from tutelage.students.final import outline_of
from tutelage.students.importance import Scores, importance
from tutelage.students.load import load_config, sketched
from tutelage.students.specs import (
    BiLSTM,
    Checkpoint,
    Copied,
    Inherited,
    Ordered,
    Pruned,
    Sized,
    Sliced,
    Student,
    origin_of,
    takes_from_teacher,
)
from tutelage.students.tuning import tune
from tutelage.students.vocabulary import Vocabulary
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source

FITTED_EXAMPLES = 2048
"""Most training examples that copied layers are fitted on."""
FITTED_TOKENS = 2**15
"""Most tokens, with padding, that a student is fitted on; their hidden states are held in memory. The equations of the fit
are tokens, not texts: of short texts it needs more."""


class StudentFactory:
    """Makes a run's student, its twin (without distillation) and its outline. Each call gives the same weights.

    Args:
        examples: All texts that the student may read: a BiLSTM's vocabulary, or a trimmed one, is made of them.
        device: Where the importance of the teacher's heads and neurons is computed, for a student that ranks them.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Data,
        head: Head,
        labels: dict[str, Any],
        teacher: Source | None,
        examples: Examples,
        device: torch.device,
    ) -> None:
        self.spec, self.head, self._labels, self._seed = config.recipe.student, head, labels, config.seed
        self._data, self._teacher, self._device = data, teacher, device
        self._reading = config.data
        self.own_input = self._own_input(config, examples)
        self.vocabulary = self._trimmed(config, examples)
        """What the student keeps of the vocabulary, if it does not keep all."""
        self._made: tuple[Student, PreTrainedModel] | None = None
        self.new: list[str] = []
        """Names of weights that the checkpoint lacks from which the student starts: those of a new head."""

    def make(self, *, twin: bool = False) -> PreTrainedModel:
        """The student before training, or its twin."""
        spec, teacher = self.spec, self._teacher
        source = None if teacher is None else teacher.model if takes_from_teacher(spec) else teacher.outline
        made = spec.twin() if twin else spec
        if not isinstance(made, Ordered | Pruned) and not self.refits(made):
            return self._built(made, source)
        if self._made is None or self._made[0] != made:
            self._made = made, self._computed(made, source).cpu()
        return copy.deepcopy(self._made[1])

    def _built(self, spec: Student, teacher: PreTrainedModel | None, scores: Any = None) -> PreTrainedModel:
        own, kept = self.own_input, self.vocabulary
        return build(spec, teacher, self._labels, self._seed, scores, self.head, own, self.new, kept)

    def refits(self, spec: Student) -> bool:
        """Whether a student's output matrices are fitted to the teacher's layers, of which it is made."""
        if isinstance(spec, Pruned):
            return spec.tune is not None
        wanted = isinstance(spec, Copied) and spec.tune is not None and spec.source is spec.family is None
        return wanted and self._teacher is not None and anatomy.family_of(self._teacher.config).neurons_fixed is None

    def forget(self) -> None:
        """Drop first weights that were computed; they are computed anew when they are asked for."""
        self._made = None

    def of(self, spec: Student) -> StudentFactory:
        """A factory of another student that reads the same tokens; of the same student this one."""
        if spec is self.spec:
            return self
        other = copy.copy(self)
        other.spec, other._made, other.new = spec, None, []
        return other

    def rough(self) -> PreTrainedModel:
        """A network of the student's sizes, quickly made: what it costs does not depend on which weights it keeps."""
        return self._built(self.spec, None if self._teacher is None else self._teacher.model, _any_scores)

    def outline(self) -> PreTrainedModel:
        """The student without allocated weights (device ``meta``), to know its sizes and cost before anything is loaded."""
        return outline(self.spec, self._teacher, self._labels, self.head, self.own_input, self.vocabulary)

    @property
    def answers(self) -> bool:
        """Whether a student's predictions mean something before it is trained: its weights, the head's too, come from others."""
        return not self.new and not self.spec.random_start

    @property
    def origin(self) -> str | None:
        """The checkpoint whose tokenizer the student uses; None if it uses the teacher's."""
        return origin_of(self.spec)

    @property
    def source_shape(self) -> anatomy.Shape | None:
        """The shape of the model that layers are copied from."""
        if self.origin is not None:
            return anatomy.shape_of(load_config(self.origin))
        return None if self._teacher is None else self._teacher.shape

    def tokenizer(self, student: PreTrainedModel) -> Any:
        """The student's tokenizer, fitted to what its ``forward`` takes."""
        if self.own_input is not None:
            tokenizer = self.own_input.tokenizer
        elif self.vocabulary is not None:
            tokenizer = self.vocabulary.tokenizer
        else:
            tokenizer = self._given_tokenizer()
        return fitted_tokenizer(tokenizer, student)

    def reads_as(self, teacher: Source) -> bool:
        """Whether the student's tokenizer, before its vocabulary is trimmed, cuts texts as the teacher's does."""
        if self.own_input is not None:
            return False
        own = self._given_tokenizer()
        return own is teacher.tokenizer or bool(own.get_vocab() == teacher.tokenizer.get_vocab())

    def _given_tokenizer(self) -> Any:
        """The tokenizer of the model that the student is made from."""
        if self._teacher is not None and self.origin is None:
            return self._teacher.tokenizer
        return load_tokenizer(str(self.origin))

    def _trimmed(self, config: RunConfig, examples: Examples) -> Vocabulary | None:
        teacher = self._teacher
        if self.spec.vocabulary == "full" or (teacher is None and self.origin is None):
            return None
        if self.own_input is not None:
            raise TutelageError(
                "a BiLSTM has a vocabulary of its own, the most frequent words of the training texts; leave out "
                "vocabulary=trimmed, and set its size with words=NUMBER"
            )
        whole = self._given_tokenizer()
        source = load_config(self.origin) if self.origin is not None else teacher.config if teacher else None
        read = kind_of(self._data.kind).encode(examples, whole, anatomy.UNLIMITED, config.data.stride)
        return Vocabulary.of(whole, source, np.unique(np.concatenate([np.unique(one.tokens) for one in read.pieces()])))

    def _own_input(self, config: RunConfig, examples: Examples) -> StudentInput | None:
        if not isinstance(self.spec, BiLSTM):
            return None
        teacher = self._teacher
        limit = anatomy.UNLIMITED if teacher is None else anatomy.max_length(teacher.config)
        texts = chain(examples.texts, examples.pairs or ())
        mask = None if teacher is None else teacher.tokenizer.mask_token  # texts made by rules have the teacher's
        tokenizer = word_tokenizer(texts, self.spec.words, config.data.max_length or limit, mask or "[MASK]")
        return StudentInput(tokenizer, examples.pairs is not None)

    def _computed(self, spec: Student, teacher: PreTrainedModel | None) -> PreTrainedModel:
        """A student of ranked heads and neurons, or of layers, fitted to the teacher."""
        if teacher is None:
            return self._built(spec, None)
        whole = teacher if self.vocabulary is None else self.vocabulary.network(teacher)
        scores = partial(self._importance, spec) if isinstance(spec, Ordered | Pruned) else None
        model = build(spec, whole, self._labels, self._seed, scores, self.head, new=self.new)
        if not isinstance(spec, Copied | Pruned) or spec.tune is None:
            return model
        depth, of, same = anatomy.shape_of(whole.config).layers, None, 0
        if isinstance(spec, Copied):
            copied = chosen_layers(spec, depth)
            of = of_origin(copied, depth)
            if of != sorted({*of}):
                return model  # not in the teacher's order
            same = sum(one == other == number for number, (one, other) in enumerate(zip(copied, of, strict=True), 1))
        most = spec.examples if isinstance(spec, Pruned) else FITTED_EXAMPLES
        if same < anatomy.shape_of(model.config).layers:
            texts = [batch.inputs for batch in self._fitted(most, whole.to(self._device))]
            tune(model.to(self._device), whole, texts, spec.tune, of=of, same=same)
        return model

    def _importance(self, spec: Ordered | Pruned, model: PreTrainedModel) -> Scores:
        """The importance of the teacher's heads and neurons."""
        model, kind = model.to(self._device), kind_of(self._data.kind)
        if spec.importance == "reconstruction":
            return importance(model, self._fitted(spec.examples, model), kind, spec.importance)
        train = self._data.train
        labelled = train.take(np.flatnonzero(train.labelled)) if kind.learns_labels else train
        return importance(model, self._batches(labelled, spec.examples, model), kind, spec.importance)

    def _fitted(self, most: int | None, model: PreTrainedModel) -> Iterator[Batch]:
        """The texts whose hidden states the student is to keep, with labels or without."""
        texts, more = self._data.train, self._data.unlabeled
        if more is not None and most is not None and len(texts) < most:
            texts = texts.join(more.spread(most))
        tokens = 0
        for number, batch in enumerate(self._batches(texts, most, model)):
            tokens += batch.mask.numel()
            if number and tokens > FITTED_TOKENS:
                return
            yield batch

    def _batches(self, examples: Examples, most: int | None, model: PreTrainedModel) -> Iterator[Batch]:
        """Up to ``most`` of the examples, drawn at random, as the teacher reads them."""
        rows = np.arange(len(examples))
        if most is not None and most < len(rows):
            rows = np.sort(np.random.default_rng(self._seed).permutation(rows)[:most])
        kind, tokenizer = kind_of(self._data.kind), self.tokenizer(model)
        limit = min(anatomy.max_length(model.config), self._reading.max_length or anatomy.UNLIMITED)
        encoded = kind.encode(examples.take(rows), tokenizer, kind.longest(limit), self._reading.stride)
        for names in batches.steps(encoded.lengths, np.arange(len(encoded)), 32, self._seed, 0):
            for batch in batches.step_batches(encoded.take(names), names, 0, 1, 2**62):
                yield batch.to(self._device)


def with_size(recipe: Recipe, teacher: Source | None) -> Recipe:
    """The recipe with a student of this teacher in place of one that is given by its cost alone.

    Raises:
        TutelageError: when there is no teacher whose share it could be.
    """
    student = recipe.student
    if not isinstance(student, Sized):
        return recipe
    if teacher is None:
        raise TutelageError(
            f"a student of {student.flops:g} of the teacher's operations needs a teacher model; give {option('student')} a "
            "checkpoint, or "
            "sizes with like=MODEL"
        )
    cut = anatomy.family_of(teacher.config).neurons_fixed is None
    return recipe.model_copy(update={"student": student.of(teacher.shape.layers, cut=cut)})


def _any_scores(model: PreTrainedModel) -> Scores:
    """Heads and neurons of equal importance."""
    shape = anatomy.shape_of(model.config)
    return [(torch.zeros(shape.heads), torch.zeros(shape.intermediate))] * shape.layers


def outline(
    student: Student,
    teacher: Source | None,
    labels: dict[str, Any],
    head: Head = "classes",
    own_input: StudentInput | None = None,
    vocabulary: Vocabulary | None = None,
) -> PreTrainedModel:
    """A student without allocated weights (device ``meta``)."""

    with torch.device("meta"):
        if isinstance(student, Inherited | Sliced):
            source = load_config(student.source) if student.source else teacher.config if teacher else None
            if source is not None:
                return outline_of(student, source if vocabulary is None else vocabulary.config(source), head)
        model = None if teacher is None else teacher.outline
        return build(student, model, labels, 0, _any_scores, head, own_input, vocabulary=vocabulary, load=sketched)


def general_projections(student: Student) -> dict[str, Tensor]:
    """The projections that a run on raw text saved with this student, by name without the stage; empty for other students.

    Raises:
        TutelageError: if their file is damaged or gone, or the run on raw text has no report.
    """
    if not isinstance(student, Checkpoint) or not Path(student.name).is_dir():
        return {}
    folder = Path(resolve(student.name)).parent
    path, remedy = folder / PROJECTIONS, "give a copy of its student/ alone, and the run begins with new projections"
    if not (folder / REPORT).exists():
        if _is_general(folder):
            raise TutelageError(
                f"the run on raw text in {str(folder)!r} has no {REPORT}; finish it with {option('resume', True)}, or {remedy}"
            )
        return {}
    report = load_report(folder)
    if not isinstance(report, CorpusReport) or not (report.projections or path.exists()):
        return {}
    try:
        check_seal(path)
        found = load_file(path)
    except FileNotFoundError:
        raise TutelageError(f"the run on raw text in {str(folder)!r} has lost its {PROJECTIONS}; {remedy}") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise TutelageError(f"{str(path)!r} is damaged ({error}); {remedy}") from None
    return {name.partition(".")[2]: tensor for name, tensor in found.items()}


def _is_general(folder: Path) -> bool:
    """Whether the settings in a folder are those of a run on raw text."""
    try:
        return from_yaml(folder / "config.yaml").recipe.on_corpus
    except TutelageError:
        return False


def inherited_count(plan: ObjectivePlan, found: dict[str, Tensor]) -> int:
    """How many projections :meth:`Objective.inherit` would take."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (width, bias) in plan.linears.items():
        shapes |= {f"{name}.weight": (width, plan.student.hidden), **({f"{name}.bias": (width,)} if bias else {})}
    return sum(shapes.get(name) == tuple(x.shape) for name, x in found.items())
