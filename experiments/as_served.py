"""Trained models as they are served: their scores, bytes and milliseconds in PyTorch, ONNX and int8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutelage.data.config import DataConfig
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.evaluation.speed import BUSY
from tutelage.run.plan import typical
from tutelage.serving.graph import quantize, to_onnx
from tutelage.serving.session import OnnxModel
from tutelage.serving.timing import latency
from tutelage.students.load import load_model
from tutelage.studies.script import write
from tutelage.tasks import kind_of
from tutelage.tasks.load import load_data

FILES = {"onnx": "model.onnx", "int8": "model.int8.onnx"}


def measured(folder: Path, data: DataConfig, place: Path) -> dict[str, Any]:
    """Scores, bytes and models of a checkpoint as PyTorch, ONNX and int8."""
    read = load_data(data)
    kind, (name, dev) = kind_of(read.kind), next(iter(read.dev.items()))
    model, _ = load_model(str(folder), kind.head)
    tokenizer = fitted_tokenizer(load_tokenizer(str(folder)), model)
    read, _ = kind.match(read, model.config, str(folder))
    dev = read.dev[name]
    encoded = kind.encode(dev, tokenizer, kind.longest(512))
    place.mkdir(parents=True, exist_ok=True)
    graphs = {"onnx": to_onnx(model.eval(), tokenizer, place / "model.onnx", kind=kind)}
    graphs["int8"] = quantize(place / "model.onnx", place / "model.int8.onnx")
    texts = Texts(dev, encoded, None)
    found: dict[str, Any] = {"scores": {}, "bytes": {}}
    for side, graph in graphs.items():
        found["scores"][side] = kind.scores(read, graph.answers(encoded), texts)
        found["bytes"][side] = graph.bytes
    return found


def model_of(place: Path) -> Path:
    """The folder of a trained model, in that of a run or in its part ``run``."""
    folder = place / "run" if (place / "run").exists() else place
    return folder / "student" if (folder / "student").exists() else folder


def times(places: Mapping[str, Path], data: DataConfig, again: bool) -> dict[str, dict[str, float]]:
    """Milliseconds of models that solve one task, by place and form, for one text on one thread; all in turn."""
    done = next(iter(places.values())).parent / "times.json"
    found: dict[str, dict[str, float]] = {} if again or not done.exists() else json.loads(done.read_text("utf-8"))
    if set(places) <= set(found):
        return found
    read = load_data(data)
    kind, dev = kind_of(read.kind), next(iter(read.dev.values()))
    sides: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for name, place in places.items():
        model, _ = load_model(str(model_of(place)), kind.head)
        tokenizer = fitted_tokenizer(load_tokenizer(str(model_of(place))), model)
        forms = {f"{name}|pytorch": model.eval()}
        forms |= {f"{name}|{form}": OnnxModel(place / "onnx" / file) for form, file in FILES.items()}
        inputs |= dict.fromkeys(forms, typical(kind.encode(dev, tokenizer, kind.longest(512)), model))
        sides |= forms
    entries, core = latency(sides, inputs, batch_sizes=(1,), threads=(1,))
    if core < BUSY:
        print(f"the machine is busy: {core:.0%} of a core; measure again with --again")
    found = {name: {} for name in places}
    for side, rows in entries.items():
        name, _, form = side.partition("|")
        found[name][form] = rows[0].p50_ms
    write(done, json.dumps(found, indent=1))
    return found
