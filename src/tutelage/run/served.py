"""Teacher, student and twin as they would be served: ONNX graphs in float32 and int8, scored and timed side by side.

The quantised teacher is a student's rival: it costs no training. The report shows both.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.data.examples import Encoded
from tutelage.data.texts import Texts
from tutelage.errors import TutelageError
from tutelage.evaluation.intervals import drawn
from tutelage.evaluation.speed import busy_note
from tutelage.report.quality import Difference
from tutelage.report.served import Served, ServedEntry
from tutelage.run.plan import typical
from tutelage.run.quality import difference
from tutelage.serving.graph import OUTPUTS, quantize, to_onnx
from tutelage.serving.session import OnnxModel, missing
from tutelage.serving.timing import latency

if TYPE_CHECKING:
    from tutelage.run.measure import Lead
    from tutelage.run.task import TaskRun

TEXTS = 1000
"""Texts of the evaluation set on which the files are scored, at most."""
WHO = ("teacher", "student", "baseline")
SECONDS = 2.0
"""How long times are taken, about."""


def served(run: TaskRun, models: dict[str, PreTrainedModel], lead: Lead | None) -> Served | None:
    """The forms in which the run's models would be served; None where they cannot be made; the display says why.

    Args:
        run: The run.
        models: Teacher, student and twin, as far as there are such, by ``teacher``, ``student``, ``baseline``.
        lead: That teacher.
    """
    if not run.config.served or anatomy.head_of(run.student) not in OUTPUTS or not run.bench.main:
        return None
    if lacking := missing():
        run.bench.display.say(
            f"note: not measured in ONNX and int8, because {', '.join(lacking)} is not installed; pip install "
            '"tutelage[onnx]"'
        )
        return None
    part, texts = run.texts.evaluation
    texts = texts if lead is None else lead.dev[part]
    if len(texts.examples) > TEXTS:
        texts = texts.at(np.array(drawn(len(texts.examples), TEXTS)))
    if "teacher" in models and lead is not None:
        # The run may have released the teacher's weights: timing needs none, and scores do.
        models = {**models, "teacher": lead.source.model}
    tokenizers = {who: lead.source.tokenizer if who == "teacher" and lead is not None else run.tokenizer for who in WHO}
    places = {who: next(model.parameters()).device for who, model in models.items()}
    run.bench.display.say("measuring the models in ONNX and int8 ...")
    try:
        with tempfile.TemporaryDirectory(prefix="tutelage-") as scratch:
            sides = {who: (models[who].cpu(), tokenizers[who]) for who in WHO if who in models}
            return _measured(run, part, texts, sides, Path(scratch))
    finally:
        for who, model in models.items():
            model.to(places[who])


def _measured(
    run: TaskRun, part: str, texts: Texts, sides: dict[str, tuple[PreTrainedModel, Any]], folder: Path
) -> Served | None:
    """``sides`` are the models with their tokenizers."""
    data, kind, notes = run.texts.data, run.texts.kind, list[str]()
    models = {who: model for who, (model, _) in sides.items()}
    graphs: dict[tuple[str, str], OnnxModel] = {}
    for who, (model, tokenizer) in sides.items():
        path = folder / f"{who}.onnx"
        try:
            graphs[who, "onnx"] = to_onnx(model.eval(), tokenizer, path, kind=kind)
            bits: dict[str, Any] = {} if who == "teacher" else run.config.recipe.int8_file
            graphs[who, "int8"] = quantize(path, folder / f"{who}.int8.onnx", **bits)
        except TutelageError as error:
            notes.append(f"{who}: {error}")
    if four := {name: bits for name, bits in run.config.recipe.int8_file.items() if bits != 8}:
        of = ", ".join(f"{name}={bits}" for name, bits in four.items())
        notes.append(f"the int8 files of student and baseline have {of}, for which the student was trained")
    if not graphs:
        run.bench.display.say(f"note: not measured in ONNX and int8: {notes[0]}")
        return None
    read = {who: (texts.teacher if who == "teacher" else None) or texts.student for who in models}
    answers = {key: graph.answers(read[key[0]], _advance(run, key, read[key[0]])) for key, graph in graphs.items()}
    scores = {key: kind.scores(data, logits, texts) for key, logits in answers.items()}
    metric = data.metrics[0]

    def between(ours: tuple[str, str], theirs: tuple[str, str]) -> Difference | None:
        if ours not in answers or theirs not in answers:
            return None
        return difference(kind, data, texts, answers[ours], answers[theirs])

    times, busy = _times(models, graphs, read)
    entries = [
        {
            "model": who,
            "form": form,
            "score": scores[who, form][metric],
            "scores": scores[who, form],
            "bytes": graph.bytes,
            "change": between((who, form), (who, "onnx")) if form == "int8" else None,
            "ms": times[who, form].p50_ms,
            "spread_ms": times[who, form].spread_ms,
        }
        for (who, form), graph in graphs.items()
    ]
    first = next(iter(times.values()))
    return Served(
        part=part,
        texts=len(texts.examples),
        tokens=first.tokens,
        pytorch_ms={who: times[who, "pytorch"].p50_ms for who in models},
        entries=[ServedEntry.model_validate(entry) for entry in entries],
        against_teacher=between(("student", "int8"), ("teacher", "onnx")),
        against_int8_teacher=between(("student", "int8"), ("teacher", "int8")),
        against_baseline=between(("student", "int8"), ("baseline", "int8")),
        notes=[*notes, *([busy] if busy else [])],
    )


def _advance(run: TaskRun, key: tuple[str, str], encoded: Encoded) -> Callable[[int], None]:
    return lambda count: run.bench.display.advance(f"{' in '.join(key)}", len(encoded), count)


def _times(
    models: dict[str, PreTrainedModel], graphs: dict[tuple[str, str], OnnxModel], read: dict[str, Encoded]
) -> tuple[dict[tuple[str, str], Any], str | None]:
    """The time of one text of mean length on one thread, by model and form, and a warning on a busy machine."""
    sides: dict[tuple[str, str], Any] = {(who, "pytorch"): model for who, model in models.items()} | dict(graphs)
    inputs: dict[str, Callable[[int], dict[str, Tensor]]] = {
        who: typical(read[who], model) for who, model in models.items()
    }
    named = {" ".join(key): side for key, side in sides.items()}
    found, core = latency(
        named, {" ".join(key): inputs[key[0]] for key in sides}, batch_sizes=(1,), threads=(1,), seconds=SECONDS
    )
    return {key: found[" ".join(key)][0] for key in sides}, busy_note(core)
