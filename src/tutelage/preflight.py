"""Before a run: load everything, check everything, say what will happen. Nothing is written here."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import AUTO, Head
from tutelage.config import DataConfig, RunConfig
from tutelage.data import batches
from tutelage.data.augmentation import Candidates, variants
from tutelage.data.batches import Feed, Known, Rows, padded
from tutelage.data.conll import encode_words, load_conll, own_sentences
from tutelage.data.docstrings import demo_data
from tutelage.data.examples import Data, Encoded, Examples, Kind, encode
from tutelage.data.files import load_files, read_unlabeled
from tutelage.data.rules import Lexicon, Rules, rule_variants
from tutelage.data.squad import encode_spans, load_squad, own_questions
from tutelage.data.tasks import load_glue
from tutelage.data.tokenizers import load_tokenizer
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.evaluation.answers import answer_chance, best_answers, squad_scores
from tutelage.evaluation.entities import best_tags, tag_chance, tag_scores
from tutelage.evaluation.metrics import chance, score
from tutelage.knowledge import out_of_fold
from tutelage.knowledge.signals import Needs
from tutelage.knowledge.store import Scheme, Store, check_place
from tutelage.knowledge.verdicts import described, verdicts
from tutelage.objectives.mapping import picture
from tutelage.objectives.terms import HardLabels, LogitsMSE, Objective, SoftLabels
from tutelage.progress import Display, duration
from tutelage.recipe import Stage
from tutelage.students import compactors
from tutelage.students.bilstm import word_tokenizer
from tutelage.students.build import (
    BiLSTM,
    Checkpoint,
    Inherited,
    Pruned,
    Reading,
    Sliced,
    Student,
    build,
    load_config,
    origin_of,
    resolve,
    takes_from_teacher,
)
from tutelage.students.pruned import Scores, importance
from tutelage.teacher_store import Knowledge, storable, verified
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import predict
from tutelage.teachers.team import Members
from tutelage.training.forgetting import Forgetter, Forgetting


@dataclass
class Texts:
    """One part of the data as the student reads it, and as the teacher does where that differs."""

    examples: Examples
    student: Encoded
    teacher: Encoded | None

    def at(self, rows: Rows) -> Texts:
        """The examples at ``rows``, with all the windows in which they are read."""

        def taken(encoded: Encoded) -> Encoded:
            read, of = rows_of(encoded, rows)
            part = encoded.take(read)
            return part if part.windows is None else replace(part, windows=replace(part.windows, of=of))

        teacher = None if self.teacher is None else taken(self.teacher)
        return Texts(self.examples.take(rows), taken(self.student), teacher)


def rows_of(encoded: Encoded, examples: Rows) -> tuple[Rows, Rows]:
    """Where ``encoded`` has these examples: its rows, all windows of each, and of which of ``examples`` each row is."""
    if encoded.windows is None:
        return examples, np.arange(len(examples))
    of = encoded.windows.of
    first, last = np.searchsorted(of, examples), np.searchsorted(of, examples, side="right")
    rows = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    return rows, np.repeat(np.arange(len(examples)), last - first)


@dataclass
class Setup:
    """Everything a run is made of, checked and loaded; nothing has been written yet."""

    config: RunConfig
    data: Data
    labels: dict[str, Any]
    teacher: Source | None
    new_student: Callable[[bool], PreTrainedModel]
    """Makes the student as it is before training; or (for True) what is trained without the teacher beside it."""
    student: PreTrainedModel
    tokenizer: Any
    parts: dict[str, Texts]
    """What stages learn from: ``train``; ``augmented``, which is these texts and their variants; ``search``, which is train
    without what tells which teachers of a team help."""
    selection: Texts
    dev: dict[str, Texts]
    teacher_logits: dict[str, Tensor]
    """The teacher's predictions on each part of dev, and on the parts to learn from that it was asked about."""
    warnings: list[str]
    knowledge: Knowledge | None = None
    """What a store of this teacher is about."""
    store: Store | None = None
    rows: dict[str, Rows] = field(default_factory=dict)
    """Where the store has the examples of each of ``parts``."""
    to_write: Scheme | None = None
    """What the store is to keep that this run will write."""
    everything: Examples | None = None
    """All that a teacher may be asked about in training."""
    held: Texts | None = None
    """Beside a team: the examples of train that tell which of its teachers help."""
    held_part: tuple[int, int] | None = None
    """Which part of train these are (see :func:`held_part`), but for what the run holds out to choose checkpoints on."""
    team: Members | None = None
    given_labels: tuple[str, ...] = ()
    """The names of the classes in the order of the data, whatever the teacher's."""

    @property
    def train(self) -> Texts:
        return self.parts["train"]

    def part(self, stage: Stage) -> str:
        """Which of ``parts`` a stage learns from."""
        assert isinstance(stage.data, str)
        return "search" if stage.team is not None and stage.team.learning is not None else stage.data

    def texts(self, stage: Stage) -> Texts:
        """What a stage learns from."""
        return self.parts[self.part(stage)]


# ---------------------------------------------------------------------------------------------------- before the run


