"""A team in a run: its teachers are found, asked once and compared; and what a run finds out about them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.artifacts import write_text
from tutelage.data.examples import Encoded, Examples
from tutelage.data.labels import unnamed
from tutelage.data.texts import Texts, rows_of
from tutelage.data.tokenizers import fitted_tokenizer, tokenizer_fingerprint
from tutelage.errors import TutelageError
from tutelage.evaluation import speed
from tutelage.knowledge.needs import Needs
from tutelage.mechanisms.team.folders import is_store, left_out, members_in, short
from tutelage.mechanisms.team.teacher import Resident, TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import DISTRIBUTION, Members, Numbers, Weights, start_of
from tutelage.objectives.objective import Objective
from tutelage.objectives.predictions import LogitsMSE, SoftLabels
from tutelage.progress import Display
from tutelage.recipes.config import RunConfig
from tutelage.recipes.recipe import Stage
from tutelage.report.team import dropped
from tutelage.run.task import Setup, objectives_of
from tutelage.run.teacher_store import Knowledge, verified
from tutelage.tasks import kind_of
from tutelage.teachers.source import Source
from tutelage.teachers.teacher import KnownLogits, Teacher, predict, predicted

MISNUMBERED, DEVIATIONS = 0.10, 3
"""By how much a teacher may become better when its classes are exchanged before they are taken to be misnumbered; and by how many
standard deviations of what one that answers at random gains by chance."""


ENOUGH = 200
"""Held-out examples from which on it is looked for."""


NEAR_CONSTANT = 0.02
"""A student that is so little better than a constant answer has learnt nothing by which teachers can be told apart."""


def gather(setup: Setup, accelerator: Accelerator, display: Display) -> Members:
    """Ask every teacher of a run's team, one after another, for its predictions on all texts; a store is read instead.

    Each reads with its own tokenizer, and its classes are matched by name.

    Raises:
        TutelageError: when one cannot be loaded, knows other classes, or has them in another order than it says.
    """
    config, data, every = setup.config, setup.data, setup.everything
    kind = kind_of(data.kind)
    assert every is not None and setup.held is not None and setup.knowledge is not None
    sources = [Source(str(Path(n) / "teacher") if is_store(n) else n, kind.head) for n in config.team]
    team = Members(
        names=short(config.team),
        folders=list(config.team),
        shapes=[str(source.shape) for source in sources],
        parameters=[speed.count_parameters(source.outline) for source in sources],
    )
    columns = [columns_of(setup, source.config, name) for source, name in zip(sources, config.team, strict=True)]
    _check_stages(setup, team, sources, columns)
    row_of = {name: row for row, name in enumerate(every.ids)}
    rows = {part: np.array([row_of[name] for name in texts.examples.ids]) for part, texts in setup.parts.items()}
    rows["held"] = np.array([row_of[name] for name in setup.held.examples.ids])
    tables: dict[str, list[Tensor]] = {part: [] for part in (*rows, *setup.dev)}
    read = setup.knowledge.encoded  # all teachers are asked for as many answers
    starts = np.concatenate([[0], np.cumsum(read.asked)])
    known: dict[tuple[str, ...], Read] = {}
    for source, name, shown, kept in zip(sources, config.team, team.names, columns, strict=True):
        found, dev = _asked(setup, source, name, shown, known, accelerator, display)
        for part, wanted in rows.items():
            places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows_of(read, wanted)[0]])
            tables[part].append(found[torch.from_numpy(places)][:, kept])
        for part in setup.dev:
            tables[part].append(dev[part][:, kept])
        _check_order(setup, tables["held"][-1], name)
    scored = {"held": setup.held, **setup.dev}
    for part, texts in scored.items():
        team.scores[part] = [kind.scores(data, table, texts) for table in tables[part]]
    team.logits = {part: torch.stack(found) for part, found in tables.items() if part not in setup.dev}
    team.constant = kind.constant_scores(data, setup.held.examples)
    judged = any(
        stage.team is not None and (stage.team.learning is not None or stage.team.weights == "teacher_rank")
        for stage in config.recipe.stages
    )
    if judged and not all(left_out(Path(name), config.data, setup.held_part) for name in config.team):
        setup.warnings.append(
            "it is not known that every teacher of the team has kept away from the examples on which their weights are learnt; "
            "who has learnt from them looks better than it is (tutelage team train keeps them apart)"
        )
    return team


def _check_stages(setup: Setup, team: Members, sources: list[Source], columns: list[list[int]]) -> None:
    """See that the stages can learn from this team, before anybody is asked."""
    kind, earlier = kind_of(setup.data.kind), None
    for stage, objective in zip(setup.config.recipe.stages, objectives_of(setup), strict=True):
        if (how := stage.team) is None:
            continue
        wrong = {
            "combine=discounted counts errors of classes": how.combine == "discounted" and not kind.single_label,
            "granularity=example gives each text one teacher": how.granularity == "example" and not kind.per_text,
            "average=probabilities mixes those of fixed classes (use average=logits)": how.combine == "average"
            and how.average == "probabilities"
            and not kind.fixed_outputs,
        }
        for line in (line for line, found in wrong.items() if found):
            raise TutelageError(
                f"stage {stage.name!r}: team.{line}, and the task {setup.data.task!r} is of kind {kind.name}"
            )
        if how.weights != "teacher_rank":
            start_of(how, team, setup.data.metrics[0], earlier)
        if how.learning is not None:
            if how.learning.parameters != "all" and anatomy.base_of(setup.student) is setup.student:
                raise TutelageError(
                    f"stage {stage.name!r}: team.learning.parameters={how.learning.parameters} names layers and a head, which this "
                    "student does not have apart; use parameters=all"
                )
            earlier = [1.0] * len(team.names)
        if objective.teacher_needs.running:
            _check_layers(setup, setup.texts(stage), sources, columns, objective.teacher_needs)


Read = tuple[Encoded, dict[str, Encoded]]
"""All texts and the parts of dev, as a teacher reads them."""


def _read(setup: Setup, source: Source, limit: int, known: dict[tuple[str, ...], Read]) -> Read:
    """What a teacher reads; ``known`` are those of others, by what their tokenizers do."""
    assert setup.everything is not None
    tokenizer = fitted_tokenizer(source.tokenizer, source.outline)
    key = (tokenizer_fingerprint(tokenizer), tokenizer.truncation_side, *tokenizer.model_input_names, str(limit))
    if key not in known:

        def read(examples: Examples) -> Encoded:
            return kind_of(setup.data.kind).encode(examples, tokenizer, limit, setup.config.data.stride)

        known[key] = read(setup.everything), {part: read(texts.examples) for part, texts in setup.dev.items()}
    return known[key]


def _asked(
    setup: Setup,
    source: Source,
    name: str,
    shown: str,
    read: dict[tuple[str, ...], Read],
    accelerator: Accelerator,
    display: Display,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One teacher's logits on all texts and on the parts of dev, in its own columns; ``read`` as :func:`_read` has it."""
    config, data, every, known = setup.config, setup.data, setup.everything, setup.knowledge
    assert every is not None and known is not None
    limit = min(known.max_length, anatomy.max_length(source.config))
    encoded, dev = _read(setup, source, limit, read)
    for ours, theirs in ((known.encoded, encoded), *((t.teacher or t.student, dev[p]) for p, t in setup.dev.items())):
        if ours.targets is not None and not np.array_equal(ours.asked, theirs.asked):
            raise TutelageError(
                f"the teacher {name!r} of the team would be asked of other tokens than the student; use teachers with one "
                "tokenizer"
            )
    asked = {part: (texts.examples.ids, dev[part]) for part, texts in setup.dev.items()}
    knowledge = Knowledge(data.task, source, every.ids, encoded, config.mixed_precision, limit, asked)
    needs, logits = Needs(logits=True), dict[str, Tensor]()
    scheme = knowledge.scheme(needs, config.store_dtype)
    stored = None
    if is_store(name):
        stored = knowledge.open(Path(name), needs)
    elif config.teacher_store == "auto":
        stored = knowledge.fitting(scheme, needs, accelerator)
    if stored is not None:
        logits |= knowledge.evaluation(verified(stored[0], display))
    for part, texts in dev.items():
        if part not in logits:
            if not source.has_weights:
                raise TutelageError(
                    f"the store {name!r} of the team has no predictions on {part}; write it with the same data, or name the "
                    "teacher itself"
                )
            model = source.model.to(accelerator.device)
            logits[part] = predicted(model, texts, accelerator, display, f"{shown} on {part}")
    if stored is None and config.teacher_store == "auto":
        stored = knowledge.find_or_write(scheme, needs, logits, accelerator, display)
    if stored is None:
        model = source.model.to(accelerator.device)
        found = predicted(model, encoded, accelerator, display, f"{shown} on train")
    else:
        found = stored[0].logits(stored[1])
    source.release()
    return found, logits


