"""Before a run: load everything, check everything, say what will happen. Nothing is written here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from tutelage import anatomy
from tutelage.config import DataConfig, RunConfig
from tutelage.data.batches import padded
from tutelage.data.docstrings import demo_data
from tutelage.data.examples import Data, Encoded, Examples, encode
from tutelage.data.files import load_files, read_unlabeled
from tutelage.data.tasks import load_glue
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.evaluation.metrics import chance, score
from tutelage.knowledge.signals import Needs
from tutelage.objectives.mapping import picture
from tutelage.objectives.terms import HardLabels, Objective
from tutelage.progress import Display
from tutelage.recipe import Stage
from tutelage.students.build import build, load_model, resolve
from tutelage.teachers.teacher import predict


@dataclass
class Texts:
    """One part of the data as the student reads it, and as the teacher does where that differs."""

    examples: Examples
    student: Encoded
    teacher: Encoded | None


@dataclass
class Setup:
    """Everything a run is made of, checked and loaded; nothing has been written yet."""

    config: RunConfig
    data: Data
    labels: dict[str, Any]
    teacher: PreTrainedModel | None
    student: PreTrainedModel
    tokenizer: Any
    train: Texts
    selection: Texts
    dev: dict[str, Texts]
    teacher_logits: dict[str, Tensor]
    """The teacher's predictions on each part of dev."""
    warnings: list[str]


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


def load_teacher(name: str) -> tuple[PreTrainedModel, Any]:
    """A fine-tuned teacher and its tokenizer.

    Raises:
        TutelageError: when it cannot be loaded, or has no classification head of its own.
    """
    path = resolve(name)
    model, missing = load_model(path)
    if missing:
        raise TutelageError(
            f"the teacher {name!r} has no classification head (its weights lack {missing[0]}); fine-tune it first: "
            f"tutelage finetune --model {name} ..."
        )
    return model, load_tokenizer(path)