def load_data(config: DataConfig) -> Data:
    """The data that a configuration names.

    Raises:
        TutelageError: for anything missing, malformed or contradictory.
    """
    if config.task is not None and (config.train is not None or config.dev is not None):
        raise TutelageError("--task and --train/--dev exclude each other: a task by name, or files of your own")
    folder = Path(config.data_dir) if config.data_dir else None
    named = "".join(filter(str.isalnum, (config.task or "").lower()))
    if config.task == "docstrings":
        data = demo_data()
    elif named in ("squad", "squad2"):
        data = load_squad("squad" if named == "squad" else "squad2", folder)
    elif named == "conll2003":
        data = load_conll(folder)
    elif config.task is not None:
        data = load_glue(config.task, folder)
    elif config.train is not None and config.kind in ("spans", "tokens"):
        data = (own_questions if config.kind == "spans" else own_sentences)(
            Path(config.train), Path(config.dev) if config.dev else None
        )
    elif config.train is not None:
        data = load_files(
            Path(config.train),
            Path(config.dev) if config.dev else None,
            None,
            config.text,
            config.text_pair,
            config.label,
            config.kind,
        )
    else:
        raise TutelageError("there is nothing to learn from; give --task NAME or --train FILE")
    if config.max_train is not None and config.max_train < len(data.train):
        rows = np.sort(np.random.default_rng(0).permutation(len(data.train))[: config.max_train])
        source = f"{data.sources.get('train', 'train')}, cut to {config.max_train:,} rows"
        data = replace(data, train=data.train.take(rows), sources={**data.sources, "train": source})
    for given, taken in ((config.leave_out, False), (config.only, True)):
        if given is not None:
            part, parts = given
            rows = np.flatnonzero((part_of(data.train, data.kind, parts) == part) == taken)
            source = f"{data.sources.get('train', 'train')}, {'only' if taken else 'without'} part {part} of {parts}"
            data = replace(data, train=data.train.take(rows), sources={**data.sources, "train": source})
    if config.noise:
        source = f"{data.sources.get('train', 'train')}, {config.noise:.0%} of the labels wrong on purpose"
        data = replace(data, train=_mislabelled(data, config.noise), sources={**data.sources, "train": source})
    if config.unlabeled is not None:
        if data.kind in ("spans", "tokens"):
            raise TutelageError(
                f"unlabelled texts cannot be read for a task of kind {data.kind}; leave out --unlabeled"
            )
        # GLUE's columns have names of their own, which a file of the user's need not share.
        data = replace(data, unlabeled=read_unlabeled(Path(config.unlabeled), config.text, config.text_pair, data))
    return data


def part_of(examples: Examples, kind: Kind, parts: int) -> Rows:
    """``(n,)``: in which part (from 1) each example is, drawn with seed 0; parts differ by one example at most, of each class
    too."""
    order = np.random.default_rng([0, 0xF01D]).permutation(len(examples))
    if kind == "classification":
        order = order[np.argsort(examples.labels[order], kind="stable")]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) % parts + 1
    return found


def held_part(count: int) -> tuple[int, int]:
    """``(k, n)``: the part of a training set of ``count`` on which a team's weights are learnt, and its teachers compared: a
    tenth, but 300 to 2,000 examples, and at most a fifth. Its teachers must not have learnt from it."""
    return 1, max(5, round(count / min(max(0.1 * count, 300), 2000)))


def _mislabelled(data: Data, share: float) -> Examples:
    """Train with so many wrong labels."""
    if data.kind != "classification":
        raise TutelageError(f"data.noise changes classes, and {data.task!r} is a {data.kind}; leave it out")
    generator = np.random.default_rng([0, 0x401E])
    labels, classes = data.train.labels.copy(), len(data.labels)
    wrong = generator.permutation(np.flatnonzero(labels >= 0))[: round(share * len(labels))]
    labels[wrong] = (labels[wrong] + generator.integers(1, classes, len(wrong))) % classes
    return replace(data.train, labels=labels)


def match_labels(data: Data, config: Any, name: str) -> tuple[Data, list[str]]:
    """The data with the label numbers of the teacher's configuration, matched by name; and warnings.

    Raises:
        TutelageError: when the teacher's labels are others than the data's.
    """
    count = config.num_labels
    if data.kind == "spans":
        return data, []
    if data.kind == "regression":
        if count != 1:
            raise TutelageError(
                f"the task {data.task!r} is a regression, but the teacher {name!r} has {count} labels; fine-tune it here"
            )
        return data, []
    theirs = [str(config.id2label[i]) for i in range(count)]
    if set(data.labels) <= set(theirs):
        return data.with_labels(tuple(theirs)), []
    lower = {label.lower(): label for label in data.labels}
    if len(lower) == len(data.labels) and set(lower) <= {label.lower() for label in theirs}:
        # The data's spelling wins; labels that only the teacher knows keep theirs.
        return data.with_labels(tuple(lower.get(label.lower(), label) for label in theirs)), []
    if unnamed(config) and count == len(data.labels):
        named = ", ".join(f"LABEL_{i}={label}" for i, label in enumerate(data.labels))
        return data, [f"the teacher's labels have no names; they were taken in the data's order ({named})"]
    raise TutelageError(
        f"the teacher {name!r} knows the labels {_listed(theirs)}, the data {_listed(data.labels)}; use a teacher "
        "fine-tuned on these labels, or correct id2label in its config.json"
    )


def unnamed(config: Any) -> bool:
    """Whether a model's classes have no names but those that transformers gives them."""
    return all(str(config.id2label[i]) == f"LABEL_{i}" for i in range(config.num_labels))


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" ... ({len(names)} in all)" if len(names) > 6 else "")


def label_settings(data: Data) -> dict[str, Any]:
    """What the student's configuration says about labels."""
    if data.kind == "spans":
        return {}
    if data.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    names = {"id2label": dict(enumerate(data.labels)), "label2id": {name: i for i, name in enumerate(data.labels)}}
    if data.kind == "tokens":
        return names
    kind = "single" if data.kind == "classification" else "multi"
    return {**names, "problem_type": f"{kind}_label_classification"}


