"""``tutelage shrink``: the best student within limits of time and size, trained, exported and measured.

The costs of a student do not depend on its weights, so each shape is exported and timed before anything is trained. Of those that
meet the limits the largest are tried for some steps, and the one with the lowest held-out loss is trained. If the quantised teacher
meets the limits, it is the answer: it costs no training.

    OUT/served/        the exported model
    OUT/runs/          a run for each student that was trained
    OUT/shrink.json, shrink.html
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from transformers import PreTrainedModel

from tutelage.artifacts import write_json, write_text
from tutelage.data.config import DataConfig
from tutelage.errors import TutelageError, option
from tutelage.evaluation import speed
from tutelage.methods.compact import compact
from tutelage.recipes.config import RunConfig, to_yaml
from tutelage.report.served import Served
from tutelage.report.shrink import REPORT, Form, Limits, ShapeEntry, Shrink, Trained, page
from tutelage.run import trials
from tutelage.run.export import export
from tutelage.run.origins import VERSION, read_origins
from tutelage.run.plan import typical
from tutelage.run.run import run
from tutelage.run.task import TaskRun
from tutelage.run.workspace import bench, locked
from tutelage.serving.graph import quantize, to_onnx
from tutelage.serving.session import OnnxModel, check_installed
from tutelage.serving.timing import latency
from tutelage.students.specs import Copied, Pruned, Student
from tutelage.studies.study import check_folder, take_folder
from tutelage.tasks import kind_of
from tutelage.tasks.load import ReadData, load_data
from tutelage.version import __version__

FILE = "shrink.yaml"
"""What the search was asked, in its folder."""
SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)
"""Operations of the layers that a student keeps, as a share of the teacher's, in students that are cut in width. One more share is
added, at which the limits should just be met."""
DEPTHS = (2 / 3, 1 / 2, 1 / 3, 1 / 6)
"""Layers that a student keeps, in students that are cut in depth."""
FORMS: tuple[Literal["pytorch", "onnx", "int8"], ...] = ("pytorch", "onnx", "int8")
"""Forms of the teacher."""
ONE: dict[str, Any] = {"batch_sizes": (1,), "threads": (1,)}
"""What is timed: one text on one thread."""
STEP = 0.02
"""Least distance of the added share from those that are tried anyway."""
ROOM = 0.95
"""A shape has to take this share of the limit of time at most, since times vary."""
TRIED = 3
"""Shapes that are tried for some steps: the slowest that meet the limits, for those are the largest."""
MOST_TRAINED = 3
"""Students that are trained, one after another, until one meets the limits."""


def shrink(
    config: RunConfig,
    out: Path,
    limits: Limits,
    *,
    vocabulary: Literal["full", "trimmed"] = "full",
    quiet: bool = False,
) -> Shrink:
    """See :func:`tutelage.api.shrink`. ``config`` is a run without output folder, whose student is not looked at."""
    check_installed()
    if all(value is None for value in (limits.max_latency_ms, limits.max_size_mb, limits.max_parameters)):
        raise TutelageError(
            f"there is no limit to meet; give {option('max_latency')} 5ms, {option('max_size')} 20MB or "
            f"{option('max_parameters')} 10M"
        )
    if not 0 < limits.min_retention <= 1:
        raise TutelageError(f"{option('min_retention')} {limits.min_retention:g} is not a share; write 0.97 for 97 %")
    read = cache(load_data)
    learnt = {name: found for name, found in read_origins(config, read).items() if name != VERSION}
    prints = "".join(f"  {json.dumps(name)}: {found}\n" for name, found in learnt.items())
    asked = f"{to_yaml(config)}limits: {limits.model_dump_json()}\nvocabulary: {vocabulary}\nfingerprints:\n{prints}"
    with locked(str(out)):
        check_folder(out, FILE, "search", asked)
        take_folder(out, FILE, asked)
        return _searched(config, out, limits, vocabulary, quiet, read)


def _searched(config: RunConfig, out: Path, limits: Limits, vocabulary: str, quiet: bool, read: ReadData) -> Shrink:
    """The search in a folder that is this process's own; what a stopped one has measured is read."""
    found = Shrink.model_validate_json((out / REPORT).read_text(encoding="utf-8")) if (out / REPORT).exists() else None
    if found is not None and found.verdict:
        return found if found.answer is None else _at_hand(found, config, out, quiet)
    if found is not None and found.passed:  # stopped before the verdict
        return _finish(found, out)
    kept: dict[str, Any] = {} if vocabulary == "full" else {"vocabulary": "trimmed"}
    data = read(config.data)
    store = "auto" if kind_of(data.kind).per_text else None
    first = config.model_copy(
        update={
            "recipe": compact().model_copy(update={"student": Copied(layers=1, choose="first", **kept)}),
            "out": str(out / "runs" / "none"),
            "teacher_store": config.teacher_store or store,
        }
    )
    with bench(quiet, config.mixed_precision) as desk:
        desk.anyway = None
        task = TaskRun(desk, first, read=read)
        kind, about = task.texts.kind, task.texts.data
        if not kind.learns_labels or about.metrics[0] in kind.against_teacher:
            raise TutelageError(
                f"shrink compares scores on labels, and {about.task!r} is of kind {kind.name}; use distill and export"
            )
        if task.teacher is None or not task.teacher.source.has_weights:
            raise TutelageError(
                f"shrink measures the teacher itself, and there are no weights of it; give {option('teacher')}"
            )
        task.teacher.write_store()
        if found is None:
            with tempfile.TemporaryDirectory(prefix="tutelage-") as scratch:
                found = _costs(task, limits, kept, str(config.teacher), Path(scratch))
            _save(out, found)
        int8, base = found.form("int8"), found.form("onnx").score
        size = speed.count_parameters(task.teacher.source.model)
        if not limits.exceeded(int8.ms, int8.bytes, size) and int8.score >= limits.min_retention * base:
            desk.display.say("the teacher itself in int8 meets the limits; it is exported and measured again")
            if _teacher_exported(found, out, str(config.teacher), first.data, size, quiet):
                return _finish(found, out)
        fitting = [one for one in reversed(found.shapes) if not one.exceeds]
        if not fitting:
            return _finish(_nothing_fits(found), out)
        order = _tried(task, found, fitting[:TRIED], kept, out) + [one.name for one in fitting[TRIED:]]
    done = {one.name for one in found.trained}
    for name in order[:MOST_TRAINED]:
        if not found.passed and name not in done:
            _train(found, name, student_of(name, kept), first, out, quiet, read)
            _save(out, found)
    return _finish(found, out)


