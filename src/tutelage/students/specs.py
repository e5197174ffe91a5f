"""Student specifications: which network learns and where its first weights come from. Pure data."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tutelage.errors import TutelageError

Count = Annotated[int, Field(ge=1)]


Counts = Annotated[list[Count], Field(min_length=1)]


class StudentSpec(BaseModel):
    """What all student specifications have."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    needs_mechanism: ClassVar[str | None] = None
    """The kind of mechanism that the student's first stage must have."""

    def twin(self) -> Student:
        """The student that is trained without the teacher, to compare with."""
        return cast("Student", self)

    @property
    def twin_words(self) -> str:
        """What the twin is, for the plan."""
        return "the same student without the teacher"


class Copied(StudentSpec):
    """Layers of the teacher, with its embeddings, pooler and head.

    ``choose`` takes the ``first``, the ``last`` or evenly spread layers (``spread``: first and last included, as
    DistilBERT does; ``uniform``: every N/M-th, the ones that a uniform mapping pairs); ``layers`` may also name them
    (from 1). ``source`` copies from another checkpoint of the teacher's family instead (BERT-PKD starts from the
    pretrained, not the fine-tuned, BERT); the head is then new. ``family="distilbert"`` makes a DistilBERT of the layers of
    a BERT: no token types (the first is added to the positions, so that a copy of all layers computes what the teacher
    does), no pooler.
    """

    init: Literal["copied"] = "copied"
    layers: Count | Counts = 3
    choose: Literal["first", "last", "spread", "uniform"] = "spread"
    source: str | None = None
    family: Literal["distilbert"] | None = None


class Fresh(StudentSpec):
    """A new network of the teacher's family (or ``family``) with random weights; sizes left out are the teacher's."""

    init: Literal["fresh"] = "fresh"
    family: str | None = None
    layers: Count
    hidden: Count | None = None
    intermediate: Count | None = None
    heads: Count | None = None
    embedding: Count | None = None
    """Width of the embedding table, in families that set it apart (ELECTRA, ALBERT)."""
    like: str | None = None
    """A checkpoint whose family, vocabulary and sizes stand for the teacher's where there is no teacher."""


class Checkpoint(StudentSpec):
    """Any checkpoint: a folder or a hub id."""

    init: Literal["checkpoint"] = "checkpoint"
    name: str


class Pruned(StudentSpec):
    """The bottom layers of the teacher, a BERT, with the heads and neurons that matter most to its task.

    The sizes left out are those of ROSITA6, the student of minimum-knowledge distillation (Liu et al. 2021).
    """

    init: Literal["pruned"] = "pruned"
    layers: Count = 6
    heads: Count = 2
    intermediate: Count = 768
    rank: Count | None = 128
    """Width of the embedding table, which is approximated; none leaves it as it is."""
    examples: Count | None = None
    """How many training examples the importance of heads and neurons is computed on; none takes all."""


class BiLSTM(StudentSpec):
    """No transformer: word embeddings and a bidirectional LSTM, which learn from predictions alone (Tang et al. 2019).

    Its tokenizer knows the ``words`` most frequent words of the texts that it learns from. ``hidden`` are the units in
    each direction; with two ``channels`` a frozen copy of the ``embedding`` wide word vectors stands beside the learnt.
    """

    init: Literal["bilstm"] = "bilstm"
    hidden: Count = 300
    intermediate: Count = 400
    embedding: Count = 300
    channels: Annotated[int, Field(ge=1, le=2)] = 2
    words: Count = 30000
    vectors: str | None = None
    """A text file of word vectors (GloVe, fastText's .vec); without it the words begin with random ones."""


class _Narrower(StudentSpec):
    """A model of the teacher's depth and family, narrower: ``hidden`` instead of its width.

    ``strategy="dim"`` keeps all heads and makes each smaller, ``"head"`` keeps whole heads. ``intermediate`` shrinks in
    proportion unless given. ``decoder="untied"`` gives a language model an output matrix of its own.
    """

    hidden: Count
    strategy: Literal["dim", "head"] = "dim"
    intermediate: Count | None = None
    decoder: Literal["tied", "untied"] = "tied"
    source: str | None = None
    """A checkpoint to inherit from instead of the teacher."""


class Inherited(_Narrower):
    """The teacher between compactors, which a stage with the mechanism ``pruning`` trains and merges (Wu et al. 2024).

    With ``alignment="mask"`` every matrix has compactors of its own, of which the same coordinates are cut;
    with ``"tied"`` those of a group are one and the same (``R = C.T``).
    """

    needs_mechanism = "pruning"

    init: Literal["inherited"] = "inherited"
    alignment: Literal["mask", "tied"] = "mask"

    @property
    def twin_words(self) -> str:
        return "one of slices of the teacher"

    def twin(self) -> Sliced:
        """The same student without compactors."""
        shared = self.model_dump(exclude={"init", "alignment"})
        return Sliced(**shared)