HEADS: dict[Kind, Head] = {
    "classification": "classes",
    "regression": "classes",
    "multilabel": "classes",
    "tokens": "tokens",
    "spans": "spans",
}
"""What a model must answer for each kind of data."""


def encoded_as(kind: Kind, examples: Examples, tokenizer: Any, max_length: int, stride: int | None) -> Encoded:
    """Examples of a kind as token ids, with what is asked of which token."""
    if kind == "spans":
        third = max_length // 3
        return encode_spans(examples, tokenizer, max_length, stride or min(128, third), min(64, third))
    return (encode_words if kind == "tokens" else encode)(examples, tokenizer, max_length)


def longest(data: Data, config: DataConfig, limit: int) -> int:
    """The longest input in tokens: what the configuration says, else what the models take; windows are 384 at most."""
    return config.max_length or (min(limit, 384) if data.kind == "spans" else limit)


def fitted_tokenizer(tokenizer: Any, model: PreTrainedModel) -> Any:
    """The tokenizer, giving only what the model's ``forward`` takes (DistilBERT has no token types)."""
    has_types = anatomy.has_token_types(model.config)
    names = ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
    if has_types and "token_type_ids" not in tokenizer.model_input_names:
        return tokenizer
    if list(tokenizer.model_input_names) == names:
        return tokenizer
    fitted = copy.deepcopy(tokenizer)
    fitted.model_input_names = names
    fitted.init_kwargs["model_input_names"] = names
    return fitted


def prepare(config: RunConfig, accelerator: Accelerator, display: Display, *, sketch: bool = False) -> Setup:
    """Load and check everything; every mistake a user can make ends here, before anything is written.

    With ``sketch`` no weights are loaded: the student is an outline without memory, and the teacher is asked nothing.

    Raises:
        TutelageError: with the thing, the value and the remedy.
    """
    if config.out is None:
        raise TutelageError("there is no place for the result; give --out FOLDER")
    if not config.team and any(stage.team is not None for stage in config.recipe.stages):
        raise TutelageError(
            f"the method {config.recipe.method!r} learns from a team; use tutelage distill --team FOLDER (tutelage team train "
            "makes one)"
        )
    data = load_data(config.data)
    held_out, given_labels = held_part(len(data.train)), data.labels
    in_held = (
        part_of(data.train, data.kind, held_out[1]) == held_out[0]
    )  # before labels are numbered as the teacher does
    warnings: list[str] = []
    teacher = None
    if config.teacher is not None:
        teacher = Source(config.teacher, HEADS[data.kind])
        data, warnings = match_labels(data, teacher.config, config.teacher)
    elif config.recipe.needs_teacher:
        raise TutelageError(f"the method {config.recipe.method!r} needs a teacher; give --teacher FOLDER")
    labels = label_settings(data)
    whole = data.train  # a store knows all of it, so that it serves runs that hold out other parts
    if config.data.holdout:
        data = data.hold_out(config.data.holdout, config.seed)
    if data.selection is None:
        first = next(iter(data.dev))
        data = replace(data, selection=data.dev[first], sources={**data.sources, "selection": f"{first}, as reported"})
        warnings.append(f"checkpoints are chosen on {first}, the data that the report scores; its scores flatter")
    learnt = data.train if data.unlabeled is None else data.train.join(data.unlabeled)
    every = whole if data.unlabeled is None else whole.join(data.unlabeled)
    names = {"train": learnt.ids}
    held: set[str] = set()
    if config.team:
        held = {name for name, inside in zip(whole.ids, in_held, strict=True) if inside}
    if any(stage.team is not None and stage.team.learning is not None for stage in config.recipe.stages):
        names["search"] = [name for name in learnt.ids if name not in held]
    if all(stage.data != "augmented" for stage in config.recipe.stages):
        if config.data.candidates is not None or config.data.drop_flipped:
            raise TutelageError(
                f"the method {config.recipe.method!r} has no stage on augmented texts; leave out --candidates and "
                "data.drop_flipped"
            )
    else:
        more, of = _augmented(config, every, teacher, warnings)
        kept = set(learnt.ids)
        names["augmented"] = [
            *learnt.ids,
            *(name for name, row in zip(more.ids, of, strict=True) if every.ids[row] in kept),
        ]
        every = every.join(more)
    reading = reading_of(config, every, teacher)
    new_student = _student_maker(config, data, teacher, labels, accelerator, reading)
    student = (
        outline(config.recipe.student, teacher, labels, HEADS[data.kind], reading) if sketch else new_student(False)
    )
    origin = origin_of(config.recipe.student)
    if reading is not None:
        tokenizer = reading.tokenizer
    else:
        assert teacher is not None or origin is not None  # other students cannot be built without one
        tokenizer = teacher.tokenizer if teacher and origin is None else load_tokenizer(resolve(str(origin)))
    tokenizer = fitted_tokenizer(tokenizer, student)
    word = compactors.advice(student)
    warnings += [word] if word else []
    shape = anatomy.shape_of(student.config)
    if shape.stored is not None:
        warnings.append(
            f"{shape.stored} stored layers are run {shape.layers} times: the student has the parameters of {shape.stored} "
            f"layers and takes the time of {shape.layers}"
        )
    _check_objectives(config, data, student, teacher)
    assert data.selection is not None
    limit = min(anatomy.max_length(c) for c in [student.config, *([teacher.config] if teacher else [])])
    if config.data.max_length is not None and config.data.max_length > limit:
        raise TutelageError(f"max_length={config.data.max_length} is beyond the model's {limit} positions; use {limit}")
    for stage in config.recipe.stages:
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")
    limit = longest(data, config.data, min(limit, config.recipe.longest or limit))

    def read(examples: Examples) -> Texts:
        ours = encoded_as(data.kind, examples, tokenizer, limit, config.data.stride)
        if teacher is None or tokenizer is teacher.tokenizer:
            return Texts(examples, ours, None)
        fitted = fitted_tokenizer(teacher.tokenizer, teacher.outline)
        theirs = encoded_as(data.kind, examples, fitted, limit, config.data.stride)
        same = np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.offsets, theirs.offsets)
        return Texts(examples, ours, None if same and _same_types(ours, theirs) else theirs)

    everything = read(every)
    row_of = {name: row for row, name in enumerate(every.ids)}
    parts = {part: everything.at(np.array([row_of[name] for name in ids])) for part, ids in names.items()}
    train = parts["train"]
    selection = read(data.selection)
    if reading is None:
        _check_tokens(train.student, tokenizer, student, origin or config.teacher)
    dev = {name: read(part) for name, part in data.dev.items()}
    for name, texts in (("train", train), ("selection", selection), *dev.items()):
        if texts.student.truncated:
            what = "questions" if data.kind == "spans" else "texts"
            warnings.append(
                f"{texts.student.truncated:,} {what} of {name} were longer than {limit} tokens and were cut"
            )
    for texts in (train, selection, *dev.values()):
        _check_alignment(config, texts, teacher)
    if train.examples.pairs is not None and reading is None and tokenizer.num_special_tokens_to_add(pair=True) == 0:
        warnings.append("the student's tokenizer puts nothing between the two texts of a pair; they are read as one")
    if config.teacher_store is not None:
        check_storable(data)
    for stage in config.recipe.stages:
        if stage.verdicts is not None and stage.verdicts.source != "train":
            out_of_fold.read(Path(stage.verdicts.source), parts[str(stage.data)].examples, data.labels)
    setup = Setup(config, data, labels, teacher, new_student, student, tokenizer, parts, selection, dev, {}, warnings)
    setup.everything, setup.given_labels = every, given_labels
    for stage, objective in zip(config.recipe.stages, objectives_of(setup), strict=True):
        for term, mapped in zip(objective.terms, objective.mapped, strict=True):
            if term.kind == "first_token" and not mapped and teacher is not None:
                warnings.append(
                    f"stage {stage.name} compares no [CLS] vectors: but for the last, no layer of {shape.layers} ends at the share "
                    f"of the depth at which one of {teacher.shape.layers} does ({term.layers}); use another depth, or layers=skip"
                )
    if held:
        setup.held = everything.at(np.array([row_of[name] for name in learnt.ids if name in held]))
        setup.held_part = held_out
    if teacher is not None:
        asked = {name: (texts.examples.ids, texts.teacher or texts.student) for name, texts in dev.items()}
        ids, read_by_teacher = everything.examples.ids, everything.teacher or everything.student
        setup.knowledge = Knowledge(data.task, teacher, ids, read_by_teacher, config.mixed_precision, limit, asked)
    if sketch:
        return setup
    if config.teacher_store is not None and teacher is not None:
        _find_store(setup, display)
    student.to(accelerator.device)
    if teacher is not None:
        if not teacher.has_weights and _asks_teacher(setup):
            raise TutelageError(teacher.without_weights)
        ask_teacher(setup, accelerator, display)
        if config.data.drop_flipped and "augmented" in parts:
            _drop_flipped(setup, accelerator, display)
        release_teacher(setup)
    return setup