def columns_of(setup: Setup, config: Any, name: str) -> list[int]:
    """Where a teacher has the classes of a run's data, in their order.

    Raises:
        TutelageError: when it has other classes.
    """
    kind = kind_of(setup.data.kind)
    found = kind.columns(setup.data, config, name, setup.given_labels)
    if kind.named and unnamed(config):
        setup.warnings.append(f"the labels of {name!r} have no names; they were taken in the data's order")
    return found


def _check_order(setup: Setup, logits: Tensor, name: str) -> None:
    """A teacher whose classes are numbered otherwise than it says looks like one that knows nothing."""
    data, held = setup.data, setup.held
    assert held is not None
    known = np.flatnonzero(held.examples.labelled)
    if not kind_of(data.kind).classifies_texts or len(known) < ENOUGH:
        return
    answers, labels = logits.argmax(dim=1).numpy()[known], held.examples.labels[known]
    if len(set(answers.tolist())) == 1:
        return  # it knows nothing, which is no matter of order
    confusion = np.zeros((len(data.labels), len(data.labels)))
    np.add.at(confusion, (answers[::2], labels[::2]), 1)
    theirs = linear_sum_assignment(-confusion)[1]
    # On the other half: with many classes some order fits any answers that it is fitted to.
    gained = (theirs[answers[1::2]] == labels[1::2]).mean() - (answers[1::2] == labels[1::2]).mean()
    # Of two classes at random: one is right where the other is wrong, and the difference varies as 1 / sqrt(n).
    if gained <= max(MISNUMBERED, DEVIATIONS / len(known[1::2]) ** 0.5):
        return
    taken = [f"{data.labels[a]} for {data.labels[b]}" for a, b in enumerate(theirs) if a != b]
    line = (
        f"the teacher {name!r} of the team would be right on {100 * gained:.0f} of 100 held-out examples more with "
        f"{', '.join(taken[:3])}{' and so on' if taken[3:] else ''}; its labels seem to be in another order than its id2label says"
    )
    if not setup.config.allow_weak_teacher:
        raise TutelageError(f"{line}; correct it, or pass --allow-weak-teacher")
    setup.warnings.append(line)


