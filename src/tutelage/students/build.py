"""Which network learns, and where its first weights come from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import AUTO, Head
from tutelage.data.tokenizers import load_tokenizer
from tutelage.data.wordvectors import WordVectors
from tutelage.errors import TutelageError
from tutelage.objectives.mapping import half_up, spread
from tutelage.students import bilstm, compactors, pruned, sharing

Count = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], Field(min_length=1)]


class Copied(BaseModel):
    """Layers of the teacher, with its embeddings, pooler and head.

    ``choose`` takes the ``first``, the ``last`` or evenly spread layers (``spread``: first and last included, as
    DistilBERT does; ``uniform``: every N/M-th, the ones that a uniform mapping pairs); ``layers`` may also name them
    (from 1). ``source`` copies from another checkpoint of the teacher's family instead (BERT-PKD starts from the
    pretrained, not the fine-tuned, BERT); the head is then new. ``family="distilbert"`` makes a DistilBERT of the layers of
    a BERT: no token types (the first is added to the positions, so that a copy of all layers computes what the teacher
    does), no pooler.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    init: Literal["copied"] = "copied"
    layers: Count | Counts = 3
    choose: Literal["first", "last", "spread", "uniform"] = "spread"
    source: str | None = None
    family: Literal["distilbert"] | None = None


class Fresh(BaseModel):
    """A new network of the teacher's family (or ``family``) with random weights; sizes left out are the teacher's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Checkpoint(BaseModel):
    """Any checkpoint: a folder or a hub id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    init: Literal["checkpoint"] = "checkpoint"
    name: str


class Pruned(BaseModel):
    """The bottom layers of the teacher, a BERT, with the heads and neurons that matter most to its task.

    The sizes left out are those of ROSITA6, the student of minimum-knowledge distillation (Liu et al. 2021).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    init: Literal["pruned"] = "pruned"
    layers: Count = 6
    heads: Count = 2
    intermediate: Count = 768
    rank: Count | None = 128
    """Width of the embedding table, which is approximated; none leaves it as it is."""
    examples: Count | None = None
    """How many training examples the importance of heads and neurons is computed on; none takes all."""


class BiLSTM(BaseModel):
    """No transformer: word embeddings and a bidirectional LSTM, which learn from predictions alone (Tang et al. 2019).

    Its tokenizer knows the ``words`` most frequent words of the texts that it learns from. ``hidden`` are the units in
    each direction; with two ``channels`` a frozen copy of the ``embedding`` wide word vectors stands beside the learnt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    init: Literal["bilstm"] = "bilstm"
    hidden: Count = 300
    intermediate: Count = 400
    embedding: Count = 300
    channels: Annotated[int, Field(ge=1, le=2)] = 2
    words: Count = 30000
    vectors: str | None = None
    """A text file of word vectors (GloVe, fastText's .vec); without it the words begin with random ones."""


class _Narrower(BaseModel):
    """A model of the teacher's depth and family, narrower: ``hidden`` instead of its width.

    ``strategy="dim"`` keeps all heads and makes each smaller, ``"head"`` keeps whole heads. ``intermediate`` shrinks in
    proportion unless given. ``decoder="untied"`` gives a language model an output matrix of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: Count
    strategy: Literal["dim", "head"] = "dim"
    intermediate: Count | None = None
    decoder: Literal["tied", "untied"] = "tied"
    source: str | None = None
    """A checkpoint to inherit from instead of the teacher."""


class Inherited(_Narrower):
    """The teacher between compactors, which a stage with ``forgetting`` trains and merges (Wu et al. 2024).

    With ``alignment="mask"`` every matrix has compactors of its own, of which the same coordinates are cut;
    with ``"tied"`` those of a group are one and the same (``R = C.T``).
    """

    init: Literal["inherited"] = "inherited"
    alignment: Literal["mask", "tied"] = "mask"

    def sliced(self) -> Sliced:
        """The same student without compactors: what it is measured against."""
        shared = self.model_dump(exclude={"init", "alignment"})
        return Sliced(**shared)


class Sliced(_Narrower):
    """Coordinates of the teacher, nothing mixed: those with the largest weights (``norm``), or any (``random``)."""

    init: Literal["sliced"] = "sliced"
    choose: Literal["norm", "random"] = "norm"

    @property
    def alignment(self) -> Literal["mask"]:
        return "mask"


class Shared(BaseModel):
    """Layers of the teacher that are run more than once (SPS of Pea-KD; :mod:`tutelage.students.sharing`).

    ``stored`` layers are copied as by :class:`Copied`, the first ones (or those named); ``order`` says how they are run:
    ``shuffled``, ``paired``, ``mirror``, ``adjacent``, or the plan itself, ``["1", "2", "1s"]``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    init: Literal["shared"] = "shared"
    stored: Count | Counts = 3
    order: Literal["shuffled", "paired", "mirror", "adjacent"] | list[str] = "shuffled"
    source: str | None = None