def check_storable(data: Data) -> None:
    """See that a store can keep what is answered.

    Raises:
        TutelageError: when it is more than one answer for each text.
    """
    if data.kind in ("tokens", "spans"):
        raise TutelageError(
            f"a store keeps one answer for each text, and the task {data.task!r} asks for one of every token; teach it "
            "without a store"
        )


def _augmented(
    config: RunConfig, examples: Examples, teacher: Source | None, warnings: list[str]
) -> tuple[Examples, Rows]:
    """Variants of the examples as the recipe wants them, and which example each is a variant of."""
    how, data = config.recipe.augmentation, config.data
    if isinstance(how, Rules):
        if teacher is not None and teacher.tokenizer.mask_token is not None:
            how = how.model_copy(update={"mask_token": teacher.tokenizer.mask_token})
        return rule_variants(examples, Lexicon([*examples.texts, *(examples.pairs or [])]), how, config.seed)
    if how is not None and data.candidates is not None:
        if examples.labels.dtype.kind == "O":  # answers are places in the second text
            how = how.model_copy(update={"fields": "text"})
        more, of = variants(examples, Candidates.load(Path(data.candidates)), how, config.seed)
        if not len(more):
            raise TutelageError(
                f"the candidates in {data.candidates!r} know none of these texts; make them with the same data: tutelage "
                "augment"
            )
        return more, of
    warnings.append(
        f"the method {config.recipe.method!r} learns from augmented texts, but no candidates were given (--candidates, made by "
        "tutelage augment); it learns from the texts as they are"
    )
    return examples.take([]), np.empty(0, dtype=np.int64)


def _drop_flipped(setup: Setup, accelerator: Accelerator, display: Display) -> None:
    """Leave out the variants of which the teacher predicts another class than of their originals."""
    if setup.data.kind != "classification":
        raise TutelageError(
            f"data.drop_flipped compares predicted classes, and {setup.data.task!r} is a {setup.data.kind}; leave it out"
        )
    texts = setup.parts["augmented"]
    predicted_class = taught(setup, "augmented", accelerator, display).argmax(dim=1).numpy()
    row_of = {name: row for row, name in enumerate(texts.examples.ids)}
    of = np.array([row_of[name.partition("~")[0]] for name in texts.examples.ids])
    kept = np.flatnonzero(predicted_class == predicted_class[of])
    setup.parts["augmented"] = texts.at(kept)
    setup.teacher_logits["augmented"] = setup.teacher_logits["augmented"][torch.from_numpy(kept)]
    if "augmented" in setup.rows:
        setup.rows["augmented"] = setup.rows["augmented"][kept]
    display.say(f"{len(of) - len(kept):,} of {len(of):,} variants flip the teacher's prediction and are left out")


