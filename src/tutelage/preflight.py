"""Before a run: load everything, check everything, say what will happen. Nothing is written here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.config import DataConfig, RunConfig
from tutelage.data import batches
from tutelage.data.batches import Feed, Known, Rows, padded
from tutelage.data.docstrings import demo_data
from tutelage.data.examples import Data, Encoded, Examples, encode
from tutelage.data.files import load_files, read_unlabeled
from tutelage.data.tasks import load_glue
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.evaluation.metrics import chance, score
from tutelage.knowledge.store import Scheme, Store, check_place
from tutelage.objectives.mapping import picture
from tutelage.objectives.terms import HardLabels, Objective
from tutelage.progress import Display
from tutelage.recipe import Stage
from tutelage.students.build import Copied, Pruned, Student, build, resolve
from tutelage.students.pruned import Scores, importance
from tutelage.teacher_store import Knowledge, storable, verified
from tutelage.teachers.source import Source, load_tokenizer
from tutelage.teachers.teacher import predict


@dataclass
class Texts:
    """One part of the data as the student reads it, and as the teacher does where that differs."""

    examples: Examples
    student: Encoded
    teacher: Encoded | None

    def take(self, rows: Rows) -> Texts:
        """The texts at ``rows``."""
        teacher = None if self.teacher is None else self.teacher.take(rows)
        return Texts(self.examples.take(rows), self.student.take(rows), teacher)


@dataclass
class Setup:
    """Everything a run is made of, checked and loaded; nothing has been written yet."""

    config: RunConfig
    data: Data
    labels: dict[str, Any]
    teacher: Source | None
    new_student: Callable[[], PreTrainedModel]
    """Makes the student as it is before training."""
    student: PreTrainedModel
    tokenizer: Any
    train: Texts
    selection: Texts
    dev: dict[str, Texts]
    teacher_logits: dict[str, Tensor]
    """The teacher's predictions on each part of dev."""
    warnings: list[str]
    knowledge: Knowledge | None = None
    """What a store of this teacher is about."""
    store: Store | None = None
    rows: Rows | None = None
    """Where the store has the examples of ``train``."""
    to_write: Scheme | None = None
    """What the store is to keep that this run will write."""


# ---------------------------------------------------------------------------------------------------- before the run


def load_data(config: DataConfig) -> Data:
    """The data that a configuration names.

    Raises:
        TutelageError: for anything missing, malformed or contradictory.
    """
    if config.task is not None and (config.train is not None or config.dev is not None):
        raise TutelageError("--task and --train/--dev exclude each other: a task by name, or files of your own")
    if config.task == "docstrings":
        data = demo_data()
    elif config.task is not None:
        data = load_glue(config.task, Path(config.data_dir) if config.data_dir else None)
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
    if config.unlabeled is not None:
        # GLUE's columns have names of their own, which a file of the user's need not share.
        data = replace(data, unlabeled=read_unlabeled(Path(config.unlabeled), config.text, config.text_pair, data))
    return data


def match_labels(data: Data, config: Any, name: str) -> tuple[Data, list[str]]:
    """The data with the label numbers of the teacher's configuration, matched by name; and warnings.

    Raises:
        TutelageError: when the teacher's labels are others than the data's.
    """
    count = config.num_labels
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
    unnamed = theirs == [f"LABEL_{i}" for i in range(count)]
    if unnamed and count == len(data.labels):
        named = ", ".join(f"LABEL_{i}={label}" for i, label in enumerate(data.labels))
        return data, [f"the teacher's labels have no names; they were taken in the data's order ({named})"]
    raise TutelageError(
        f"the teacher {name!r} knows the labels {_listed(theirs)}, the data {_listed(data.labels)}; use a teacher "
        "fine-tuned on these labels, or correct id2label in its config.json"
    )


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(map(repr, names[:6])) + (f" ... ({len(names)} in all)" if len(names) > 6 else "")


def label_settings(data: Data) -> dict[str, Any]:
    """What the student's configuration says about labels."""
    if data.kind == "regression":
        return {"num_labels": 1, "problem_type": "regression"}
    kind = "single" if data.kind == "classification" else "multi"
    return {
        "id2label": dict(enumerate(data.labels)),
        "label2id": {name: i for i, name in enumerate(data.labels)},
        "problem_type": f"{kind}_label_classification",
    }