@dataclass(frozen=True)
class Reading:
    """What a student that builds on words is to read: its tokenizer, and whether it compares two texts."""

    tokenizer: Any
    pairs: bool


Student = Annotated[
    Copied | Fresh | Checkpoint | Pruned | BiLSTM | Inherited | Sliced | Shared, Field(discriminator="init")
]


def parse(text: str, usual: str | None = None) -> Student:
    """The student that ``--student`` names: ``layers=3``, ``layers=4,hidden=312,heads=12``, ``layers=2+4+6``, a checkpoint.

    Sizes make a fresh network, sizes with a ``rank`` (of the embedding table, or ``rank=none``) one that is cut out of
    the teacher, with ``words`` or ``channels`` a BiLSTM; layers alone are copied from the teacher. Sizes without
    ``layers`` make a student of the kind that is ``usual`` for the method.

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
    kinds: dict[str, type[Copied | Fresh | Checkpoint | Pruned | BiLSTM | Inherited | Sliced | Shared]] = {
        "copied": Copied,
        "fresh": Fresh,
        "checkpoint": Checkpoint,
        "pruned": Pruned,
        "bilstm": BiLSTM,
        "inherited": Inherited,
        "sliced": Sliced,
        "shared": Shared,
    }
    marks = {
        "shared": {"stored", "order"},
        "inherited": {"alignment"},
        "sliced": {"strategy"},
        "pruned": {"rank"},
        "bilstm": {"channels", "words", "vectors"},
        "fresh": {"hidden", "intermediate", "heads", "family", "embedding"},
        "checkpoint": {"name"},
    }
    init = fields.get("init") or (usual if "layers" not in fields else None)
    init = init or next((kind for kind, names in marks.items() if names & set(fields)), "copied")
    if init not in kinds:
        raise TutelageError(f"--student init={init!r} is unknown; use one of {', '.join(kinds)}")
    try:
        return kinds[init](**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise TutelageError(
            f"--student {text!r}: {place}: {first['msg']}; a student with init={init} has the fields "
            f"{', '.join(kinds[init].model_fields)}"
        ) from None


def load_config(name: str) -> Any:
    """The configuration of a checkpoint, a folder or on the hub.

    A GPT-2 classifies by the last token that is no padding, so its padding token is the tokenizer's, which it may lack.

    Raises:
        TutelageError: when there is none, or it is of an unknown family.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_loaded(name, error) from None
    if anatomy.family_of(config).causal:
        config.pad_token_id = load_tokenizer(name).pad_token_id
    return config


def _not_loaded(name: str, error: Exception) -> TutelageError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return TutelageError(f"cannot load the model {name!r}: {reason}")