def team_for(
    setup: Setup, index: int, objective: Objective, student: PreTrainedModel, folder: Path, accelerator: Accelerator
) -> tuple[TeamTeacher, Weigher | None]:
    """The team of a run's stage, and what learns its weights there."""
    config, kind, team = setup.config, kind_of(setup.data.kind), setup.team
    stage = config.recipe.stages[index]
    assert team is not None and stage.team is not None and setup.held is not None
    part = setup.part(stage)
    texts = setup.parts[part]
    start = starts(setup, folder, index)[stage.name]
    teachers: list[Teacher]
    if objective.teacher_needs.running:
        teachers = _running(setup, texts, objective.teacher_needs, stage.team.resident, accelerator)
    else:
        teachers = [KnownLogits(one.to(accelerator.device), texts.student.asked) for one in team.logits[part]]
    terms = [term for term in objective.terms if isinstance(term, SoftLabels | LogitsMSE)]
    temperature = next((term.temperature for term in terms if isinstance(term, SoftLabels)), 1.0)
    how = (
        stage.team
        if terms and isinstance(terms[0], SoftLabels)
        else stage.team.model_copy(update={"average": "logits"})
    )
    # By its name, so that a stage draws the same whatever stages its recipe has before it, and others draw otherwise.
    key = (config.seed, zlib.crc32(stage.name.encode()))
    teacher = TeamTeacher(teachers, how, Weights(start), kind, key, temperature)
    if how.learning is None:
        return teacher, None
    weigher = Weigher(
        how.learning,
        teacher,
        student,
        terms[0],
        setup.held.student,
        [KnownLogits(one.to(accelerator.device), setup.held.student.asked) for one in team.logits["held"]],
        kind,
        accelerator,
        key,
        team.names,
        stage.max_tokens,
    )
    return teacher, weigher


def _running(setup: Setup, texts: Texts, needs: Needs, most: int, accelerator: Accelerator) -> list[Teacher]:
    """Teachers that run when they are drawn."""
    room: list[Resident] = []
    models = [Source(name, kind_of(setup.data.kind).head).model for name in setup.config.team]
    return [Resident(model, needs, texts.teacher, accelerator, room, most) for model in models]