def fitted_tokenizer(tokenizer: Any, model: PreTrainedModel) -> Any:
    """The tokenizer, giving only what the model's ``forward`` takes (DistilBERT has no token types)."""
    has_types = getattr(model.config, "type_vocab_size", 0) > 1
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
    data = load_data(config.data)
    warnings: list[str] = []
    teacher = None
    if config.teacher is not None:
        teacher = Source(config.teacher)
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
    new_student = _student_maker(config, data, teacher, labels, accelerator)
    student = outline(config.recipe.student, teacher, labels) if sketch else new_student()
    own = {"checkpoint": "name", "copied": "source"}.get(config.recipe.student.init)
    origin: str | None = getattr(config.recipe.student, own) if own else None
    assert teacher is not None or origin is not None  # other students cannot be built without one
    tokenizer = teacher.tokenizer if teacher and origin is None else load_tokenizer(resolve(str(origin)))
    tokenizer = fitted_tokenizer(tokenizer, student)
    _check_objectives(config, data, student, teacher)
    assert data.selection is not None
    limit = min(anatomy.max_length(c) for c in [student.config, *([teacher.config] if teacher else [])])
    if config.data.max_length is not None and config.data.max_length > limit:
        raise TutelageError(f"max_length={config.data.max_length} is beyond the model's {limit} positions; use {limit}")
    for stage in config.recipe.stages:
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")
    limit = config.data.max_length or limit

    def read(examples: Examples) -> Texts:
        ours = encode(examples, tokenizer, limit)
        if teacher is None or tokenizer is teacher.tokenizer:
            return Texts(examples, ours, None)
        return Texts(examples, ours, encode(examples, fitted_tokenizer(teacher.tokenizer, teacher.outline), limit))

    everything = read(whole if data.unlabeled is None else whole.join(data.unlabeled))
    row_of = {name: row for row, name in enumerate(everything.examples.ids)}
    learnt = data.train if data.unlabeled is None else data.train.join(data.unlabeled)
    train = everything.take(np.array([row_of[name] for name in learnt.ids]))
    selection = read(data.selection)
    _check_tokens(train.student, tokenizer, student, origin or config.teacher)
    dev = {name: read(part) for name, part in data.dev.items()}
    for name, texts in (("train", train), ("selection", selection), *dev.items()):
        if texts.student.truncated:
            warnings.append(f"{texts.student.truncated:,} texts of {name} were longer than {limit} tokens and were cut")
    _check_alignment(config, train, teacher)
    setup = Setup(config, data, labels, teacher, new_student, student, tokenizer, train, selection, dev, {}, warnings)
    if teacher is not None:
        parts = {name: (texts.examples.ids, texts.teacher or texts.student) for name, texts in dev.items()}
        ids, read_by_teacher = everything.examples.ids, everything.teacher or everything.student
        setup.knowledge = Knowledge(data.task, teacher, ids, read_by_teacher, config.mixed_precision, limit, parts)
    if sketch:
        return setup
    if config.teacher_store is not None and teacher is not None:
        _find_store(setup, display)
    student.to(accelerator.device)
    if teacher is not None:
        if not teacher.has_weights and not all(_stored(setup, objective) for objective in objectives_of(setup)):
            raise TutelageError(teacher.without_weights)
        ask_teacher(setup, accelerator, display)
        release_teacher(setup)
    return setup


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
    setup.warnings += _check_teacher(setup.config, setup.data, setup.teacher_logits)


def outline(student: Student, teacher: Source | None, labels: dict[str, Any]) -> PreTrainedModel:
    """The student as a network without memory for its weights: its sizes and its cost, before anything is loaded."""

    def any_scores(model: PreTrainedModel) -> Scores:
        shape = anatomy.shape_of(model.config)
        return [(torch.zeros(shape.heads), torch.zeros(shape.intermediate))] * shape.layers

    with torch.device("meta"):
        return build(student, None if teacher is None else teacher.outline, labels, 0, any_scores)


def _student_maker(
    config: RunConfig, data: Data, teacher: Source | None, labels: dict[str, Any], accelerator: Accelerator
) -> Callable[[], PreTrainedModel]:
    """A function that builds the student, each time the same; importance is computed once."""
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

    def make() -> PreTrainedModel:
        from_teacher = isinstance(spec, Pruned) or (isinstance(spec, Copied) and spec.source is None)
        source = None if teacher is None else teacher.model if from_teacher else teacher.outline
        return build(spec, source, labels, config.seed, scores)

    return make


def _with_labels(
    encoded: Encoded, examples: Examples, rows: Rows, model: PreTrainedModel
) -> tuple[dict[str, Tensor], Tensor]:
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in padded(encoded, rows).items()}
    return inputs, torch.from_numpy(examples.labels[rows]).to(device)


def objectives_of(setup: Setup) -> list[Objective]:
    """Those of all stages."""
    student = anatomy.shape_of(setup.student.config)
    teacher = None if setup.teacher is None else setup.teacher.shape
    return [Objective(stage.objective, setup.data.kind, student, teacher) for stage in setup.config.recipe.stages]


def _stored(setup: Setup, objective: Objective) -> bool:
    """Whether a stage can learn from the store alone."""
    return setup.store is not None and setup.store.scheme.lacks(objective.teacher_needs) is None


def release_teacher(setup: Setup) -> None:
    """Let the teacher's weights go if the store can say all that is left to ask."""
    if setup.teacher is not None and all(_stored(setup, objective) for objective in objectives_of(setup)):
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
    setup.rows = np.array([row_of[name] for name in setup.train.examples.ids])