def taught(setup: Setup, part: str, accelerator: Accelerator, display: Display) -> Tensor:
    """The teacher's logits on a part to learn from: from the store, or computed once."""
    if part not in setup.teacher_logits:
        assert setup.teacher is not None
        if setup.store is not None and setup.store.scheme.lacks(Needs(logits=True)) is None:
            setup.teacher_logits[part] = setup.store.logits(setup.rows[part])
        else:
            texts = setup.parts[part]
            model = setup.teacher.model.to(accelerator.device)
            encoded = texts.teacher or texts.student
            setup.teacher_logits[part] = predicted(model, encoded, accelerator, display, f"teacher on {part}")
    return setup.teacher_logits[part]


def _same_types(one: Encoded, other: Encoded) -> bool:
    if one.types is None or other.types is None:
        return one.types is other.types
    return np.array_equal(one.types, other.types)


def ask_teacher(setup: Setup, accelerator: Accelerator, display: Display) -> None:
    """The teacher's predictions on dev, from the store where it has them.

    Raises:
        TutelageError: when they are no better than a constant answer.
    """
    assert setup.teacher is not None and setup.knowledge is not None
    if setup.store is not None:
        setup.teacher_logits |= setup.knowledge.evaluation(setup.store)
    for name, (_, encoded) in setup.knowledge.dev.items():
        if name not in setup.teacher_logits:
            model = setup.teacher.model.to(accelerator.device)
            setup.teacher_logits[name] = predicted(model, encoded, accelerator, display, f"teacher on {name}")
    setup.warnings += _check_teacher(setup.config, setup.data, setup.dev, setup.teacher_logits)


def reading_of(config: RunConfig, examples: Examples, teacher: Source | None) -> Reading | None:
    """What a student of words reads; none for a student with a tokenizer of its own or its teacher's."""
    spec = config.recipe.student
    if not isinstance(spec, BiLSTM):
        return None
    limit = anatomy.UNLIMITED if teacher is None else anatomy.max_length(teacher.config)
    texts = chain(examples.texts, examples.pairs or ())
    mask = None if teacher is None else teacher.tokenizer.mask_token  # texts made by rules have the teacher's
    tokenizer = word_tokenizer(texts, spec.words, config.data.max_length or limit, mask or "[MASK]")
    return Reading(tokenizer, examples.pairs is not None)


def outline(
    student: Student,
    teacher: Source | None,
    labels: dict[str, Any],
    head: Head = "classes",
    reading: Reading | None = None,
) -> PreTrainedModel:
    """The student as a network without memory for its weights: its sizes and its cost, before anything is loaded."""

    def any_scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.zeros(shape.heads), torch.zeros(shape.intermediate))] * shape.layers

    with torch.device("meta"):
        if isinstance(student, Inherited | Sliced):
            source = load_config(resolve(student.source)) if student.source else teacher.config if teacher else None
            if source is not None:
                return AUTO[head].from_config(compactors.narrowed(student, source)).eval()
        return build(student, None if teacher is None else teacher.outline, labels, 0, any_scores, head, reading)


def _student_maker(
    config: RunConfig,
    data: Data,
    teacher: Source | None,
    labels: dict[str, Any],
    accelerator: Accelerator,
    reading: Reading | None,
) -> Callable[[bool], PreTrainedModel]:
    """A function that builds the student or its baseline, each time the same; importance is computed once."""
    spec = config.recipe.student
    known: list[Scores] = []

    def scores(model: PreTrainedModel) -> Scores:
        assert isinstance(spec, Pruned) and teacher is not None
        if not known:
            labelled = data.train.take(np.flatnonzero(data.train.labelled)[: spec.examples])
            tokens = encode(labelled, fitted_tokenizer(teacher.tokenizer, model), anatomy.max_length(model.config))
            steps = batches.steps(tokens.lengths, np.arange(len(tokens)), 32, config.seed, 0)
            model.to(accelerator.device)
            known.append(importance(model, (_with_labels(tokens, labelled, rows, model) for rows in steps), data.kind))
        return known[0]

    def make(baseline: bool) -> PreTrainedModel:
        source = None if teacher is None else teacher.model if takes_from_teacher(spec) else teacher.outline
        made = spec.sliced() if baseline and isinstance(spec, Inherited) else spec
        return build(made, source, labels, config.seed, scores, HEADS[data.kind], reading)

    return make


def _with_labels(
    encoded: Encoded, examples: Examples, rows: Rows, model: PreTrainedModel
) -> tuple[dict[str, Tensor], Tensor]:
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in padded(encoded, rows).items()}
    return inputs, torch.from_numpy(examples.labels[rows]).to(device)


def objectives_of(setup: Setup) -> list[Objective]:
    """Those of all stages."""
    student = anatomy.shape_of(compactors.config_of(setup.student))
    teacher = None if setup.teacher is None else setup.teacher.shape
    return [Objective(stage.objective, setup.data.kind, student, teacher) for stage in setup.config.recipe.stages]