class Sliced(_Narrower):
    """Coordinates of the teacher, nothing mixed: those with the largest weights (``norm``), or any (``random``)."""

    init: Literal["sliced"] = "sliced"
    choose: Literal["norm", "random"] = "norm"

    @property
    def alignment(self) -> Literal["mask"]:
        return "mask"


class Shared(StudentSpec):
    """Layers of the teacher that are run more than once (SPS of Pea-KD; :mod:`tutelage.students.sharing`).

    ``stored`` layers are copied as by :class:`Copied`, the first ones (or those named); ``order`` says how they are run:
    ``shuffled``, ``paired``, ``mirror``, ``adjacent``, or the plan itself, ``["1", "2", "1s"]``.
    """

    init: Literal["shared"] = "shared"
    stored: Count | Counts = 3
    order: Literal["shuffled", "paired", "mirror", "adjacent"] | list[str] = "shuffled"
    source: str | None = None


Student = Annotated[
    Copied | Fresh | Checkpoint | Pruned | BiLSTM | Inherited | Sliced | Shared, Field(discriminator="init")
]


KINDS: dict[str, type[Copied | Fresh | Checkpoint | Pruned | BiLSTM | Inherited | Sliced | Shared]] = {
    "copied": Copied,
    "fresh": Fresh,
    "checkpoint": Checkpoint,
    "pruned": Pruned,
    "bilstm": BiLSTM,
    "inherited": Inherited,
    "sliced": Sliced,
    "shared": Shared,
}

MARKS = {
    "shared": {"stored", "order"},
    "inherited": {"alignment"},
    "sliced": {"strategy"},
    "pruned": {"rank"},
    "bilstm": {"channels", "words", "vectors"},
    "fresh": {"hidden", "intermediate", "heads", "family", "embedding"},
    "checkpoint": {"name"},
}
"""Fields by which the kind of a student is known that names no ``init``."""


def parse(text: str, recipe_student: Student | None = None) -> Student:
    """The student that ``--student`` names: ``layers=3``, ``layers=4,hidden=312,heads=12``, ``layers=2+4+6``, a checkpoint.

    Fields that the recipe's student has replace its own, and it keeps the rest: with BERT-PKD ``layers=4`` still copies the
    first layers. Otherwise, or with ``init=KIND`` of another kind, the student is a new one with the defaults of its kind:
    sizes make a fresh network, sizes with a ``rank`` (of the embedding table, or ``rank=none``) one that is cut out of the
    teacher, with ``words`` or ``channels`` a BiLSTM; layers alone are copied from the teacher.

    Raises:
        TutelageError: for a key or value that no kind of student has.
    """
    if "=" not in text:
        return Checkpoint(name=text)
    fields: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        value = value.strip()
        fields[key.strip()] = value.split("+") if "+" in value else None if value == "none" else value
    init = fields.get("init") or next((kind for kind, names in MARKS.items() if names & set(fields)), "copied")
    if init not in KINDS:
        raise TutelageError(f"--student init={init!r} is unknown; use one of {', '.join(KINDS)}")
    if recipe_student is not None and fields.get("init", recipe_student.init) == recipe_student.init:
        kind = type(recipe_student)
        own = set(fields) <= set(kind.model_fields)
        if own and (init == recipe_student.init or _known(kind, fields)):
            init, fields = recipe_student.init, recipe_student.model_dump() | fields
    try:
        return KINDS[init](**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise TutelageError(
            f"--student {text!r}: {first['loc'][0]}: {first['msg']}; a student with init={init} has the fields "
            f"{', '.join(KINDS[init].model_fields)}"
        ) from None


def _known(kind: type[BaseModel], fields: dict[str, Any]) -> bool:
    """Whether a kind of student takes these values: copied layers may be of one family, a fresh network is of any."""
    try:
        kind(**fields)
    except ValidationError as error:
        return all(problem["type"] == "missing" for problem in error.errors())
    return True


def takes_from_teacher(student: Student) -> bool:
    """Whether the student's first weights are those of the teacher."""
    if isinstance(student, Pruned):
        return True
    return isinstance(student, Copied | Inherited | Sliced | Shared) and student.source is None


def origin_of(student: Student) -> str | None:
    """The checkpoint that a student comes from, or is like, if one is named: its tokenizer is the student's."""
    place = {
        "checkpoint": "name",
        "copied": "source",
        "fresh": "like",
        "inherited": "source",
        "sliced": "source",
        "shared": "source",
    }.get(student.init)
    name: str | None = getattr(student, place) if place else None
    return name
