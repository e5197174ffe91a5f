"""Student specifications: the network and its initial weights. Pure data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError

from tutelage.data.config import Place
from tutelage.errors import TutelageError, option
from tutelage.fields import Count, Size
from tutelage.objectives.kinds import ByKind, kinds_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tutelage.anatomy import Head

LayerNumbers = Annotated[list[Size], Field(min_length=1)]
Target = Annotated[float, Field(gt=0, le=1e18)]


class StudentSpec(BaseModel):
    """Base class of the student specifications. A plug-in's own has a value of ``init`` and :meth:`network`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    needs_mechanism: ClassVar[str | None] = None
    """Kind of mechanism that the student's first stage needs, if any."""
    inherits: ClassVar[bool] = False
    """Whether the initial weights are taken from a trained model: the teacher, or the checkpoint that ``origin`` names."""
    origin: ClassVar[str | None] = None
    """The field that may name a checkpoint. If it does, the student uses the checkpoint's tokenizer."""
    random_start: ClassVar[bool] = False
    """Whether the initial weights are random."""

    init: str
    """The name of this kind of student."""
    vocabulary: Literal["full", "trimmed"] = "full"
    """``trimmed`` keeps the pieces that the training texts use, and single characters, of the tokenizer that the student takes
    over (:mod:`tutelage.students.vocabulary`)."""

    def twin(self) -> StudentSpec:
        """The student without distillation, for comparison."""
        return self

    def network(self, teacher: PreTrainedModel | None, labels: dict[str, Any], head: Head) -> PreTrainedModel:
        """The network of a student that a plug-in defines, in float32. The random state is seeded before each call.

        Args:
            teacher: The teacher. Without weights (on the device ``meta``) if the student does not inherit, and when only the
                student's sizes are needed.
            labels: Configuration fields that describe the outputs: ``id2label``, ``label2id``, ``problem_type``.
            head: The kind of output.
        """
        raise NotImplementedError(f"{type(self).__name__} has no network")

    @property
    def twin_words(self) -> str:
        """Description of the twin, for the printed plan."""
        return "the same student without the teacher"


class Copied(StudentSpec):
    """Some layers of the teacher, with its embeddings, pooler and head."""

    inherits, origin = True, "source"

    init: Literal["copied"] = "copied"
    layers: Size | LayerNumbers | Literal["all"] = 3
    """The number of layers, a list of layer numbers (from 1), or ``all``."""
    choose: Literal["best", "first", "last", "spread", "uniform"] = "best"
    """The layers, where ``layers`` is a number: ``first``, ``last``, ``spread`` (evenly, first and last included, as in
    DistilBERT) or ``uniform`` (every N/M-th, the layers that a uniform mapping pairs). ``best`` tries several starts for a few
    steps and takes the one with the lowest loss on held-out texts (:mod:`tutelage.run.trials`); where nothing can be tried, as on
    a corpus, it is ``first``."""
    source: Place | None = None
    """A checkpoint to copy from instead of the teacher (BERT-PKD starts from the pretrained BERT, not from the fine-tuned one).
    The student uses its tokenizer, and its head if that fits the task; else the head is new."""
    family: Literal["distilbert"] | None = None
    """``distilbert`` makes a DistilBERT from the layers of a BERT. It has no pooler and no token types; the first type's
    embedding is added to the position embeddings, so that a copy of all layers computes a single text's hidden states as the BERT
    does. On a task its head is new. None keeps the family."""
    tune: Literal["matrices"] | None = None
    """Least-squares fit of the output matrices before training, from the bottom up: each layer's outputs come closest to those of
    the teacher's layer that it is a copy of, the last one's to those of the teacher's last. On a task, where layers of the teacher
    are copied and its family allows it (those that can be cut: docs/guides/families.md). It helps short trainings
    (docs/results/defaults.md). None only copies."""


class Between(StudentSpec):
    """A teacher assistant: layers of its teacher, as many as the geometric mean of the teacher's and the student's layers."""

    inherits = True

    init: Literal["between"] = "between"

    def of(self, teacher: int, student: int) -> Copied:
        """The assistant of a teacher and a student with so many layers.

        Raises:
            TutelageError: when no number lies between these two.
        """
        if teacher - student < 2:
            raise TutelageError(
                f"no assistant has more layers than the student ({student}) and fewer than its teacher ({teacher}); use "
                f"{option('method')} kd, or name one: {option('settings')} 'recipe.assistants=[{{init: copied, layers: "
                f"{student}}}]'"
            )
        return Copied(layers=round((teacher * student) ** 0.5), vocabulary=self.vocabulary)


