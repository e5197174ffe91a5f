"""The teachers of a team in a run: their predictions on all texts, checks, the stage's teacher, and the learned weights."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.data.examples import Encoded, Examples, RowFinder, Rows
from tutelage.data.labels import unnamed
from tutelage.data.texts import Texts, rows_of
from tutelage.data.tokenizers import fitted_tokenizer, tokenizer_fingerprint
from tutelage.errors import TutelageError, option
from tutelage.evaluation import speed
from tutelage.knowledge.needs import Needs
from tutelage.knowledge.store.reading import Store
from tutelage.mechanisms.mechanism import of_kind
from tutelage.mechanisms.scene import Scene, StageScene, TaskScene, records_in
from tutelage.mechanisms.team.folders import is_store, left_out, short
from tutelage.mechanisms.team.report import MemberEntry, TeamEntry, TeamStage
from tutelage.mechanisms.team.settings import Learning, Team
from tutelage.mechanisms.team.teacher import Resident, TeamTeacher
from tutelage.mechanisms.team.weigher import Weigher
from tutelage.mechanisms.team.weights import Members, Numbers, Weights, start_of
from tutelage.objectives.objective import ObjectivePlan
from tutelage.objectives.predictions import LogitsMSE, SoftLabels
from tutelage.tasks import kind_of
from tutelage.teachers.knowledge import Knowledge, storable, verified
from tutelage.teachers.source import Source
from tutelage.teachers.stored import StoredTeacher
from tutelage.teachers.teacher import KnownLogits, LiveTeacher, Teacher, predict, predicted

KIND = "team"
MISNUMBERED, DEVIATIONS = 0.10, 3
"""A teacher's classes count as misnumbered if permuting them raises its accuracy by more than this, and by more than this many
standard deviations of the gain of a random teacher."""


ENOUGH = 200
"""Fewest held-out examples for that check."""


NEAR_CONSTANT = 0.02
"""A student that beats a constant prediction by less than this gives no usable rewards."""


def source_of(name: str, head: Head) -> Source:
    """A teacher of a team by its name: a model, or the folder of a store."""
    return Source(str(Path(name) / "teacher") if is_store(name) else name, head)


def gather(scene: Scene) -> Members:
    """Collect every teacher's predictions on all texts, one teacher after another. Stores are read instead.

    Each teacher reads with its own tokenizer, and its classes are matched by name.

    Raises:
        TutelageError: if a teacher cannot be loaded, has other classes, or numbers them differently from its id2label.
    """
    task = _task(scene)
    data, every, names = task.data, task.everything, task.teachers
    assert task.held is not None and task.knowledge is not None
    sources = [source_of(name, kind_of(data.kind).head) for name in names]
    team = Members(
        names=short(names),
        folders=list(names),
        shapes=[str(source.shape) for source in sources],
        parameters=[speed.count_parameters(source.outline) for source in sources],
    )
    columns = [columns_of(scene, source.config, name) for source, name in zip(sources, names, strict=True)]
    known: dict[tuple[str, ...], Read] = {}
    _check_stages(scene, team, sources, columns, known)
    among = RowFinder(every.ids)
    rows = {part: among.of(texts.examples.ids) for part, texts in task.parts.items()}
    rows["held_out"] = among.of(task.held.examples.ids)
    tables: dict[str, list[Tensor]] = {part: [] for part in (*rows, *task.dev)}
    read = task.knowledge.encoded  # all teachers have as many answers
    starts = np.concatenate([[0], np.cumsum(read.logit_rows)])
    for number, (source, name, kept) in enumerate(zip(sources, names, columns, strict=True)):
        needs = Needs(logits=True) | storable(
            [s.plan.members[number] for s in scene.stages if number in s.plan.members]
        )
        found, dev, store = _predictions(scene, source, name, team.names[number], known, needs)
        if store is not None and needs.running:
            team.stores[number] = store
        for part, wanted in rows.items():
            places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in rows_of(read, wanted)[0]])
            tables[part].append(found[torch.from_numpy(places)][:, kept])
        for part in task.dev:
            tables[part].append(dev[part][:, kept])
        _check_order(scene, tables["held_out"][-1], name)
    team.rows = rows
    scored = {"held_out": task.held, **task.dev}
    for part, texts in scored.items():
        team.scores[part] = [kind_of(data.kind).scores(data, table, texts) for table in tables[part]]
    team.logits = {part: torch.stack(found) for part, found in tables.items() if part not in task.dev}
    team.constant = kind_of(data.kind).constant_scores(data, task.held.examples)
    settings: list[Team | None] = [of_kind(stage.stage.mechanisms, Team) for stage in scene.stages]
    judged = any(how and (how.learning is not None or how.judges) for how in settings)
    if judged and not all(left_out(Path(name), task.config, task.held_part) for name in names):
        scene.warnings.append(
            "some teachers of the team may have been trained on the held-out examples that compare them; such a teacher looks "
            "better than it is (tutelage team train keeps these examples out)"
        )
    return team


def _task(scene: Scene) -> TaskScene:
    assert scene.task is not None
    return scene.task


def _check_stages(
    scene: Scene,
    team: Members,
    sources: list[Source],
    columns: list[list[int]],
    known: dict[tuple[str, ...], Read],
) -> None:
    """Check that the stages can learn from this team, before any teacher runs. ``known`` is the cache of :func:`_read`."""
    task = _task(scene)
    kind, earlier = kind_of(task.data.kind), None
    for stage in scene.stages:
        how: Team | None = of_kind(stage.stage.mechanisms, Team)
        if how is None:
            continue
        wrong = {
            "combine=discounted needs one class per answer": how.combine == "discounted" and not kind.single_label,
            "granularity=example needs one prediction per text": how.granularity == "example" and not kind.per_text,
            "average=probabilities needs fixed classes (use average=logits)": how.combine == "average"
            and how.average == "probabilities"
            and not kind.fixed_outputs,
        }
        for line in (line for line, found in wrong.items() if found):
            raise TutelageError(
                f"stage {stage.stage.name!r}: team.{line}, and the task {task.data.task!r} is of kind {kind.name}"
            )
        if not how.judges:
            start_of(how, team, task.data.metrics[0], earlier)
        if how.learning is not None:
            if (how.learning.top_m or 0) > len(team.names):
                raise TutelageError(
                    f"stage {stage.stage.name!r}: team.learning.top_m={how.learning.top_m} keeps more teachers than the team of "
                    f"{len(team.names)} has; give a smaller number"
                )
            if how.learning.parameters != "all" and anatomy.base_of(scene.student) is scene.student:
                raise TutelageError(
                    f"stage {stage.stage.name!r}: team.learning.parameters={how.learning.parameters} needs a student with separate "
                    "layers and head, which this one does not have; use parameters=all"
                )
            earlier = [1.0] * len(team.names)
        if stage.plan.teacher_needs.running:
            assert stage.part is not None
            _check_layers(scene, task.parts[stage.part], sources, columns, stage.plan.teacher_needs)
        for number, plan in stage.plan.members.items():
            team.read[number] = _read_alike(scene, sources[number], plan, known)


Read = tuple[Encoded, dict[str, Encoded]]
"""All texts and the parts of the evaluation set, as a teacher reads them."""


def _read(task: TaskScene, source: Source, limit: int, known: dict[tuple[str, ...], Read]) -> Read:
    """The texts as a teacher reads them. ``known`` caches them by what the tokenizer does."""
    tokenizer = fitted_tokenizer(source.tokenizer, source.outline)
    key = (tokenizer_fingerprint(tokenizer), tokenizer.truncation_side, *tokenizer.model_input_names, str(limit))
    if key not in known:

        def read(examples: Examples) -> Encoded:
            return kind_of(task.data.kind).encode(examples, tokenizer, limit, task.config.stride)

        known[key] = read(task.everything), {part: read(texts.examples) for part, texts in task.dev.items()}
    return known[key]


def _predictions(
    scene: Scene, source: Source, name: str, shown: str, read: dict[tuple[str, ...], Read], needs: Needs
) -> tuple[Tensor, dict[str, Tensor], tuple[Store, Rows] | None]:
    """One teacher's logits on all texts and on the parts of the evaluation set, in its own columns, and its store, if it has one.

    Args:
        read: The cache of :func:`_read`.
        needs: What a store must keep.
    """
    task, accelerator, display = _task(scene), scene.accelerator, scene.display
    data, every, known = task.data, task.everything, task.knowledge
    assert known is not None
    limit = min(known.max_length, anatomy.max_length(source.config))
    encoded, dev = _read(task, source, limit, read)
    for ours, theirs in ((known.encoded, encoded), *((t.teacher or t.student, dev[p]) for p, t in task.dev.items())):
        if ours.targets is not None and not np.array_equal(ours.logit_rows, theirs.logit_rows):
            raise TutelageError(
                f"the teacher {name!r} of the team would predict other tokens than the student; use teachers with one "
                "tokenizer"
            )
    scored = {part: (texts.examples.ids, dev[part]) for part, texts in task.dev.items()}
    knowledge = Knowledge(data.task, source, every.ids, encoded, known.precision, limit, scored)
    logits: dict[str, Tensor] = {}
    scheme = knowledge.scheme(needs, task.store_dtype)
    stored = None
    if is_store(name):
        stored = knowledge.open(Path(name), needs)
    elif task.teacher_store == "auto":
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
            logits[part] = predicted(model, texts, accelerator, display, f"{shown} on {part}", divided=True)
    if stored is None and task.teacher_store == "auto":
        stored = knowledge.find_or_write(scheme, needs, logits, accelerator, display)
    if stored is None:
        model = source.model.to(accelerator.device)
        found = predicted(model, encoded, accelerator, display, f"{shown} on train", divided=True)
    else:
        found = stored[0].logits(stored[1])
    source.release()
    return found, logits, stored


def columns_of(scene: Scene, config: Any, name: str) -> list[int]:
    """The columns of a teacher's logits that belong to the classes of a run's data, in their order.

    Raises:
        TutelageError: when it has other classes.
    """
    task = _task(scene)
    found = kind_of(task.data.kind).columns(task.data, config, name, task.given_labels)
    if kind_of(task.data.kind).named and unnamed(config):
        scene.warnings.append(f"the labels of {name!r} have no names; they are taken in the data's order")
    return found


def _check_order(scene: Scene, logits: Tensor, name: str) -> None:
    """Check that a teacher numbers its classes as its id2label says. If not, it looks like a bad teacher."""
    task = _task(scene)
    data, held = task.data, task.held
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
    if not task.allow_weak_teacher:
        raise TutelageError(f"{line}; correct it, or pass {option('allow_weak_teacher', True)}")
    scene.warnings.append(line)


def team_teacher(how: Team, scene: Scene, stage: StageScene) -> TeamTeacher:
    """The team as the teacher of a stage."""
    task, team = _task(scene), _members(scene)
    assert stage.part is not None
    texts, needs = task.parts[stage.part], stage.plan.teacher_needs
    start = starts(scene, stage.index)[stage.stage.name]
    teachers: list[Teacher]
    if needs.running:
        teachers = _running(scene, texts, needs, how.resident)
    else:
        device = scene.accelerator.device
        teachers = [KnownLogits(one.to(device), texts.student.logit_rows) for one in team.logits[stage.part]]
    if stage.plan.members and not any(start[number] > 0 for number in stage.plan.members):
        raise TutelageError(
            f"stage {stage.stage.name!r} compares layers, and all teachers that read the student's tokens have the weight 0; "
            "give one of them a weight, or leave out the terms on layers"
        )
    layers = {
        number: _on_layers(scene, stage.part, number, plan.teacher_needs) for number, plan in stage.plan.members.items()
    }
    terms = [term for term in stage.plan.terms if isinstance(term, SoftLabels | LogitsMSE)]
    temperature = next((term.temperature for term in terms if isinstance(term, SoftLabels)), 1.0)
    if not terms or not isinstance(terms[0], SoftLabels):
        how = how.model_copy(update={"average": "logits"})
    return TeamTeacher(teachers, how, Weights(start), kind_of(task.data.kind), _key(scene, stage), temperature, layers)


def weigher(how: Learning, scene: Scene, stage: StageScene, teacher: TeamTeacher) -> Weigher:
    """The hook that learns the sampling weights during a stage."""
    task, team = _task(scene), _members(scene)
    assert task.held is not None
    held, device = task.held.student, scene.accelerator.device
    return Weigher(
        how,
        teacher,
        scene.student,
        next(term for term in stage.plan.terms if isinstance(term, SoftLabels | LogitsMSE)),
        held,
        [KnownLogits(one.to(device), held.logit_rows) for one in team.logits["held_out"]],
        kind_of(task.data.kind),
        scene.accelerator,
        _key(scene, stage),
        team.names,
        stage.stage.max_tokens,
        lambda record: settle(scene, stage, teacher.weights, record),
    )


def _key(scene: Scene, stage: StageScene) -> tuple[int, int]:
    # By the stage's name: a stage samples the same whatever stages come before it, and other stages sample otherwise.
    return scene.seed, zlib.crc32(stage.stage.name.encode())


def _members(scene: Scene) -> Members:
    members: Members = scene.shared[KIND]
    return members


def _running(scene: Scene, texts: Texts, needs: Needs, most: int) -> list[Teacher]:
    """Teachers that run when they are sampled."""
    room: list[Resident] = []
    models = [Source(name, kind_of(_task(scene).data.kind).head).model for name in _task(scene).teachers]
    return [Resident(model, needs, texts.teacher, scene.accelerator, room, most) for model in models]


def _on_layers(scene: Scene, part: str, number: int, needs: Needs) -> Teacher:
    """A teacher whose layers are compared in each step: its store, or the running model."""
    task, team = _task(scene), _members(scene)
    rows, _ = rows_of(team.read[number], team.rows[part])
    encoded = team.read[number].take(rows)
    if number in team.stores and not team.stores[number][0].scheme.lacks(needs):
        store, places = team.stores[number]
        return StoredTeacher(store, places[rows], needs, encoded)
    model = source_of(task.teachers[number], kind_of(task.data.kind).head).model.to(scene.accelerator.device)
    return LiveTeacher(model, needs, encoded, scene.accelerator)


def _read_alike(scene: Scene, source: Source, plan: ObjectivePlan, known: dict[tuple[str, ...], Read]) -> Encoded:
    """All texts as a teacher reads them, whose layers are compared with the student's: the tokens must be the first teacher's.

    Raises:
        TutelageError: when they are not, or the teacher lacks what a stage reads of it.
    """
    task = _task(scene)
    assert task.knowledge is not None
    limit = min(task.knowledge.max_length, anatomy.max_length(source.config))
    encoded, _ = _read(task, source, limit, known)
    if not np.array_equal(task.knowledge.encoded.tokens, encoded.tokens):
        raise TutelageError(
            f"a stage compares layers, but the teacher {source.name!r} of the team reads other tokens than the student (it takes "
            f"{limit}); give a {option('max_length')} that all take, or a teacher with the same tokenizer"
        )
    if plan.teacher_needs.pooled:
        anatomy.pooler_of(source.outline)
    if not source.has_weights and not storable([plan]).running:
        raise TutelageError(source.without_weights)
    return encoded


def _check_layers(scene: Scene, texts: Texts, sources: list[Source], columns: list[list[int]], needs: Needs) -> None:
    """Check that all teachers have the same layers and tokens."""
    task = _task(scene)
    assert task.teacher is not None and task.knowledge is not None
    ours, limit = texts.teacher or texts.student, task.knowledge.max_length
    for source, places in zip(sources, columns, strict=True):
        if places != sorted(places) or len(places) != source.config.num_labels:
            raise TutelageError(
                f"a stage compares {needs} with running teachers, but {source.name!r} of the team numbers its labels differently "
                f"from the first; use a method on predictions, or give all teachers the same id2label"
            )
        fitted = fitted_tokenizer(source.tokenizer, source.outline)
        theirs = kind_of(task.data.kind).encode(texts.examples, fitted, limit, task.config.stride)
        if source.shape != task.teacher.shape or not np.array_equal(ours.tokens, theirs.tokens):
            raise TutelageError(
                f"a stage compares {needs}, but the teacher {source.name!r} of the team differs in layers ({source.shape}) or "
                f"tokens from {task.teacher.name!r} ({task.teacher.shape}); use a method on predictions, or teachers of one shape"
            )
        if not source.has_weights:
            raise TutelageError(source.without_weights)


def settle(scene: Scene, stage: StageScene, weights: Weights, record: dict[str, Any]) -> None:
    """Save the learned weights of a stage, for later stages and for the report."""
    task, team = _task(scene), _members(scene)
    assert task.held is not None
    metric, accelerator = task.data.metrics[0], scene.accelerator
    scores = kind_of(task.data.kind).scores(
        task.data, predict(scene.student, task.held.student, accelerator), task.held
    )
    ours = torch.from_numpy(weights.probabilities()).view(torch.int64)  # some devices have no float64
    everywhere = accelerator.gather(ours[None].to(accelerator.device))
    if not everywhere.eq(everywhere[0]).all():
        raise RuntimeError("the processes learned different distributions and sampled different teachers")
    record = {**record, "score": scores[metric], "constant": team.constant[metric]}
    scene.record(KIND, stage.stage.name, record)
    by_weight = sorted(zip(record["next"], team.names, strict=True), key=lambda pair: -pair[0])
    scene.display.say(f"{stage.stage.name}: " + ", ".join(f"{name} {p:.3f}" for p, name in by_weight if p > 0))
    ends = zip(team.names, record["start"], record["next"], strict=True)
    if gone := [name for name, before, after in ends if before > 0 and after == 0]:
        scene.display.say(f"  dropped: {', '.join(gone)}")
    for line in doubts(scene.folder):
        scene.display.say(f"note: {line}")


def starts(scene: Scene, last: int | None = None) -> dict[str, Numbers]:
    """The distribution at the start of each stage with a team, up to stage ``last``; by default of all stages so far."""
    task, members = _task(scene), _members(scene)
    records = {record["stage"]: record["next"] for record in scene.records(KIND)}
    found: list[float] | None = None
    begun: dict[str, Numbers] = {}
    for stage in scene.stages[: None if last is None else last + 1]:
        how: Team | None = of_kind(stage.stage.mechanisms, Team)
        if how is not None:
            begun[stage.stage.name] = start_of(how, members, task.data.metrics[0], found)
            # A stage that is resumed at its very end has a record of its own already, which is for later stages.
            found = records.get(stage.stage.name, found)
    return begun


def doubts(folder: Path) -> list[str]:
    """Reasons why the learned weights may not be meaningful."""
    lines = []
    for record in records_in(folder, KIND):
        if record["score"] < record["constant"] + NEAR_CONSTANT:
            lines.append(
                f"at the end of stage {record['stage']} the student scored {record['score']:.3f} on held-out examples, and a "
                f"constant prediction scores {record['constant']:.3f}: the learned weights are not meaningful"
            )
        if record["skipped"] > 0.01 * record["updates"]:
            lines.append(
                f"{record['skipped']:,} of {record['updates']:,} updates of stage {record['stage']} had no usable gradient"
            )
    return lines


def summary(scene: Scene) -> TeamEntry:
    """For the report: the team, the distribution at the start of each stage, and how learned distributions changed."""
    team = _members(scene)
    members = [
        MemberEntry(
            name=name,
            folder=team.folders[i],
            shape=team.shapes[i],
            parameters=team.parameters[i],
            scores={part: scores[i] for part, scores in team.scores.items()},
        )
        for i, name in enumerate(team.names)
    ]
    return TeamEntry(
        members=members,
        starts={stage: start.tolist() for stage, start in starts(scene).items()},
        stages=[TeamStage.model_validate(record) for record in scene.records(KIND)],
    )