def _save(out: Path, found: Shrink) -> None:
    write_json(out / REPORT, found)


def _finish(found: Shrink, out: Path) -> Shrink:
    if not found.verdict:
        found.verdict = _verdict(found)
    _save(out, found)
    write_text(out / "shrink.html", page(found))
    return found


# ------------------------------------------------------------------------------------------------------------------- costs


def name_of(size: str, value: float, kept: dict[str, Any]) -> str:
    """A shape as ``--student`` calls it."""
    return f"{size}={value}" + "".join(f",{name}={given}" for name, given in kept.items())


def names(layers: int, kept: dict[str, Any]) -> list[str]:
    """The shapes that are considered first."""
    depths = sorted({max(1, round(share * layers)) for share in DEPTHS}, reverse=True)
    cut = [name_of("flops", share, kept) for share in SHARES]
    return cut + [name_of("layers", depth, kept) for depth in depths if depth < layers]


def student_of(name: str, kept: dict[str, Any]) -> Student:
    """The student of a name."""
    size, value = _size_of(name)
    return Pruned(target_flops=float(value), **kept) if size == "flops" else Copied(layers=int(value), **kept)


def _size_of(name: str) -> tuple[str, str]:
    """What a name says of the size: ``flops`` or ``layers``, and how much of it."""
    size, _, value = name.partition(",")[0].partition("=")
    return size, value