class Fresh(StudentSpec):
    """A network with random weights. Family and sizes default to those of ``like``, else to the teacher's."""

    origin, random_start = "like", True

    init: Literal["fresh"] = "fresh"
    family: str | None = None
    """Model type of the network (``bert``, ``electra``, ...)."""
    layers: Annotated[int, Field(ge=1, le=512)]
    """Number of layers."""
    hidden: Size | None = None
    """Width of the hidden states."""
    intermediate: Size | None = None
    """Number of feed-forward neurons in each layer."""
    heads: Size | None = None
    """Number of attention heads in each layer."""
    embedding: Size | None = None
    """Width of the embedding table, in families with a separate one (ELECTRA, ALBERT)."""
    like: Place | None = None
    """A checkpoint that gives family, vocabulary and sizes in the teacher's place; needed where there is no teacher."""


class Checkpoint(StudentSpec):
    """A checkpoint, which brings its own weights and tokenizer."""

    origin = "name"

    init: Literal["checkpoint"] = "checkpoint"
    name: Place
    """A folder or a Hub id; of a run's folder its student."""


class _Ranked(StudentSpec):
    """A student that is made of the teacher's attention heads and feed-forward neurons by their importance for its task."""

    inherits = True

    importance: Literal["reconstruction", "fisher", "taylor", "first_order"] = "reconstruction"
    """Score of a head or neuron: how little the others, refitted, miss it (ZipLM; needs no labels); the squared gradient of its
    mask, summed over examples (Kwon et al. 2022); weight times gradient, summed over its output weights (ROSITA); or the change
    of the loss without it, to the first order (DynaBERT)."""
    examples: Count | None = 2048
    """Number of training examples that rank the heads and neurons, and on which output matrices are fitted (there, and for
    ``reconstruction``, at most 32,768 tokens); none uses all."""


class Pruned(_Ranked):
    """The bottom layers of the teacher, with the attention heads and feed-forward neurons that matter most for its task.

    All layers keep equally many heads and neurons. A size that is not named stays the teacher's, or is chosen for a target.
    With all heads and the full embedding table the student is an ordinary model of the teacher's family.
    """

    init: Literal["pruned"] = "pruned"
    layers: Size | None = None
    """Number of layers, from the bottom."""
    heads: Size | None = None
    """Number of heads in each layer, each as wide as the teacher's."""
    intermediate: Size | None = None
    """Number of feed-forward neurons in each layer."""
    rank: Size | None = None
    """Rank of a factorised embedding table; none keeps the full table."""
    target_parameters: Target | None = None
    """Parameters of the whole student: a number, or a share of the teacher's (up to 1)."""
    target_flops: Target | None = None
    """Operations of the layers for a text of 128 tokens: a number, or a share of the teacher's (up to 1)."""
    tune: Literal["matrices", "masks"] | None = "matrices"
    """Least-squares fit of each layer's output to the teacher's after cutting: the whole output matrices, one factor for each
    kept head and neuron (Kwon et al. 2022), or none."""


class Ordered(_Ranked):
    """The teacher itself. In each layer the attention heads and feed-forward neurons that matter most for its task come first, so
    that the first of them make a smaller network. Where single heads cannot be moved, only the neurons are.
    """

    init: Literal["ordered"] = "ordered"
    importance: Literal["reconstruction", "fisher", "taylor", "first_order"] = "first_order"
    """Score of a head or neuron: the change of the loss without it, to the first order (``first_order``; DynaBERT); how little
    the others, refitted, miss it (``reconstruction``; ZipLM); the squared gradient of its mask, summed over examples
    (``fisher``; Kwon et al. 2022); or weight times gradient, summed over its output weights (``taylor``; ROSITA)."""


class Sized(StudentSpec):
    """A smaller teacher, given by its cost alone: the teacher with fewer heads and neurons in every layer (``init=pruned``), or,
    where single ones cannot be removed, with fewer layers (``init=copied``).

    Keeping the depth is far ahead of removing layers, at the same cost and before any training (docs/results/cutting.md). A run on
    a task therefore begins with the cut, and tries layers that are copied whole beside it: after training they may be level
    (docs/results/defaults.md). ``init=pruned,target_flops=0.5`` is the cut alone.
    """

    inherits = True

    init: Literal["sized"] = "sized"
    flops: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Operations of the layers for a text of 128 tokens, as a share of the teacher's."""

    def of(self, layers: int, *, cut: bool) -> Pruned | Copied:
        """The student of a teacher with so many layers; ``cut``: whether heads and neurons can be removed."""
        if cut:
            return Pruned(target_flops=self.flops, vocabulary=self.vocabulary)
        return Copied(layers=max(1, round(self.flops * layers)), vocabulary=self.vocabulary)