def _asks_teacher(setup: Setup) -> bool:
    """Whether a stage must ask the teacher: neither a store nor a team can say what it learns."""
    lacking = None if setup.store is None else setup.store.scheme.lacks
    return any(
        stage.team is None and (lacking is None or lacking(objective.teacher_needs) is not None)
        for stage, objective in zip(setup.config.recipe.stages, objectives_of(setup), strict=True)
    )


def release_teacher(setup: Setup) -> None:
    """Let the teacher's weights go if there is nothing left to ask it."""
    if setup.teacher is not None and not _asks_teacher(setup):
        setup.teacher.release()


def _find_store(setup: Setup, display: Display) -> None:
    """Open the store that the run names, or one that fits; else decide what is to be written."""
    config = setup.config
    assert setup.knowledge is not None and config.teacher_store is not None
    needs = storable(objectives_of(setup))
    if config.teacher_store != "auto":
        found = setup.knowledge.open(Path(config.teacher_store), needs)
    else:
        setup.to_write = setup.knowledge.scheme(needs, config.store_dtype)
        fitting = setup.knowledge.fitting(setup.to_write, needs)
        if fitting is None:
            check_place(setup.knowledge.home(setup.to_write))  # what lies there did not fit: it is damaged
            return
        found, setup.to_write = fitting, None
    use_store(setup, *found, display)


def use_store(setup: Setup, store: Store, rows: Rows, display: Display) -> None:
    """Let the run read from ``store``, where all its examples have ``rows``."""
    assert setup.knowledge is not None
    row_of = dict(zip(setup.knowledge.ids, rows.tolist(), strict=True))
    setup.store = verified(store, display)
    for part, texts in setup.parts.items():
        setup.rows[part] = np.array([row_of[name] for name in texts.examples.ids])


def _check_objectives(config: RunConfig, data: Data, student: PreTrainedModel, teacher: Source | None) -> None:
    for stage in config.recipe.stages:
        shape = None if teacher is None else teacher.shape
        objective = Objective(stage.objective, data.kind, anatomy.shape_of(student.config), shape)
        configs = [(student.config, objective.student_needs)]
        configs += [] if teacher is None else [(teacher.config, objective.teacher_needs)]
        for asked, needs in configs:
            if needs.running and not anatomy.family_of(asked).layers:
                raise TutelageError(
                    f"stage {stage.name!r} reads {needs}, but a {asked.model_type} has logits alone; use a method on "
                    "predictions (kd, logits_mse)"
                )
        if objective.student_needs.pooled:
            anatomy.pooler_of(student)
        if objective.teacher_needs.pooled and teacher is not None:
            anatomy.pooler_of(teacher.outline)
    if config.data.unlabeled is not None and all(stage.labels_only for stage in config.recipe.stages):
        raise TutelageError(
            f"the method {config.recipe.method!r} learns from labels alone and cannot use the unlabelled texts of "
            f"{config.data.unlabeled!r}; use a method with a teacher, or leave out --unlabeled"
        )


def _check_tokens(encoded: Encoded, tokenizer: Any, student: PreTrainedModel, name: str | None) -> None:
    """A folder without a tokenizer loads as one that knows no word, without complaint."""
    unknown = float((encoded.tokens == tokenizer.unk_token_id).mean()) if tokenizer.unk_token_id is not None else 0.0
    if unknown > 0.4 or int(encoded.tokens.max()) >= student.config.vocab_size:
        raise TutelageError(
            f"the tokenizer of {name!r} does not fit: {unknown:.0%} of the tokens of train are unknown to it and its "
            f"largest id is {int(encoded.tokens.max())} of {student.config.vocab_size}; save the right one beside the model"
        )


def _check_alignment(config: RunConfig, train: Texts, teacher: Source | None) -> None:
    """Layers can only be compared token by token when both models read the same tokens; spans are places in them too."""
    if teacher is None or train.teacher is None or np.array_equal(train.student.tokens, train.teacher.tokens):
        return
    if train.student.windows is not None or not np.array_equal(train.student.asked, train.teacher.asked):
        raise TutelageError(
            "student and teacher have different tokenizers and would be asked of different tokens; use a student of the "
            "teacher's family" + ("" if train.student.windows else ", or a larger max_length")
        )
    for stage in config.recipe.stages:
        for term in stage.objective:
            if term.kind in ("embeddings", "hidden", "attention_scores", "hidden_knowledge"):
                raise TutelageError(
                    f"the term {term.kind} of stage {stage.name!r} compares token by token, but student and teacher have "
                    "different tokenizers; use a method on predictions (kd, logits_mse) or a student of the teacher's family"
                )


def _check_teacher(config: RunConfig, data: Data, dev: dict[str, Texts], logits: dict[str, Tensor]) -> list[str]:
    """Stop at a teacher that knows no more than a constant answer."""
    name, part = next(iter(data.dev.items()))
    scores = scores_of(data, logits[name], dev[name])
    # One standard error of a proportion, at most: a score within it of a constant answer's shows nothing.
    margin = 0.5 / len(part) ** 0.5
    constant = constant_scores(data, part)
    if any(scores[metric] > constant[metric] + margin for metric in data.metrics):
        return []
    metric = data.metrics[0]
    line = (
        f"the teacher {config.teacher!r} scores {metric} {scores[metric]:.3f} on {name}, no better than a constant answer "
        f"({constant[metric]:.3f})"
    )
    if not config.allow_weak_teacher:
        raise TutelageError(f"{line}; fine-tune it on this task, or pass --allow-weak-teacher")
    return [line]