def _check_layers(setup: Setup, texts: Texts, sources: list[Source], columns: list[list[int]], needs: Needs) -> None:
    """See that the layers of one teacher can stand for another's."""
    assert setup.teacher is not None and setup.knowledge is not None
    ours, limit = texts.teacher or texts.student, setup.knowledge.max_length
    for source, places in zip(sources, columns, strict=True):
        if places != sorted(places) or len(places) != source.config.num_labels:
            raise TutelageError(
                f"a stage compares {needs}, for which teachers run, but {source.name!r} of the team numbers its labels otherwise "
                "than the first; use a method on predictions, or give all one id2label"
            )
        fitted = fitted_tokenizer(source.tokenizer, source.outline)
        theirs = kind_of(setup.data.kind).encode(texts.examples, fitted, limit, setup.config.data.stride)
        if source.shape != setup.teacher.shape or not np.array_equal(ours.tokens, theirs.tokens):
            raise TutelageError(
                f"a stage compares {needs}, but the teacher {source.name!r} of the team has not the layers ({source.shape}) or "
                f"tokens of {setup.teacher.name!r} ({setup.teacher.shape}); use a method on predictions, or teachers of one shape"
            )
        if not source.has_weights:
            raise TutelageError(source.without_weights)


def settled(
    setup: Setup, stage: Stage, weigher: Weigher, folder: Path, accelerator: Accelerator, display: Display
) -> None:
    """Write down what a stage has found, for later ones and for the report."""
    assert setup.held is not None and setup.team is not None
    metric = setup.data.metrics[0]
    scores = kind_of(setup.data.kind).scores(
        setup.data, predict(setup.student, setup.held.student, accelerator), setup.held
    )
    ours = torch.from_numpy(weigher.team.weights.probabilities()).view(torch.int64)  # some devices have no float64
    everywhere = accelerator.gather(ours[None].to(accelerator.device))
    if not everywhere.eq(everywhere[0]).all():
        raise RuntimeError("processes have learnt different distributions, and have drawn different teachers")
    record = {"stage": stage.name, **weigher.record(), "score": scores[metric], "constant": setup.team.constant[metric]}
    found = [one for one in history(folder) if one["stage"] != stage.name]
    if accelerator.is_main_process:
        write_text(folder / DISTRIBUTION, json.dumps([*found, record]))
    by_weight = sorted(zip(record["next"], setup.team.names, strict=True), key=lambda pair: -pair[0])
    display.say(f"{stage.name}: " + ", ".join(f"{name} {p:.3f}" for p, name in by_weight if p > 0))
    if gone := dropped(record, setup.team.names):
        display.say(f"  dropped: {', '.join(gone)}")
    for line in doubts(folder):
        display.say(f"note: {line}")


def starts(setup: Setup, folder: Path, last: int | None = None) -> dict[str, Numbers]:
    """The distribution with which each stage with a team begins, up to the one numbered ``last``, or all that have been reached."""
    assert setup.team is not None
    records = {record["stage"]: record["next"] for record in history(folder)}
    found: list[float] | None = None
    begun: dict[str, Numbers] = {}
    for stage in setup.config.recipe.stages[: None if last is None else last + 1]:
        if stage.team is not None:
            begun[stage.name] = start_of(stage.team, setup.team, setup.data.metrics[0], found)
            # A stage that is resumed at its very end has a record of its own already, which is for later ones.
            found = records.get(stage.name, found)
    return begun


def history(folder: Path) -> list[dict[str, Any]]:
    """What the stages of a run have found out about their team, in their order."""
    path = folder / DISTRIBUTION
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return found


def doubts(folder: Path) -> list[str]:
    """Why what was found may mean nothing."""
    lines = []
    for record in history(folder):
        if record["score"] < record["constant"] + NEAR_CONSTANT:
            lines.append(
                f"at the end of stage {record['stage']} the student scored {record['score']:.3f} on held-out examples, where a "
                f"constant answer scores {record['constant']:.3f}: the weights that it has learnt mean nothing"
            )
        if record["skipped"] > 0.01 * record["updates"]:
            lines.append(
                f"{record['skipped']:,} of {record['updates']:,} updates of stage {record['stage']} had no usable gradient"
            )
    return lines


def summary(setup: Setup, folder: Path) -> dict[str, Any]:
    """For the report: who was in the team, with which distribution each stage began, and how those moved that were learnt."""
    team = setup.team
    assert team is not None
    return {
        "members": [
            {
                "name": name,
                "folder": team.folders[i],
                "shape": team.shapes[i],
                "parameters": team.parameters[i],
                "scores": {part: scores[i] for part, scores in team.scores.items()},
            }
            for i, name in enumerate(team.names)
        ],
        "starts": {stage: start.tolist() for stage, start in starts(setup, folder).items()},
        "stages": history(folder),
    }


def assembled(config: RunConfig) -> RunConfig:
    """The run with every teacher of its team by name, of which the first is the teacher where no other is.

    Raises:
        TutelageError: as :func:`members_in`.
    """
    if not config.team:
        return config
    team = members_in(config.team)
    lead = str(Path(team[0]) / "teacher") if is_store(team[0]) else team[0]
    return config.model_copy(update={"team": team, "teacher": config.teacher or lead})