def load_model(name: str, head: Head = "classes", **settings: Any) -> tuple[PreTrainedModel, list[str]]:
    """A model with this head from a folder or the hub, in float32 and evaluation mode; and the weights it had to make up.

    Raises:
        TutelageError: when there is no such checkpoint, or it is of an unknown family.
    """
    config = fitted_config(load_config(name), head)
    replaced = bool(settings)
    if anatomy.family_of(config).causal:
        settings = {**settings, "pad_token_id": config.pad_token_id}
    elif head == "next_words":
        settings = {**settings, "is_decoder": True}
    try:
        model, info = AUTO[head].from_pretrained(
            name,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            # A head of another task is replaced, on purpose, where the caller says which labels there are.
            ignore_mismatched_sizes=replaced,
            **settings,
        )
    except (OSError, TypeError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _not_loaded(name, error) from None
    return model.eval(), sorted(info["missing_keys"])


def chosen_layers(student: Copied, depth: int) -> list[int]:
    """The teacher layers (from 1) that the student's layers are copies of.

    Raises:
        TutelageError: when there are fewer.
    """
    if isinstance(student.layers, list):
        if max(student.layers) > depth:
            raise TutelageError(f"layer {max(student.layers)} cannot be copied: the teacher has layers 1 to {depth}")
        return student.layers
    count = student.layers
    if count > depth:
        raise TutelageError(f"{count} layers cannot be copied: the teacher has {depth}; use layers={depth} or fewer")
    if student.choose == "first":
        return list(range(1, count + 1))
    if student.choose == "last":
        return list(range(depth - count + 1, depth + 1))
    if student.choose == "spread":
        return spread(count, depth)
    return [half_up(i * depth, count) for i in range(1, count + 1)]


def build(
    student: Student,
    teacher: PreTrainedModel | None,
    labels: dict[str, Any],
    seed: int,
    scores: Callable[[PreTrainedModel], pruned.Scores] | None = None,
    head: Head = "classes",
    reading: Reading | None = None,
) -> PreTrainedModel:
    """The student, in float32. ``labels`` holds ``num_labels``, ``id2label``, ``label2id`` and ``problem_type``.

    ``scores`` gives the importance of the teacher's heads and neurons (:func:`tutelage.students.pruned.importance`); it
    is called for a pruned student alone, when its sizes have been checked. ``reading`` is for a BiLSTM; without it its
    vocabulary is empty.

    Raises:
        TutelageError: for sizes that cannot be (hidden not divisible by heads, more layers than the teacher has).
    """
    torch.manual_seed(seed)
    if isinstance(student, Checkpoint):
        return load_model(resolve(student.name), head, **labels)[0]
    if isinstance(student, Copied):
        if student.source is not None:
            return copy_layers(load_model(resolve(student.source), head, **labels)[0], student, labels)
        if teacher is None:
            raise TutelageError("a copied student needs a teacher or a source to copy from; give --teacher")
        return copy_layers(teacher, student, labels)
    if isinstance(student, Inherited | Sliced):
        if student.source is not None:
            teacher = load_model(resolve(student.source), head, **labels)[0]
        if teacher is None:
            raise TutelageError(f"a student with init={student.init} is cut out of its teacher; give --teacher")
        if isinstance(student, Sliced):
            return compactors.sliced(teacher, student, labels)
        model = copy.deepcopy(teacher)
        compaction = compactors.wrap(model, student)
        for config in (model.config, compaction.config):
            for key, value in labels.items():
                setattr(config, key, value)
        return model.eval()
    if isinstance(student, Shared):
        copied = Copied(layers=student.stored, choose="first", source=student.source)
        return sharing.shared(build(copied, teacher, labels, seed, head=head), student)
    if isinstance(student, Pruned | BiLSTM) and head != "classes":
        raise TutelageError(f"a {student.init} student answers for whole texts only; use a copied or fresh one")
    if isinstance(student, Pruned):
        if teacher is None or scores is None:
            raise TutelageError(
                "a pruned student needs a teacher and labelled examples of its task, by which to choose what is kept; "
                "give --teacher, and data with labels"
            )
        pruned.check(student, teacher.config)
        return pruned.prune(teacher, student, scores(teacher), labels)
    if isinstance(student, BiLSTM):
        reading = reading or Reading(bilstm.word_tokenizer((), 0, 1), pairs=False)
        sizes = {name: getattr(student, name) for name in ("hidden", "intermediate", "embedding", "channels")}
        known = None if student.vectors is None else WordVectors.read(Path(student.vectors), limit=None)
        vectors = None if known is None else (known.words, known.vectors)
        return bilstm.new_bilstm(reading.tokenizer, labels, pairs=reading.pairs, vectors=vectors, **sizes)
    if student.like is not None:
        return from_sizes(student, load_config(resolve(student.like)), labels, head)
    if teacher is None:
        raise TutelageError(
            "a fresh student takes its family and vocabulary from a teacher; give --teacher, or like=MODEL"
        )
    return from_sizes(student, teacher.config, labels, head)


def copy_layers(source: PreTrainedModel, student: Copied, labels: dict[str, Any]) -> PreTrainedModel:
    """A shallower copy: chosen layers, and everything around the layers, of ``source``."""
    if student.family == "distilbert":
        return _as_distilbert(source, student, labels)
    family = anatomy.family_of(source.config)
    if family.derived == "shared":
        raise TutelageError(
            f"layers of a {source.config.model_type} are run more than once and cannot be copied one by one; make an "
            "ordinary checkpoint of it first: tutelage export --standard"
        )
    if not family.layers:
        raise TutelageError(f"a {source.config.model_type} has no layers to copy; use a fresh student with family=bert")
    picked = chosen_layers(student, getattr(source.config, family.depth))
    if family.first_layer_differs and picked[0] != 1:
        raise TutelageError(
            f"the first layer of {source.config.model_type} has no norm before its attention and cannot be replaced by "
            f"layer {picked[0]}; choose layers that start with 1 (choose=first or choose=spread)"
        )
    config = copy.deepcopy(source.config)
    setattr(config, family.depth, len(picked))
    if getattr(config, "layer_types", None):
        config.layer_types = [source.config.layer_types[i - 1] for i in picked]
    for key, value in labels.items():
        setattr(config, key, value)
    model: PreTrainedModel = AUTO[anatomy.head_of(source)].from_config(config, dtype=torch.float32)
    prefix = next(name for name, module in source.named_modules() if module is anatomy.layers_of(source)) + "."
    weights: dict[str, Any] = {}
    for name, tensor in source.state_dict().items():
        if name.startswith(prefix) and not family.shared:
            index, _, rest = name.removeprefix(prefix).partition(".")
            weights |= {f"{prefix}{new}.{rest}": tensor for new, old in enumerate(picked) if old - 1 == int(index)}
        else:
            weights[name] = tensor
    model.load_state_dict(weights)
    return model.eval()


def _as_distilbert(source: PreTrainedModel, student: Copied, labels: dict[str, Any]) -> PreTrainedModel:
    if source.config.model_type != "bert":
        raise TutelageError(
            f"family=distilbert is made of the layers of a BERT, and this is a {source.config.model_type}; leave it out"
        )
    theirs, ours = anatomy.FAMILIES["bert"], anatomy.FAMILIES["distilbert"]
    shape = anatomy.shape_of(source.config)
    config = AutoConfig.for_model(
        "distilbert",
        vocab_size=shape.vocabulary,
        max_position_embeddings=source.config.max_position_embeddings,
        pad_token_id=source.config.pad_token_id,
        activation=source.config.hidden_act,
        dropout=source.config.hidden_dropout_prob,
        attention_dropout=source.config.attention_probs_dropout_prob,
        **{getattr(ours, size): getattr(shape, size) for size in ("hidden", "heads", "intermediate")},
        **labels,
    )
    picked = chosen_layers(student, shape.layers)
    setattr(config, ours.depth, len(picked))
    head = anatomy.head_of(source)
    model: PreTrainedModel = AUTO[head].from_config(config, dtype=torch.float32)
    old, new = anatomy.base_of(source), anatomy.base_of(model)
    parts = ("query", "key", "value", "attention_output", "attention_norm", "ffn_up", "ffn_down", "ffn_norm")
    pairs = [
        (
            old.get_submodule(f"{theirs.layers}.{layer - 1}.{getattr(theirs, part)}"),
            f"{ours.layers}.{place}.{getattr(ours, part)}",
        )
        for place, layer in enumerate(picked)
        for part in parts
    ]
    pairs += [
        (old.get_submodule(f"embeddings.{part}"), f"embeddings.{part}")
        for part in ("word_embeddings", "position_embeddings", "LayerNorm")
    ]
    for module, path in pairs:
        new.get_submodule(path).load_state_dict(module.state_dict())
    with torch.no_grad():
        new.get_submodule("embeddings.position_embeddings").weight += old.embeddings.token_type_embeddings.weight[0]
    if head == "words":
        predictions = source.get_submodule("cls.predictions")
        model.get_submodule("vocab_transform").load_state_dict(predictions.transform.dense.state_dict())
        model.get_submodule("vocab_layer_norm").load_state_dict(predictions.transform.LayerNorm.state_dict())
        model.get_submodule("vocab_projector").load_state_dict(predictions.decoder.state_dict())
    return model.eval()


def from_sizes(student: Fresh, like: Any, labels: dict[str, Any], head: Head = "classes") -> PreTrainedModel:
    """A network with random weights, of the sizes given and otherwise configured like ``like``."""
    model_type = student.family or like.model_type
    if model_type in anatomy.FAMILIES and anatomy.FAMILIES[model_type].derived:
        raise TutelageError(
            f"there is no fresh {model_type}; use init={anatomy.FAMILIES[model_type].derived}, or family=bert"
        )
    config = copy.deepcopy(like) if model_type == like.model_type else _plain_config(model_type, like)
    family = anatomy.family_of(config)
    setattr(config, family.depth, student.layers)
    for size in ("hidden", "intermediate", "heads"):
        # The teacher's are set too: what a GPT-2 leaves out would follow from its hidden size.
        setattr(config, getattr(family, size), getattr(student, size) or getattr(anatomy.shape_of(like), size))
    shape = anatomy.shape_of(config)
    if shape.hidden % shape.heads:
        fitting = [h for h in range(1, shape.hidden + 1) if shape.hidden % h == 0 and h <= 2 * shape.heads]
        raise TutelageError(
            f"the hidden size {shape.hidden} is not divisible by {shape.heads} heads; use one of heads="
            f"{', '.join(map(str, fitting))} or another hidden size"
        )
    if anatomy.max_length(config) < 1:
        raise TutelageError(
            f"a {model_type} counts positions from the number of its padding token, {config.pad_token_id} here, and has "
            f"{config.max_position_embeddings} of them; use family=bert"
        )
    if student.embedding is not None:
        if not hasattr(config, "embedding_size"):
            raise TutelageError(
                f"{model_type} has no embedding size of its own; leave out embedding={student.embedding}"
            )
        config.embedding_size = student.embedding
    if getattr(config, "layer_types", None):
        kinds = list(config.layer_types)
        config.layer_types = (kinds * student.layers)[: student.layers]
    for key, value in labels.items():
        setattr(config, key, value)
    model: PreTrainedModel = AUTO[head].from_config(fitted_config(config, head), dtype=torch.float32)
    return model.eval()


def fitted_config(config: Any, head: Head) -> Any:
    """The configuration; for next words changed so that no token sees a later one, which is the answer.

    Raises:
        TutelageError: for a family that cannot learn what the head is for.
    """
    causal = anatomy.family_of(config).causal
    if head == "words" and causal:
        raise TutelageError(
            f"a {config.model_type} sees no later tokens and cannot learn masked words; use next words (pretrain --causal), "
            "or another family"
        )
    if head != "next_words" or causal:
        return config
    if config.model_type not in ("bert", "roberta", "electra"):
        raise TutelageError(
            f"a {config.model_type} sees later tokens and cannot learn the next word; use masked words, or a gpt2, bert, "
            "roberta or electra"
        )
    config.is_decoder = True
    return config


def _plain_config(model_type: str, like: Any) -> Any:
    if model_type not in anatomy.FAMILIES:
        known = sorted(name for name, family in anatomy.FAMILIES.items() if not family.derived)
        raise TutelageError(f"family={model_type!r} is unknown; use one of {', '.join(known)}")
    special = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    tokens = {name: getattr(like, name, None) for name in special}
    # A model that generates text must not believe in an end that its vocabulary lacks, as by its family's defaults.
    stated = anatomy.FAMILIES[model_type].causal
    return AutoConfig.for_model(
        model_type,
        vocab_size=like.vocab_size,
        max_position_embeddings=like.max_position_embeddings,
        **{name: value for name, value in tokens.items() if value is not None or stated},
    )


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


def resolve(path: str) -> str:
    """A model's folder: the path itself, or ``student/`` in it if it is the folder of a run."""
    inside = Path(path) / "student"
    return str(inside) if not (Path(path) / "config.json").exists() and (inside / "config.json").exists() else path