def predicted(
    model: PreTrainedModel, encoded: Encoded, accelerator: Accelerator, display: Display, name: str
) -> Tensor:
    """Logits of all examples, ``(examples, classes)``, with the progress shown under ``name``."""
    return predict(model, encoded, accelerator, lambda count: display.advance(name, len(encoded), count))


# --------------------------------------------------------------------------------------------------------- the plan


def scores_of(data: Data, logits: Tensor, texts: Texts) -> dict[str, float]:
    """The task's metrics of the student's (or the teacher's, which reads the same words) predictions ``(answers, classes)``."""
    examples = texts.examples
    if data.kind == "spans":
        unanswerable = any(answers == () for answers in examples.labels)
        return squad_scores(best_answers(logits, texts.student, examples, with_null=unanswerable), examples)
    if data.kind == "tokens":
        return tag_scores(best_tags(logits, texts.student, examples, data.labels), examples, data.labels)
    return score(data.metrics, logits.numpy(), examples.labels, data.kind, data.positive)


def constant_scores(data: Data, examples: Examples) -> dict[str, float]:
    """What the same answer to everything scores."""
    if data.kind == "spans":
        return answer_chance(examples)
    if data.kind == "tokens":
        return tag_chance(examples, data.labels)
    return {name: chance(name, examples.labels, data.kind, data.positive) for name in data.metrics}


def baseline_stage(config: RunConfig, steps: int) -> Stage:
    """Fine-tuning for ``steps`` steps, as many as the student was distilled for, at the last stage's rate."""
    last = config.recipe.stages[-1]
    return last.model_copy(
        update={
            "name": "labels",
            "objective": [HardLabels()],
            "epochs": 10**6,
            "max_steps": steps,
            # Kept as the student is: of one that forgets, the last.
            "select": "best" if last.forgetting is None else "last",
            "forgetting": None,
            "team": None,
            "patience": None,
            "pad_to": None,
            "warmup": 0.1,
            "decay": "linear",
        }
    )


def inherit(objective: Objective, student: Student) -> int:
    """Let an objective start from the projections that a run on a corpus left beside this student; returns how many fit."""
    folder = (
        Path(resolve(student.name)).parent if isinstance(student, Checkpoint) and Path(student.name).is_dir() else None
    )
    if folder is None or not (folder / "report.json").exists():
        return 0
    path = folder / "projections.safetensors"
    if not path.exists() or not json.loads((folder / "report.json").read_text(encoding="utf-8")).get("general"):
        return 0
    ours, found = objective.projections.state_dict(), {}
    for name, tensor in load_file(path).items():
        name = name.partition(".")[2]  # without the stage
        if name in ours and ours[name].shape == tensor.shape:
            found[name] = tensor
    objective.projections.load_state_dict({**ours, **found})
    return len(found)


def feed_of(stage: Stage, encoded: Encoded) -> Feed:
    """What a stage reads of these texts: those of labels alone leave out the texts that have none."""
    known = encoded.known > 0
    needs = stage.labels_only or stage.verdicts is not None
    return Known(encoded, np.flatnonzero(known) if needs and not known.all() else None)


def read_by(setup: Setup, stage: Stage, accelerator: Accelerator, display: Display) -> Encoded:
    """What the student reads in a stage: its texts, with the teacher's verdicts in the labels' place where they are asked."""
    texts = setup.texts(stage)
    if stage.verdicts is None:
        return texts.student
    assert isinstance(stage.data, str)
    if stage.verdicts.source == "train":
        logits = taught(setup, stage.data, accelerator, display).numpy()
    else:
        logits = out_of_fold.read(Path(stage.verdicts.source), texts.examples, setup.data.labels)
    found = verdicts(logits, texts.examples.labels, stage.verdicts, setup.data.kind, setup.config.seed)
    display.say(
        f"the teacher is {described(found)}" if stage.verdicts.control != "true" else "labels in place of verdicts"
    )
    return replace(texts.student, labels=found)