def load_tokenizer(name: str) -> Any:
    """A tokenizer from a folder or the hub.

    Raises:
        TutelageError: when there is none, or it cannot pad.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a damaged file ends in whatever its reader raises
        raise TutelageError(f"cannot load the tokenizer of {name!r}: {str(error).strip().splitlines()[0]}") from None
    if tokenizer.pad_token_id is None:
        raise TutelageError(f"the tokenizer of {name!r} has no padding token; set one and save it again")
    return tokenizer


def match_labels(data: Data, teacher: PreTrainedModel, name: str) -> tuple[Data, list[str]]:
    """The data with the teacher's label numbers, matched by name; and warnings.

    Raises:
        TutelageError: when the teacher's labels are others than the data's.
    """
    config = teacher.config
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


def prepare(config: RunConfig, accelerator: Accelerator, display: Display) -> Setup:
    """Load and check everything; every mistake a user can make ends here, before anything is written.

    Raises:
        TutelageError: with the thing, the value and the remedy.
    """
    if config.out is None:
        raise TutelageError("there is no place for the result; give --out FOLDER")
    data = load_data(config.data)
    warnings: list[str] = []
    teacher, teacher_tokenizer = None, None
    if config.teacher is not None:
        teacher, teacher_tokenizer = load_teacher(config.teacher)
        data, warnings = match_labels(data, teacher, config.teacher)
    elif config.recipe.needs_teacher:
        raise TutelageError(f"the method {config.recipe.method!r} needs a teacher; give --teacher FOLDER")
    labels = label_settings(data)
    student = build(config.recipe.student, teacher, labels, config.seed)
    own = {"checkpoint": "name", "copied": "source"}.get(config.recipe.student.init)
    origin = getattr(config.recipe.student, own) if own else None
    tokenizer = teacher_tokenizer if origin is None else load_tokenizer(resolve(origin))
    tokenizer = fitted_tokenizer(tokenizer, student)
    _check_objectives(config, data, student, teacher)

    if config.data.holdout:
        data = data.hold_out(config.data.holdout, config.seed)
    if data.selection is None:
        first = next(iter(data.dev))
        data = replace(data, selection=data.dev[first], sources={**data.sources, "selection": f"{first}, as reported"})
        warnings.append(f"checkpoints are chosen on {first}, the data that the report scores; its scores flatter")
    assert data.selection is not None
    limit = min(anatomy.max_length(m.config) for m in (student, teacher) if m is not None)
    if config.data.max_length is not None and config.data.max_length > limit:
        raise TutelageError(f"max_length={config.data.max_length} is beyond the model's {limit} positions; use {limit}")
    for stage in config.recipe.stages:
        if (stage.pad_to or 0) > limit:
            raise TutelageError(f"stage {stage.name!r} has pad_to={stage.pad_to}, beyond the model's {limit} positions")
    limit = config.data.max_length or limit

    def read(examples: Examples) -> Texts:
        ours = encode(examples, tokenizer, limit)
        if teacher is None or teacher_tokenizer is None or tokenizer is teacher_tokenizer:
            return Texts(examples, ours, None)
        return Texts(examples, ours, encode(examples, fitted_tokenizer(teacher_tokenizer, teacher), limit))

    learnt = data.train if data.unlabeled is None else data.train.join(data.unlabeled)
    train, selection = read(learnt), read(data.selection)
    _check_tokens(train.student, tokenizer, student, origin or config.teacher)
    dev = {name: read(part) for name, part in data.dev.items()}
    for name, texts in (("train", train), ("selection", selection), *dev.items()):
        if texts.student.truncated:
            warnings.append(f"{texts.student.truncated:,} texts of {name} were longer than {limit} tokens and were cut")
    _check_alignment(config, train, teacher)
    logits: dict[str, Tensor] = {}
    student.to(accelerator.device)
    if teacher is not None:
        teacher.to(accelerator.device)
        for name, texts in dev.items():
            logits[name] = predicted(
                teacher, texts.teacher or texts.student, accelerator, display, f"teacher on {name}"
            )
        warnings += _check_teacher(config, data, logits)
    return Setup(config, data, labels, teacher, student, tokenizer, train, selection, dev, logits, warnings)


def _check_objectives(config: RunConfig, data: Data, student: PreTrainedModel, teacher: PreTrainedModel | None) -> None:
    for stage in config.recipe.stages:
        Objective(stage.objective, data.kind, anatomy.shape_of(student.config), optional_shape(teacher))
    if config.data.unlabeled is not None and all(stage.labels_only for stage in config.recipe.stages):
        raise TutelageError(
            f"the method {config.recipe.method!r} learns from labels alone and cannot use the unlabelled texts of "
            f"{config.data.unlabeled!r}; use a method with a teacher, or leave out --unlabeled"
        )


def optional_shape(model: PreTrainedModel | None) -> anatomy.Shape | None:
    """The sizes of a model that may be absent."""
    return None if model is None else anatomy.shape_of(model.config)


def _check_tokens(encoded: Encoded, tokenizer: Any, student: PreTrainedModel, name: str | None) -> None:
    """A folder without a tokenizer loads as one that knows no word, without complaint."""
    unknown = float((encoded.tokens == tokenizer.unk_token_id).mean()) if tokenizer.unk_token_id is not None else 0.0
    if unknown > 0.4 or int(encoded.tokens.max()) >= student.config.vocab_size:
        raise TutelageError(
            f"the tokenizer of {name!r} does not fit: {unknown:.0%} of the tokens of train are unknown to it and its "
            f"largest id is {int(encoded.tokens.max())} of {student.config.vocab_size}; save the right one beside the model"
        )


def _check_alignment(config: RunConfig, train: Texts, teacher: PreTrainedModel | None) -> None:
    """Layers can only be compared token by token when both models read the same tokens."""
    if teacher is None or train.teacher is None or np.array_equal(train.student.tokens, train.teacher.tokens):
        return
    for stage in config.recipe.stages:
        for term in stage.objective:
            if term.kind in ("embeddings", "hidden", "attention_scores"):
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


def planned_steps(stage: Stage, examples: Examples) -> int:
    """Optimiser steps of a stage that nothing ends early."""
    count = int(examples.labelled.sum()) if stage.labels_only else len(examples)
    return min(stage.epochs * -(-count // stage.batch_size), stage.max_steps or 2**62)


def plan(setup: Setup) -> str:
    """What will happen, in words: sizes, what is read from whom, the mapping as a picture, cost."""
    config, data = setup.config, setup.data
    student, teacher = anatomy.shape_of(setup.student.config), optional_shape(setup.teacher)
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
        teacher_flops = speed.flops(setup.teacher, typical(read, setup.teacher)(1))
        lines.append(f"teacher  {teacher}, {speed.count_parameters(setup.teacher) / 1e6:.1f} M parameters")
    lines.append(f"student  {student}, {speed.count_parameters(setup.student) / 1e6:.1f} M parameters")
    seconds = 0.0
    trial = speed.latencies({"student": setup.student}, {"student": inputs}, batch_sizes=(32,), repeats=3)
    rate = 32 * student_flops / (trial["student"]["32"] / 1000)
    for stage in config.recipe.stages:
        objective = Objective(stage.objective, data.kind, student, teacher)
        steps = planned_steps(stage, setup.train.examples)
        live = needs_live(objective.teacher_needs)
        flops = stage.batch_size * (3 * student_flops + (teacher_flops if live else 0))
        seconds += steps * flops / rate
        lines.append(
            f"stage {stage.name}: {steps:,} steps of {stage.batch_size} examples, {flops / 1e9:.1f} GFLOP each; reads "
            f"{objective.student_needs} of the student and {objective.teacher_needs} of the teacher"
            + ("" if live or not objective.teacher_needs else " (computed once)")
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


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def typical(encoded: Encoded, model: PreTrainedModel) -> Callable[[int], dict[str, Tensor]]:
    """Inputs of the texts' mean length, as many as asked for, where the model is."""
    lengths, device = encoded.lengths, next(model.parameters()).device
    row = int(np.abs(lengths - lengths.mean()).argmin())
    inputs = {name: value.to(device) for name, value in padded(encoded, np.array([row])).items()}
    return lambda count: {name: value.repeat(count, 1) for name, value in inputs.items()}


def wants_baseline(config: RunConfig) -> bool:
    """Whether the student is trained without its teacher too; one that learns from labels alone is its own baseline."""
    return config.baseline and config.teacher is not None and config.recipe.needs_teacher


def needs_live(needs: Needs) -> bool:
    """Whether the teacher must run beside the student: for logits alone it runs once, before."""
    return bool(needs.hidden) or bool(needs.attention)