def share_at_the_limits(limits: Limits, shapes: list[ShapeEntry], teacher: ShapeEntry | None) -> float | None:
    """The share of operations at which a student that is cut in width should just meet the limits: between the largest that meets
    them and the next, where costs are taken to grow evenly. None where no share is left to try.

    Args:
        teacher: The teacher in int8; None with a trimmed vocabulary, where a student of all operations is smaller than the teacher.
    """
    costs = {float(value): one for one in shapes for size, value in [_size_of(one.name)] if size == "flops"}
    costs |= {} if teacher is None else {1.0: teacher}
    fitting = [share for share, one in costs.items() if not one.exceeds]
    beyond = [share for share in costs if share > max(fitting, default=1.0)]
    if not beyond:
        return None
    low, high = max(fitting), min(beyond)
    reached, below, above = high, costs[low], costs[high]
    for limit, less, more in (
        (limits.max_latency_ms and limits.max_latency_ms * ROOM, below.ms, above.ms),
        (limits.max_size_mb and limits.max_size_mb * 1e6, below.bytes, above.bytes),
        (limits.max_parameters, below.parameters, above.parameters),
    ):
        if limit is not None and more > limit:
            reached = min(reached, low + (high - low) * (limit - less) / (more - less))
    share = math.floor(reached * 100 + 1e-6) / 100
    return share if min(share - low, high - share) >= STEP - 1e-9 else None


def _costs(task: TaskRun, limits: Limits, kept: dict[str, Any], name_of_teacher: str, folder: Path) -> Shrink:
    """The forms of the teacher and the shapes of students: sizes and times, all in turn."""
    assert task.teacher is not None
    display, source, data, kind = task.bench.display, task.teacher.source, task.texts.data, task.texts.kind
    teacher = source.model.cpu().eval()
    notes: list[str] = []
    sides: dict[str, PreTrainedModel | OnnxModel] = {"pytorch": teacher}
    sides["onnx"] = to_onnx(teacher, source.tokenizer, folder / "teacher.onnx", kind=kind)
    sides["int8"] = quantize(folder / "teacher.onnx", folder / "teacher.int8.onnx")
    parameters: dict[str, int] = {}
    wanted = names(source.shape.layers, kept)
    for name in wanted:
        display.advance("shapes of students", len(wanted), 1)
        try:
            sides[name], parameters[name] = _int8(task, student_of(name, kept), folder)
        except TutelageError as error:
            notes.append(f"{name} is left out: {error}")
    if not parameters:
        raise TutelageError(notes[0])
    display.say("measuring speed ...")
    _, texts = task.texts.evaluation
    read = {name: (texts.teacher or texts.student) if name in FORMS else texts.student for name in sides}
    times, core = latency(sides, {name: typical(one, teacher) for name, one in read.items()}, **ONE)
    if (busy := speed.busy_note(core)) is not None:
        notes.append(busy)
    chosen, forms = task.texts.selection, list[Form]()
    for form in FORMS:
        side = sides[form]
        encoded = chosen.teacher or chosen.student
        logits = side.answers(encoded) if isinstance(side, OnnxModel) else task.bench.predict(teacher, encoded, form)
        bytes_ = side.bytes if isinstance(side, OnnxModel) else sum(p.nbytes for p in teacher.parameters())
        score = kind.scores(data, logits, chosen)[data.metrics[0]]
        forms.append(Form(form=form, ms=times[form][0].p50_ms, bytes=bytes_, score=score))

    def entry(name: str, ms: float, count: int) -> ShapeEntry:
        bytes_ = cast(OnnxModel, sides[name]).bytes
        exceeds = limits.exceeded(ms, bytes_, count, room=ROOM)
        return ShapeEntry(name=name, parameters=count, ms=ms, bytes=bytes_, exceeds=exceeds)

    shapes = [entry(name, times[name][0].p50_ms, count) for name, count in parameters.items()]
    whole = None if kept else entry("int8", times["int8"][0].p50_ms, speed.count_parameters(teacher))
    if (share := share_at_the_limits(limits, shapes, whole)) is not None:
        name = name_of("flops", share, kept)
        sides[name], count = _int8(task, student_of(name, kept), folder)
        if count not in parameters.values():  # where few heads can be cut, two shares may be one student
            both = {one: sides[one] for one in (shapes[0].name, name)}
            its, _ = latency(both, typical(texts.student, teacher), **ONE)
            since = shapes[0].ms / its[shapes[0].name][0].p50_ms  # the machine may be busier now
            shapes.append(entry(name, its[name][0].p50_ms * since, count))
    return Shrink(
        tutelage=__version__,
        teacher=name_of_teacher,
        task=data.task,
        metric=data.metrics[0],
        limits=limits,
        tokens=times["int8"][0].tokens,
        forms=forms,
        shapes=sorted(shapes, key=lambda shape: shape.ms),
        notes=notes,
    )