def planned_steps(stage: Stage, feed: Feed) -> int:
    """Optimiser steps of a stage that nothing ends early."""
    return min(stage.epochs * -(-len(feed.rows(0)) // stage.batch_size), stage.max_steps or 2**62)


def plan(setup: Setup) -> str:
    """What will happen, in words: sizes, what is read from whom, the mapping as a picture, cost."""
    config, data = setup.config, setup.data
    network = compactors.as_merged(setup.student).to(setup.student.device)
    student, teacher = anatomy.shape_of(network.config), None if setup.teacher is None else setup.teacher.shape
    lengths = setup.train.student.lengths
    inputs = typical(setup.train.student, setup.student)
    student_flops = speed.flops(network, inputs(1))
    lines = [
        f"{config.recipe.title} on {data.task}: {len(data.train):,} labelled"
        + (f" + {len(data.unlabeled):,} unlabelled" if data.unlabeled else "")
        + f" texts, {lengths.mean():.1f} tokens on average; {len(setup.selection.examples):,} choose the checkpoint, "
        + f"{sum(map(len, data.dev.values())):,} are scored",
    ]
    teacher_flops = 0
    if setup.teacher is not None:
        read = setup.train.teacher or setup.train.student
        outline = setup.teacher.outline
        teacher_flops = speed.flops(outline, typical(read, outline)(1))
        lines.append(f"teacher  {teacher}, {speed.count_parameters(outline) / 1e6:.1f} M parameters")
        lines += _store_lines(setup)
    if setup.team is not None:
        lines += [f"team     {line}" for line in setup.team.lines(data.metrics[0], next(iter(setup.dev)))]
    lines.append(f"student  {student}, {speed.count_parameters(network) / 1e6:.1f} M parameters")
    seconds = 0.0
    trial = speed.latencies({"student": network}, {"student": inputs}, batch_sizes=(32,), repeats=3)
    rate = 32 * student_flops / (trial["student"]["32"] / 1000)
    for stage, objective in zip(config.recipe.stages, objectives_of(setup), strict=True):
        steps = planned_steps(stage, feed_of(stage, setup.texts(stage).student))
        lacking = setup.store.scheme.lacks if setup.store else setup.to_write.lacks if setup.to_write else None
        from_store = lacking is not None and lacking(objective.teacher_needs) is None
        live = objective.teacher_needs.running and not from_store
        flops = stage.batch_size * (3 * student_flops + (teacher_flops if live else 0))
        seconds += steps * flops / rate
        lines.append(
            f"stage {stage.name}: {steps:,} steps of {stage.batch_size} examples, {flops / 1e9:.1f} GFLOP each; reads "
            f"{objective.student_needs} of the student and {objective.teacher_needs} of the teacher"
            + ("" if live or not objective.teacher_needs else " (stored)" if from_store else " (computed once)")
        )
        if stage.forgetting is not None:
            lines.append(forgetting_line(setup.student, stage.forgetting, steps))
        if stage.team is not None and setup.team is not None:
            lines += team_notes(stage, steps, len(setup.team.names))
        taken = inherit(objective, config.recipe.student)
        if taken:
            lines.append(f"  starts from {taken} projections of {config.recipe.student.name}")  # type: ignore[union-attr]
        if teacher is not None:
            lines += mapping_lines(objective, student, teacher)
    if wants_baseline(config):
        inherited = isinstance(config.recipe.student, Inherited)
        other = "one of slices of the teacher" if inherited else "the same student without the teacher"
        lines.append(f"then {other}, for as many steps (--no-baseline skips it)")
    lines.append(f"expected time on this machine: about {duration(seconds)}, the baseline not counted")
    lines += [f"note: {warning}" for warning in setup.warnings]
    return "\n".join(lines)


def team_notes(stage: Stage, steps: int, members: int) -> list[str]:
    """What a stage learns about its team, and what would make that doubtful."""
    assert stage.team is not None
    if (how := stage.team.learning) is None:
        return []
    updates = -(-steps // how.every)
    cost = 3 * how.examples / stage.batch_size / how.every + 2 / how.every
    lines = [
        f"  {updates:,} updates of the distribution, which make a step about {1 + cost / 3:.1f} times as dear (the time below "
        "does not count it)"
    ]
    if updates < 100 * members:
        lines.append(
            f"note: {updates:,} updates are few for {members} teachers, and the weights may be noise; take {100 * members:,} or "
            f"more (--set stages.{stage.name}.max_steps={100 * members * how.every})"
        )
    if all(isinstance(term, SoftLabels | LogitsMSE) for term in stage.objective if term.weight > 0):
        lines.append(
            f"note: stage {stage.name} has no labels in its objective; where many teachers are bad, its student learns nothing "
            "that could tell them apart"
        )
    return lines


def forgetting_line(student: PreTrainedModel, how: Forgetting, steps: int) -> str:
    """When a student with compactors becomes as small as it will be.

    Raises:
        TutelageError: when the steps do not suffice.
    """
    interval, last = Forgetter(how, student).times(steps)
    return (
        f"  coordinates go every {interval:,} steps; until step {last:,} or so a step costs what the teacher's training "
        "does, which the time below does not count"
    )


def mapping_lines(objective: Objective, student: anatomy.Shape, teacher: anatomy.Shape) -> list[str]:
    """For each term that compares layers a picture of which teaches which."""
    lines = []
    for term, mapped in zip(objective.terms, objective.mapped, strict=True):
        if mapped:
            drawing = picture(mapped, student.layers, teacher.layers).split("\n")
            lines += [f"  {term.kind}", *(f"  {line}" for line in drawing)]
    return lines


def _store_lines(setup: Setup) -> list[str]:
    """Which store the run uses, and what it will hold."""
    if setup.store is not None:
        loaded = "" if setup.teacher is None or setup.teacher.loaded else "; the teacher is not loaded"
        return [f"store    {setup.store.name}, {setup.store.manifest.bytes / 1e6:,.1f} MB{loaded}"]
    if setup.to_write is None or setup.knowledge is None:
        return []
    size = setup.to_write.record_bytes(setup.knowledge.encoded.lengths)
    where = setup.knowledge.home(setup.to_write)
    return [
        f"store    will be written to {where}: {len(size):,} examples, {size.mean():,.0f} bytes each, "
        f"{size.sum() / 1e6:,.1f} MB; later runs read it"
    ]


def typical(encoded: Encoded, model: PreTrainedModel) -> Callable[[int], dict[str, Tensor]]:
    """Inputs of the texts' mean length, as many as asked for, where the model is."""
    lengths, device = encoded.lengths, next(model.parameters()).device
    row = int(np.abs(lengths - lengths.mean()).argmin())
    inputs = {name: value.to(device) for name, value in padded(encoded, np.array([row])).items()}
    if device.type == "meta":
        # transformers looks into a mask, or (GPT-2) for padding where there is none; one of each pair is taken as it is.
        mask = inputs.pop("attention_mask").bool()
        if anatomy.family_of(model.config).causal:
            inputs["attention_mask"] = mask[:, None, None, :].expand(1, 1, mask.shape[1], -1)
    return lambda count: {name: value.repeat_interleave(count, 0) for name, value in inputs.items()}


def wants_baseline(config: RunConfig) -> bool:
    """Whether the student is trained without its teacher too; one that learns from labels alone is its own baseline."""
    return config.baseline and config.teacher is not None and config.recipe.needs_teacher
