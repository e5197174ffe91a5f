"""A run on a task: everything is loaded and checked before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.augmentation.candidates import Candidates
from tutelage.data.augmentation.rules import Lexicon, Rules, rule_variants
from tutelage.data.augmentation.variants import variants
from tutelage.data.batches import Feed, Known
from tutelage.data.examples import Data, Encoded, Examples, Rows
from tutelage.data.parts import held_part, part_of
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.errors import TutelageError
from tutelage.knowledge import out_of_fold
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.knowledge.store.scheme import Scheme
from tutelage.knowledge.store.writing import check_place
from tutelage.mechanisms.ptp import Verdicts, described, verdicts
from tutelage.mechanisms.team.weights import Members
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import HardLabels, Verdict
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.run.checks import check_alignment, check_objectives, check_storable, check_teacher, check_tokens
from tutelage.run.student import outline, reading_of, student_maker
from tutelage.run.teacher_store import Knowledge, storable, verified
from tutelage.students.compactors import compaction
from tutelage.students.load import resolve
from tutelage.students.specs import origin_of
from tutelage.tasks import kind_of
from tutelage.tasks.kind import Kind
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import predicted


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
    kind = kind_of(data.kind)
    given_labels = data.labels
    held: set[str] = set()
    held_out = held_part(len(data.train))
    if config.team:  # before labels are numbered as the teacher does
        parts_of_train = part_of(data.train, held_out[1])
        held = {name for name, part in zip(data.train.ids, parts_of_train, strict=True) if part == held_out[0]}
    warnings: list[str] = []
    teacher = None
    if config.teacher is not None:
        teacher = Source(config.teacher, kind.head)
        data, warnings = kind.match(data, teacher.config, config.teacher)
    elif config.recipe.needs_teacher:
        raise TutelageError(f"the method {config.recipe.method!r} needs a teacher; give --teacher FOLDER")
    for stage in config.recipe.stages:
        verdicts_of(stage, data)
    labels = kind.label_settings(data)
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
    if any(stage.team is not None and stage.team.learning is not None for stage in config.recipe.stages):
        names["search"] = [name for name in learnt.ids if name not in held]
    if all(stage.data != "augmented" for stage in config.recipe.stages):
        if config.data.candidates is not None or config.data.drop_flipped:
            raise TutelageError(
                f"the method {config.recipe.method!r} has no stage on augmented texts; leave out --candidates and "
                "data.drop_flipped"
            )
    else:
        more, of = _augmented(config, kind, every, teacher, warnings)
        kept = set(learnt.ids)
        names["augmented"] = [
            *learnt.ids,
            *(name for name, row in zip(more.ids, of, strict=True) if every.ids[row] in kept),
        ]
        every = every.join(more)
    reading = reading_of(config, every, teacher)
    new_student = student_maker(config, data, teacher, labels, accelerator, reading)
    student = outline(config.recipe.student, teacher, labels, kind.head, reading) if sketch else new_student(False)
    origin = origin_of(config.recipe.student)
    if reading is not None:
        tokenizer = reading.tokenizer
    else:
        assert teacher is not None or origin is not None  # other students cannot be built without one
        tokenizer = teacher.tokenizer if teacher and origin is None else load_tokenizer(resolve(str(origin)))
    tokenizer = fitted_tokenizer(tokenizer, student)
    word = compaction.advice(student)
    warnings += [word] if word else []
    shape = anatomy.shape_of(student.config)
    if shape.stored is not None:
        warnings.append(
            f"{shape.stored} stored layers are run {shape.layers} times: the student has the parameters of {shape.stored} "
            f"layers and takes the time of {shape.layers}"
        )
    check_objectives(config, data, student, teacher)
    assert data.selection is not None
    limit = min(anatomy.max_length(c) for c in [student.config, *([teacher.config] if teacher else [])])
    if config.data.max_length is not None and config.data.max_length > limit:
        raise TutelageError(f"max_length={config.data.max_length} is beyond the model's {limit} positions; use {limit}")
    for stage in config.recipe.stages:
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")
    limit = config.data.max_length or kind.longest(min(limit, config.recipe.longest or limit))

    def read(examples: Examples) -> Texts:
        ours = kind.encode(examples, tokenizer, limit, config.data.stride)
        if teacher is None or tokenizer is teacher.tokenizer:
            return Texts(examples, ours, None)
        fitted = fitted_tokenizer(teacher.tokenizer, teacher.outline)
        theirs = kind.encode(examples, fitted, limit, config.data.stride)
        same = np.array_equal(ours.tokens, theirs.tokens) and np.array_equal(ours.offsets, theirs.offsets)
        return Texts(examples, ours, None if same and _same_types(ours, theirs) else theirs)

    everything = read(every)
    row_of = {name: row for row, name in enumerate(every.ids)}
    parts = {part: everything.at(np.array([row_of[name] for name in ids])) for part, ids in names.items()}
    train = parts["train"]
    selection = read(data.selection)
    if reading is None:
        check_tokens(train.student, tokenizer, student, origin or config.teacher)
    dev = {name: read(part) for name, part in data.dev.items()}
    for name, texts in (("train", train), ("selection", selection), *dev.items()):
        if texts.student.truncated:
            warnings.append(
                f"{texts.student.truncated:,} {kind.unit} of {name} were longer than {limit} tokens and were cut"
            )
    for texts in (train, selection, *dev.values()):
        check_alignment(config, texts, teacher)
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
        _find_store(setup, accelerator, display)
    student.to(accelerator.device)
    if teacher is not None:
        if not teacher.has_weights and _asks_teacher(setup):
            raise TutelageError(teacher.without_weights)
        ask_teacher(setup, accelerator, display)
        if config.data.drop_flipped and "augmented" in parts:
            _drop_flipped(setup, accelerator, display)
        release_teacher(setup)
    return setup


def _augmented(
    config: RunConfig, kind: Kind, examples: Examples, teacher: Source | None, warnings: list[str]
) -> tuple[Examples, Rows]:
    """Variants of the examples as the recipe wants them, and which example each is a variant of."""
    how, data = config.recipe.augmentation, config.data
    if isinstance(how, Rules):
        if teacher is not None and teacher.tokenizer.mask_token is not None:
            how = how.model_copy(update={"mask_token": teacher.tokenizer.mask_token})
        return rule_variants(examples, Lexicon([*examples.texts, *(examples.pairs or [])]), how, config.seed)
    if how is not None and data.candidates is not None:
        if kind.answers_in_pair:
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
    if not kind_of(setup.data.kind).classifies_texts:
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
    store = setup.store
    if store is None and not setup.teacher.has_weights:  # of a store that is the first of a team
        store, _ = setup.knowledge.open(Path(setup.teacher.name).parent, Needs(logits=True))
    if store is not None:
        setup.teacher_logits |= setup.knowledge.evaluation(store)
    for name, (_, encoded) in setup.knowledge.dev.items():
        if name not in setup.teacher_logits:
            model = setup.teacher.model.to(accelerator.device)
            setup.teacher_logits[name] = predicted(model, encoded, accelerator, display, f"teacher on {name}")
    setup.warnings += check_teacher(setup.config, setup.data, setup.dev, setup.teacher_logits)


def objectives_of(setup: Setup) -> list[Objective]:
    """Those of all stages."""
    student = anatomy.shape_of(compaction.config_of(setup.student))
    teacher = None if setup.teacher is None else setup.teacher.shape
    kind = kind_of(setup.data.kind)
    return [Objective(stage.objective, kind, student, teacher) for stage in setup.config.recipe.stages]


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


def _find_store(setup: Setup, accelerator: Accelerator, display: Display) -> None:
    """Open the store that the run names, or one that fits; else decide what is to be written."""
    config = setup.config
    assert setup.knowledge is not None and config.teacher_store is not None
    needs = storable(objectives_of(setup))
    if config.teacher_store != "auto":
        found = setup.knowledge.open(Path(config.teacher_store), needs)
    else:
        setup.to_write = setup.knowledge.scheme(needs, config.store_dtype)
        fitting = setup.knowledge.fitting(setup.to_write, needs, accelerator)
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


def feed_of(stage: Stage, encoded: Encoded) -> Feed:
    """What a stage reads of these texts: those of labels alone leave out the texts that have none."""
    known = encoded.known > 0
    needs = stage.labels_only or stage.verdicts is not None
    return Known(encoded, np.flatnonzero(known) if needs and not known.all() else None)


def verdicts_of(stage: Stage, data: Data) -> Verdicts | None:
    """How a stage's verdicts are made for this task, if it has any.

    Raises:
        TutelageError: as :meth:`Verdicts.fitted`.
    """
    if stage.verdicts is None:
        return None
    classes = next(term.classes for term in stage.objective if isinstance(term, Verdict))
    return stage.verdicts.fitted(data.task, kind_of(data.kind), len(data.labels), classes)


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
    how = verdicts_of(stage, setup.data)
    assert how is not None
    found = verdicts(logits, texts.examples.labels, how, kind_of(setup.data.kind), setup.config.seed)
    display.say(f"the teacher is {described(found)}" if how.control != "labels" else "labels in place of verdicts")
    return replace(texts.student, labels=found)