class Gated(StudentSpec):
    """The teacher with gates at its blocks, heads, neurons and hidden coordinates, which the mechanism ``gates`` trains; then what
    is closed is removed (Xia et al. 2022). Each layer keeps its own number of heads and neurons; all keep the same coordinates.
    """

    inherits = True
    needs_mechanism = "gates"

    init: Literal["gated"] = "gated"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What is left of the layers' heads and neurons."""
    of: Literal["parameters", "flops"] = "parameters"
    """What is counted: parameters, or operations for a text of 128 tokens."""
    hidden: bool = True
    """Whether hidden coordinates have gates, as in the paper. Without, the hidden states keep their width."""

    @property
    def twin_words(self) -> str:
        return "a student of its operations cut out of the teacher (init=pruned)"

    def twin(self) -> Pruned:
        """The baseline: about the same operations, with equally many heads and neurons in each layer."""
        return Pruned(target_flops=self.share, vocabulary=self.vocabulary)


class Reduced(StudentSpec):
    """The teacher, which the mechanism ``reduction`` brings to these sizes while it learns (ROSITA, Liu et al. 2021): its bottom
    layers, and equally many heads and neurons in each. A size that is not named stays the teacher's.
    """

    inherits = True
    needs_mechanism = "reduction"

    init: Literal["reduced"] = "reduced"
    layers: Size | None = None
    """Number of layers, from the bottom."""
    heads: Size | None = None
    """Number of heads in each layer, each as wide as the teacher's."""
    intermediate: Size | None = None
    """Number of feed-forward neurons in each layer."""
    rank: Size | None = None
    """Rank of a factorised embedding table; none keeps the full table."""

    @property
    def twin_words(self) -> str:
        return "a student of its sizes cut out of the teacher at once (init=pruned)"

    def twin(self) -> Pruned:
        """The baseline: the same sizes at once."""
        return Pruned(**self.model_dump(exclude={"init"}))


class BiLSTM(StudentSpec):
    """Word embeddings and a bidirectional LSTM, which learns from predictions alone (Tang et al. 2019)."""

    random_start = True

    init: Literal["bilstm"] = "bilstm"
    hidden: Size = 300
    """LSTM units per direction."""
    intermediate: Size = 400
    """Width of the layer before the logits."""
    embedding: Size = 300
    """Size of a word's vector in each channel; must be that of ``vectors``, if these are given."""
    channels: Annotated[int, Field(ge=1, le=2)] = 2
    """2, as in the paper, adds a frozen copy of the initial word vectors to the trained ones."""
    words: Count = 30000
    """Vocabulary size without special tokens: the most frequent words of the training texts, unlabelled and augmented ones
    included."""
    vectors: Place | None = None
    """A text file of word vectors (GloVe, fastText's .vec); none starts from random vectors."""


class _Narrower(StudentSpec):
    """A narrower model of the teacher's depth and family."""

    inherits, origin = True, "source"

    hidden: Size
    """The new width of the hidden states: a multiple of the teacher's number of heads (``dim``) or of its head size
    (``head``)."""
    strategy: Literal["dim", "head"] = "dim"
    """``dim`` keeps all heads and makes each narrower; ``head`` removes whole heads."""
    intermediate: Size | None = None
    """The new number of feed-forward neurons in each layer; none is in proportion to ``hidden``."""
    decoder: Literal["tied", "untied"] = "tied"
    """``untied`` gives a language model an output matrix of its own; ``tied`` needs a teacher whose output matrix is its
    embedding table. No effect on other models."""
    source: Place | None = None
    """A checkpoint to inherit from instead of the teacher."""


class Inherited(_Narrower):
    """The teacher with compactors at every matrix, which the mechanism ``pruning`` trains and merges (Wu et al. 2024)."""

    needs_mechanism = "pruning"

    init: Literal["inherited"] = "inherited"
    alignment: Literal["mask", "tied"] = "mask"
    """``mask``: every matrix has its own compactors; those of a group remove the same coordinates. ``tied``: the matrices of a
    group share one compactor (``R = C.T``)."""

    @property
    def twin_words(self) -> str:
        return "a student of its size cut out of the teacher (init=sliced)"

    def twin(self) -> Sliced:
        """The baseline: the same sizes without compactors."""
        shared = self.model_dump(exclude={"init", "alignment"})
        return Sliced(**shared)


class Sliced(_Narrower):
    """Selected coordinates of the teacher, without compactors: the baseline of weight inheritance."""

    init: Literal["sliced"] = "sliced"
    choose: Literal["norm", "random"] = "norm"
    """The coordinates: those with the largest norm of all weights that write or read them (``norm``), or random ones
    (``random``)."""

    @property
    def alignment(self) -> Literal["mask"]:
        return "mask"