def _check_objectives(config: RunConfig, data: Data, student: PreTrainedModel, teacher: Source | None) -> None:
    for stage in config.recipe.stages:
        shape = None if teacher is None else teacher.shape
        Objective(stage.objective, data.kind, anatomy.shape_of(student.config), shape)
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
    """Layers can only be compared token by token when both models read the same tokens."""
    if teacher is None or train.teacher is None or np.array_equal(train.student.tokens, train.teacher.tokens):
        return
    for stage in config.recipe.stages:
        for term in stage.objective:
            if term.kind in ("embeddings", "hidden", "attention_scores", "hidden_knowledge"):
                raise TutelageError(
                    f"the term {term.kind} of stage {stage.name!r} compares token by token, but student and teacher have "
                    "different tokenizers; use a method on predictions (kd, logits_mse) or a student of the teacher's family"
                )


def _check_teacher(config: RunConfig, data: Data, logits: dict[str, Tensor]) -> list[str]:
    """Stop at a teacher that knows no more than a constant answer."""
    name, part = next(iter(data.dev.items()))
    scores = scores_of(data, logits[name], part)
    # One standard error of a proportion, at most: a score within it of a constant answer's shows nothing.
    margin = 0.5 / len(part) ** 0.5
    if any(scores[metric] > chance(metric, part.labels, data.kind, data.positive) + margin for metric in data.metrics):
        return []
    metric = data.metrics[0]
    line = (
        f"the teacher {config.teacher!r} scores {metric} {scores[metric]:.3f} on {name}, no better than a constant answer "
        f"({chance(metric, part.labels, data.kind, data.positive):.3f})"
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


def scores_of(data: Data, logits: Tensor, examples: Examples) -> dict[str, float]:
    """The task's metrics of predictions ``(examples, classes)``."""
    return score(data.metrics, logits.numpy(), examples.labels, data.kind, data.positive)


def baseline_stage(config: RunConfig, steps: int) -> Stage:
    """Fine-tuning for ``steps`` steps, as many as the student was distilled for, at the last stage's rate."""
    last = config.recipe.stages[-1]
    return last.model_copy(
        update={
            "name": "labels",
            "objective": [HardLabels()],
            "epochs": 10**6,
            "max_steps": steps,
            "select": "best",
            "patience": None,
            "pad_to": None,
            "warmup": 0.1,
            "decay": "linear",
        }
    )


def feed_of(stage: Stage, encoded: Encoded) -> Feed:
    """What a stage reads of these texts: those of labels alone leave out the texts that have none."""
    known = encoded.known > 0
    return Known(encoded, np.flatnonzero(known) if stage.labels_only and not known.all() else None)


def planned_steps(stage: Stage, feed: Feed) -> int:
    """Optimiser steps of a stage that nothing ends early."""
    return min(stage.epochs * -(-len(feed.rows(0)) // stage.batch_size), stage.max_steps or 2**62)


def plan(setup: Setup) -> str:
    """What will happen, in words: sizes, what is read from whom, the mapping as a picture, cost."""
    config, data = setup.config, setup.data
    student, teacher = anatomy.shape_of(setup.student.config), None if setup.teacher is None else setup.teacher.shape
    lengths = setup.train.student.lengths
    inputs = typical(setup.train.student, setup.student)
    student_flops = speed.flops(setup.student, inputs(1))
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
    lines.append(f"student  {student}, {speed.count_parameters(setup.student) / 1e6:.1f} M parameters")
    seconds = 0.0
    trial = speed.latencies({"student": setup.student}, {"student": inputs}, batch_sizes=(32,), repeats=3)
    rate = 32 * student_flops / (trial["student"]["32"] / 1000)
    for stage, objective in zip(config.recipe.stages, objectives_of(setup), strict=True):
        steps = planned_steps(stage, feed_of(stage, setup.train.student))
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
        for term, mapped in zip(objective.terms, objective.mapped, strict=True):
            if mapped and teacher is not None:
                lines += [
                    f"  {term.kind}",
                    *(f"  {line}" for line in picture(mapped, student.layers, teacher.layers).split("\n")),
                ]
    if wants_baseline(config):
        lines.append("then the same student without the teacher, for as many steps (--no-baseline skips it)")
    lines.append(f"expected time on this machine: about {_duration(seconds)}, the baseline not counted")
    lines += [f"note: {warning}" for warning in setup.warnings]
    return "\n".join(lines)


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


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def typical(encoded: Encoded, model: PreTrainedModel) -> Callable[[int], dict[str, Tensor]]:
    """Inputs of the texts' mean length, as many as asked for, where the model is."""
    lengths, device = encoded.lengths, next(model.parameters()).device
    row = int(np.abs(lengths - lengths.mean()).argmin())
    inputs = {name: value.to(device) for name, value in padded(encoded, np.array([row])).items()}
    if device.type == "meta":
        del inputs["attention_mask"]  # transformers looks into it; without padding it says nothing
    return lambda count: {name: value.repeat(count, 1) for name, value in inputs.items()}


def wants_baseline(config: RunConfig) -> bool:
    """Whether the student is trained without its teacher too; one that learns from labels alone is its own baseline."""
    return config.baseline and config.teacher is not None and config.recipe.needs_teacher