def _int8(task: TaskRun, spec: Student, folder: Path) -> tuple[OnnxModel, int]:
    """An untrained student in int8, and its parameters.

    Raises:
        TutelageError: when the teacher has no such student.
    """
    network = task.factory.of(spec).rough()
    graph = folder / "student.onnx"
    to_onnx(network.cpu().eval(), task.tokenizer, graph, kind=task.texts.kind)
    return quantize(graph, folder / f"{len(list(folder.iterdir()))}.onnx"), speed.count_parameters(network)


# ------------------------------------------------------------------------------------------------------------------ answers


def _tried(task: TaskRun, found: Shrink, shapes: list[ShapeEntry], kept: dict[str, Any], out: Path) -> list[str]:
    """The shapes in the order of their held-out loss after some steps."""
    steps = sum(plan.steps for plan in task.plans)
    stage = trials.trial_stage(task.config.recipe.stages[-1], steps, taught=True, labels=True)
    if stage is None or len(shapes) < 2:
        return [shape.name for shape in shapes]
    ground = trials.ground_of(task, stage)

    def tried() -> Iterator[Any]:
        for shape in shapes:
            task.bench.display.say(f"trying {shape.name} for {stage.max_steps} steps")
            made = task.factory.of(_spread(student_of(shape.name, kept))).make()
            yield ground.trial(shape.name, stage, made)

    result = trials.best_of(out / "trials.json", ground, tried, stage.max_steps or 0)
    losses = {one.name: one.loss for one in result.tried}
    for shape in found.shapes:
        shape.loss = losses.get(shape.name)
    _save(out, found)
    return [one.name for one in sorted(result.tried, key=trials.rank)]


def _spread(spec: Student) -> Student:
    """Of the starts of a shallower student, which its own run tries, the one that is most often the best."""
    return spec.model_copy(update={"choose": "spread"}) if isinstance(spec, Copied) else spec


def _train(found: Shrink, name: str, spec: Student, first: RunConfig, out: Path, quiet: bool, read: ReadData) -> None:
    """Train a student, and take it if it meets the limits when it is measured again."""
    folder = _run_folder(out, name)
    recipe = first.recipe.model_copy(update={"student": spec})
    config = first.model_copy(update={"recipe": recipe, "out": str(folder), "served": True})
    report = run(config, resume=True, quiet=quiet, read=read)
    served = None if report["served"] is None else Served.model_validate(report["served"])
    sides = (("student", "int8"), ("teacher", "onnx"), ("teacher", "int8"))
    student, teacher, rival = (None if served is None else served.of(*side) for side in sides)
    if served is None or student is None or teacher is None or rival is None or served.against_teacher is None:
        raise TutelageError(f"the run {str(folder)!r} has no scores in int8; read its report.html")
    place = out / "served"
    shutil.rmtree(place, ignore_errors=True)
    exported = export(str(folder / "student"), place, None, quiet=quiet)
    int8 = next(side for side in exported.sides if side.name == "int8")
    again = next(one.p50_ms for one in int8.latency if (one.batch, one.threads) == (1, 1))
    one = Trained(
        name=name,
        folder=str(folder),
        ms=again,
        bytes=int8.bytes,
        score=student.score,
        teacher=teacher.score,
        int8_teacher=rival.score,
        difference=served.against_teacher,
        exceeds=found.limits.exceeded(again, int8.bytes, exported.parameters),
    )
    if one.retention < found.limits.min_retention:
        one.exceeds.append(f"keeps {one.retention:.1%} of {found.limits.min_retention:.1%}")
    found.trained.append(one)
    if one.exceeds:
        shutil.rmtree(place)
    else:
        found.answer, found.folder = name, str(place)