class Shared(StudentSpec):
    """Layers of the teacher that run more than once (SPS of Pea-KD; :mod:`tutelage.students.sharing`)."""

    inherits, origin = True, "source"

    init: Literal["shared"] = "shared"
    stored: Size | LayerNumbers = 3
    """The number of layers to copy from the bottom of the teacher, or a list of layer numbers (from 1)."""
    order: Literal["shuffled", "paired", "mirror", "adjacent"] | list[str] = "shuffled"
    """The runs: all layers in order, then again with query and key exchanged (``shuffled``), without exchange (``paired``), or
    backwards with exchange (``mirror``); of 6 layers or more only the upper half runs again. Or each layer twice in a row
    (``adjacent``), or a plan such as ``["1", "2", "1s"]``, where ``s`` is the exchange."""
    source: Place | None = None
    """A checkpoint to copy from instead of the teacher. The student uses its tokenizer."""


Student = Annotated[SerializeAsAny[StudentSpec], ByKind(StudentSpec, "student", "init")]

MARKS = {
    "shared": {"stored", "order"},
    "inherited": {"alignment"},
    "sliced": {"strategy"},
    "pruned": {"rank", "target_parameters", "target_flops"},
    "bilstm": {"channels", "words", "vectors"},
    "sized": {"flops"},
    "gated": {"share", "of"},
    "fresh": {"hidden", "intermediate", "heads", "family", "embedding"},
    "checkpoint": {"name"},
}
"""Fields by which the kind of a student is known that names no ``init``."""


def parse(text: str, recipe_student: Student | None = None) -> Student:
    """Parse the value of ``--student``.

    Fields of the recipe's student replace its own, and it keeps the rest: with BERT-PKD ``layers=4`` still copies the first
    layers. Other fields, or ``init=KIND`` of another kind, make a new student with the defaults of its kind:

    * ``layers=3`` or ``layers=2+4+6``: layers copied from the teacher.
    * ``layers=4,hidden=312,heads=12``: a new network with these sizes.
    * ``flops=0.5``: the teacher with half of the operations.
    * ``share=0.5``: the teacher with gates, half of whose heads and neurons are left in the end.
    * ``target_parameters=0.5``, ``layers=6,rank=128`` or ``init=pruned,heads=4``: a pruned teacher.
    * ``words=...`` or ``channels=...``: a BiLSTM.
    * anything without ``=``, with a slash before it, or a folder that exists: a checkpoint (folder or Hub id).

    Raises:
        TutelageError: if no kind of student has such a key, or a value is invalid.
    """
    if "=" not in text or "/" in text.partition("=")[0] or os.path.isdir(os.path.expanduser(text)):
        return _made("checkpoint", {"name": text}, text)
    fields: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        value = value.strip()
        several = [one for one in value.split("+") if one]  # 2+ is a list of one
        fields[key.strip()] = several if "+" in value else None if value == "none" else value
    init = fields.get("init") or next((kind for kind, names in MARKS.items() if names & set(fields)), "copied")
    kinds = kinds_of(StudentSpec, "init")
    if not isinstance(init, str) or init not in kinds:
        raise TutelageError(
            f"{option('student')} init={init!r:.200} is unknown; use one of {', '.join(kinds)}, or give {option('plugins')} FILE"
        )
    if recipe_student is not None and fields.get("init", recipe_student.init) == recipe_student.init:
        kind = type(recipe_student)
        own = set(fields) <= set(kind.model_fields)
        if own and (init == recipe_student.init or _known(kind, fields)):
            init, fields = recipe_student.init, recipe_student.model_dump() | fields
    return _made(init, fields, text)


def words_of(student: Student) -> str:
    """A specification in the words of ``--student``; a checkpoint by its name."""
    if isinstance(student, Checkpoint):
        return student.name
    fields = student.model_dump(mode="json", exclude_defaults=True, exclude={"init"})
    texts = {key: "none" if value is None else str(value) for key, value in fields.items()}
    for key, value in fields.items():
        if isinstance(value, list):
            texts[key] = "+".join(map(str, value)) + ("+" if len(value) == 1 else "")
    return ",".join([f"init={student.init}", *(f"{key}={text}" for key, text in texts.items())])


def _made(init: str, fields: dict[str, Any], text: str) -> Student:
    """The student with these fields, of what was typed."""
    kind = kinds_of(StudentSpec, "init")[init]
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        message = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise TutelageError(
            f"{option('student')} {text!r:.200}: {first['loc'][0]}: {message}; a student with init={init} has the fields "
            f"{', '.join(kind.model_fields)}"
        ) from None


def _known(kind: type[BaseModel], fields: dict[str, Any]) -> bool:
    """Whether a kind of student takes these values: copied layers may be of one family, a fresh network is of any."""
    try:
        kind(**fields)
    except ValidationError as error:
        return all(problem["type"] == "missing" for problem in error.errors())
    return True


def takes_from_teacher(student: Student) -> bool:
    """Whether the student's initial weights come from the teacher."""
    return student.inherits and origin_of(student) is None


def origin_of(student: Student) -> str | None:
    """The checkpoint named in the specification, if any. The student uses its tokenizer."""
    name: str | None = getattr(student, student.origin) if student.origin else None
    return name