def _teacher_exported(found: Shrink, out: Path, teacher: str, data: DataConfig, parameters: int, quiet: bool) -> bool:
    """Export the teacher, and take it if it meets the limits on the evaluation set, too, and when it is timed again."""
    place = out / "served"
    shutil.rmtree(place, ignore_errors=True)
    sides = {side.name: side for side in export(teacher, place, data, quiet=quiet).sides}
    int8, scores = sides["int8"], {name: (side.scores or {})[found.metric] for name, side in sides.items()}
    again = next(one.p50_ms for one in int8.latency if (one.batch, one.threads) == (1, 1))
    exceeds = found.limits.exceeded(again, int8.bytes, parameters)
    if scores["int8"] < found.limits.min_retention * scores["pytorch"]:
        exceeds.append(f"{found.metric} {scores['int8']:.3f} of {scores['pytorch']:.3f}")
    if exceeds:
        found.notes.append(
            f"the teacher in int8 does not meet the limits when it is measured again: {'; '.join(exceeds)}"
        )
        shutil.rmtree(place)
        return False
    found.answer, found.folder = "teacher", str(place)
    return True


def _at_hand(found: Shrink, config: RunConfig, out: Path, quiet: bool) -> Shrink:
    """A finished search whose export is there, wherever the folder lies now."""
    place = out / "served"
    if not place.is_dir():
        if found.answer == "teacher":
            export(str(config.teacher), place, config.data, quiet=quiet)
        else:
            export(str(_run_folder(out, str(found.answer)) / "student"), place, None, quiet=quiet)
    return found.model_copy(update={"folder": str(place)})


def _run_folder(out: Path, name: str) -> Path:
    return out / "runs" / name.replace(",", "-")


def _nothing_fits(found: Shrink) -> Shrink:
    nearest = min(found.shapes, key=lambda shape: found.limits.excess(shape.ms, shape.bytes, shape.parameters))
    smaller = "trimmed" not in nearest.name and any(" ms " not in one for one in nearest.exceeds)
    found.verdict = (
        f"No student meets the limits: the nearest, {nearest.name}, takes {' and '.join(nearest.exceeds)}. Raise the limit"
        + (f", or give {option('vocabulary')} trimmed for a smaller file" if smaller else "")
        + "."
    )
    return found


def _verdict(found: Shrink) -> str:
    form = found.form("int8")
    if found.answer == "teacher":
        return (
            f"The teacher in int8 is the answer: {form.ms:.2f} ms, {form.bytes / 1e6:.1f} MB, {found.metric} {form.score:.3f} on "
            "the validation split. No student was trained."
        )
    best = max(found.trained, key=lambda one: (not one.exceeds, one.retention))
    from_least = "" if best.least is None else f" (95 % interval from {best.least:.1%})"
    said = (
        f"{best.name} in int8 keeps {best.retention:.1%} of the teacher's {found.metric}{from_least} at {best.ms:.2f} ms and "
        f"{best.bytes / 1e6:.1f} MB"
    )
    if found.passed:
        share = best.int8_teacher / best.teacher
        return f"{said}; the teacher in int8 keeps {share:.1%} at {form.ms:.2f} ms and {form.bytes / 1e6:.1f} MB."
    return f"No student meets the limits. The nearest: {said}; beyond the limits: {' and '.join(best.exceeds)}."
