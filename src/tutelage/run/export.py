"""An export: a model as files that serve, checked against the model before the folder appears."""

from __future__ import annotations

import math
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy, serving
from tutelage.anatomy.checkpoints import resolve
from tutelage.artifacts import free_place, new_folder, write_json
from tutelage.data.batches import padded
from tutelage.data.config import DataConfig
from tutelage.data.examples import Data, Encoded, Examples
from tutelage.data.labels import label_names, unnamed
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, option
from tutelage.evaluation import speed
from tutelage.evaluation.intervals import drawn
from tutelage.report.words import folder_name
from tutelage.run.checks import check_ids, check_words, limit_of
from tutelage.run.folder import (
    config_of_run,
    int8_file_of_run,
    learnt_by_run,
    learnt_notes,
    longest_input,
    temperature_of_run,
    weights_in,
)
from tutelage.run.plan import typical
from tutelage.run.quality import difference
from tutelage.run.workspace import Bench, bench
from tutelage.serving import OnnxModel
from tutelage.serving.graph import OPSET
from tutelage.serving.report import REPORT, ExportReport, Side, flags_of
from tutelage.serving.session import check_installed
from tutelage.students import subnetworks
from tutelage.students.load import head_in
from tutelage.students.standard import standard
from tutelage.tasks import kind_of, kind_of_model
from tutelage.tasks.kind import Kind
from tutelage.tasks.load import load_data
from tutelage.teachers.source import Source
from tutelage.version import __version__

Format = Literal["onnx", "checkpoint"]
Activations = Literal["dynamic", "static"]
CALIBRATION = 128
"""Training texts that static activations are calibrated on, at most."""

SENTENCES = (
    "The meeting was moved from Tuesday to Thursday afternoon.",
    "Please cancel my order and refund the full amount of 49.90 euros.",
    "What a wonderful film!",
    "No.",
    "My card was declined at the petrol station, although there is enough money in my account.",
    "Heavy rain is expected in the north, with gusts of up to 90 km/h near the coast.",
    "Ada Lovelace wrote the first program for Charles Babbage's machine in London.",
    "i cant log in since the last update pls help",
    "The committee, which had not met since March, rejected the proposal by seven votes to two and asked for a new one.",
    "Wo ist der nächste Bahnhof? Où est la gare? ¿Dónde está la estación?",
    "The soup was cold, the waiter was rude, and still we would come back for the view.",
    "Turn off the lights in the kitchen at half past ten.",
)
"""Texts of no task, for a model without texts of its own: they show differences, and no scores."""
QUESTION = "What does this text say?"


@dataclass(frozen=True)
class Checked:
    """The texts that files are checked on."""

    kind: Kind
    data: Data | None
    """The task, labels in the model's order; None for texts of no task."""
    texts: Texts
    limit: int
    """The longest input in tokens."""
    source: str
    notes: list[str]
    training: Examples | None = None
    """Some examples of the training set, where there is one."""


@dataclass(frozen=True)
class Quantisation:
    """How the int8 file is made."""

    activations: Activations = "dynamic"
    table_bits: int | None = None
    weight_bits: int | None = None

    def check(self, made: bool) -> None:
        """See that the settings are possible, and the defaults where the file is not ``made``.

        Raises:
            TutelageError: if not.
        """
        for name in ("table_bits", "weight_bits"):
            if getattr(self, name) not in (None, 4, 8):
                raise TutelageError(f"{option(name)} {getattr(self, name)} does not exist; use 8 or 4")
        for name, value in vars(self).items():
            if not made and value != getattr(Quantisation, name):
                raise TutelageError(
                    f"{option(name)} {value} is about the int8 file, which is not written; leave it out"
                )

    def of(self, trained: dict[str, int]) -> Quantisation:
        """The same for a model that was trained for a file: its bits where none are given, else 8.

        Raises:
            TutelageError: there is no such file.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        found = Quantisation(**{"table_bits": 8, "weight_bits": 8, **trained, **given})
        if found.weight_bits == 4 and found.activations == "static":
            raise TutelageError(
                f"{option('activations')} static is about matrix products in int8, and the file has them in 4 bits; give "
                f"{option('weight_bits')} 8, or leave out {option('activations')}"
            )
        return found


def export(
    model: str,
    folder: Path,
    data_config: DataConfig | None,
    *,
    form: Format = "onnx",
    int8: bool = True,
    quantisation: Quantisation = Quantisation(),
    temperature: float | None = None,
    width: float | None = None,
    depth: float | None = None,
    most: int = 1000,
    strict: bool = False,
    quiet: bool = False,
) -> ExportReport:
    """See :func:`tutelage.api.export`."""
    place = free_place(folder)
    if form == "onnx":
        check_installed()
    if temperature is not None and not 0 < temperature < math.inf:
        raise TutelageError(f"{option('temperature')} {temperature} makes no probabilities; give a number above 0")
    if most < 0:
        raise TutelageError(f"{option('texts')} {most} is no number of texts; give 1 or more, or 0 for all")
    if temperature is not None and form == "checkpoint":
        raise TutelageError(f"a checkpoint has no place for a temperature; leave out {option('temperature')}")
    quantisation.check(int8 and form == "onnx")
    with bench(quiet) as desk:
        path = resolve(model)
        quantisation = quantisation.of(int8_file_of_run(path) if int8 and form == "onnx" else {})
        head = head_in(path)
        source = Source(path, head, role="model", pooling=None if data_config is None else data_config.pooling)
        part = None
        if width is not None or depth is not None:
            part = subnetworks.chosen(path, source.config, width, depth)
            source.become(subnetworks.cut(source.model, part))
        checked = _checked(model, source, kind_of_model(head, source.config), data_config, most)
        calibration = _calibration(source, checked) if quantisation.activations == "static" else None
        if temperature is not None and not checked.kind.named:
            raise TutelageError(
                f"the model {model!r} is of kind {checked.kind.name} and answers without probabilities, which a temperature "
                f"would change; leave out {option('temperature')}"
            )
        if temperature is None:
            fitted = form == "onnx" and checked.kind.classifies_texts and part is None
            temperature, note = temperature_of_run(path) if fitted else (1.0, [])
            checked.notes.extend(f"{line}; {option('temperature')} gives another" for line in note)
        plain = standard(source.model) if form == "checkpoint" and part is None else source.model
        if checked.data is not None and checked.kind.named and unnamed(source.config):
            for name, value in checked.kind.label_settings(checked.data).items():
                setattr(plain.config, name, value)
        desk.display.say("exporting ...")
        with new_folder(place) as partial:
            tokenizer = fitted_tokenizer(source.tokenizer, plain, checked.limit)
            tokenizer.save_pretrained(partial)
            if form == "checkpoint":
                plain.save_pretrained(partial)
                made: dict[str, OnnxModel | PreTrainedModel] = {"checkpoint": plain}
            else:
                bits = {"table_bits": quantisation.table_bits, "weight_bits": quantisation.weight_bits}
                how = {**bits, "calibration": calibration}
                made = dict(_graphs(partial, plain, tokenizer, checked, temperature, how if int8 else None))
            # A gate looks for the run that made the model, and may be started from anywhere.
            place_of_model = os.path.abspath(path) if os.path.isdir(path) else model
            report = _report(place_of_model, folder, source, checked, made, desk, temperature)
            report = report.model_copy(update={"part": None if part is None else part.name, **vars(quantisation)})
            if strict and report.flags:
                raise TutelageError(f"nothing was exported, because of {option('strict')}: {'; '.join(report.flags)}")
            write_json(partial / REPORT, report)
    return report


def _graphs(
    partial: Path,
    model: PreTrainedModel,
    tokenizer: Any,
    checked: Checked,
    temperature: float,
    int8: dict[str, Any] | None,
) -> dict[str, OnnxModel]:
    """The graphs, and what serves them. ``int8`` has arguments of :func:`tutelage.serving.quantize`; None leaves the file out."""
    graph, limit = partial / "model.onnx", checked.limit
    made = {
        "onnx": serving.to_onnx(model, tokenizer, graph, kind=checked.kind, temperature=temperature, max_length=limit)
    }
    if int8 is not None:
        made["int8"] = serving.quantize(graph, partial / "model.int8.onnx", **int8)
    model.config.save_pretrained(partial)
    shutil.copy(Path(str(serving.__file__)).with_name("serve.py"), partial)
    return made


# ------------------------------------------------------------------------------------------------------------------ texts


def _checked(model: str, source: Source, kind: Kind, data_config: DataConfig | None, most: int) -> Checked:
    """The texts to check on: those that are given, those of the run that made the model, or sentences of no task."""
    if data_config is not None:
        limit_of(data_config, source.config)
        found = _of_task(model, source, kind, data_config, most)
        assert found.data is not None
        learnt = learnt_by_run(resolve(model), data_config, found.data)
        return replace(found, notes=[*found.notes, *learnt_notes(learnt, found.source, found.texts.examples)])
    notes = []
    try:
        data_config = config_of_run(resolve(model))
        if data_config is not None:
            return _of_task(model, source, kind, data_config, most)
    except TutelageError as error:
        notes.append(f"the texts of the run cannot be used ({error})")
    notes.append(
        f"checked on {len(SENTENCES)} sentences of no task: differences and times, no scores; give {option('task')} or "
        f"{option('dev')}"
    )
    pairs = list(SENTENCES) if kind.answers_in_pair else None
    texts = [QUESTION] * len(SENTENCES) if kind.answers_in_pair else list(SENTENCES)
    labels = np.full(len(SENTENCES), None, dtype=object)
    examples = Examples([f"built-in/{i}" for i in range(len(texts))], texts, pairs, labels)
    limit = longest_input(resolve(model), kind, source.config)
    return Checked(kind, None, _read(source, kind, examples, limit, None), limit, "built-in sentences", notes)


def _of_task(model: str, source: Source, kind: Kind, config: DataConfig, most: int) -> Checked:
    """The evaluation set of a task.

    Raises:
        TutelageError: it cannot be read, or is not of the model's task.
    """
    data = load_data(config, label_names(source.config) if source.config.num_labels > 1 else ())
    if kind_of(data.kind).head != kind.head:
        raise TutelageError(
            f"the model {model!r} answers tasks of kind {kind.name}, and the data are of kind {data.kind}; give data of its task"
        )
    kind = kind_of(data.kind)
    data, notes = kind.match(data, source.config, model, source.role)
    part, examples = next(iter(data.dev.items()))
    notes = [*data.notes, *notes]
    if most and len(examples) > most:
        notes.append(
            f"checked on {most:,} examples of {len(examples):,}, drawn with seed 0; {option('texts')} 0 takes all"
        )
        examples = examples.take(drawn(len(examples), most))
    limit = longest_input(resolve(model), kind, source.config, config.max_length)
    texts = _read(source, kind, examples, limit, config.stride)
    fitted = fitted_tokenizer(source.tokenizer, source.model)
    check_ids(texts.student, fitted, source.config, model, part)
    notes += check_words(texts.student, fitted, model, part, trains=False)
    # A file for evaluation alone also stands for the training file, of which only the labels are read then.
    alone = config.task is None and config.train == config.dev
    training = None if alone or not len(data.train) else data.train.take(drawn(len(data.train), CALIBRATION))
    return Checked(kind, data, texts, limit, f"{part} of {data.task}", notes, training)


def _calibration(source: Source, checked: Checked) -> list[dict[str, Tensor]]:
    """The inputs that static activations are calibrated on.

    Raises:
        TutelageError: there are no training texts.
    """
    if checked.training is None:
        raise TutelageError(
            f"static {option('activations')} are calibrated on training texts, and there are none; give {option('train')} or "
            f"{option('task')}"
        )
    read = _read(source, checked.kind, checked.training, checked.limit, None).student
    return [padded(read, np.array([row])) for row in range(min(len(read), CALIBRATION))]


def _read(source: Source, kind: Kind, examples: Examples, limit: int, stride: int | None) -> Texts:
    return Texts(examples, kind.encode(examples, fitted_tokenizer(source.tokenizer, source.model), limit, stride), None)


# ------------------------------------------------------------------------------------------------------------ comparison


def _report(
    model: str,
    folder: Path,
    source: Source,
    checked: Checked,
    made: dict[str, OnnxModel | PreTrainedModel],
    desk: Bench,
    temperature: float,
) -> ExportReport:
    """The files against the model."""
    kind, data, texts, notes = checked.kind, checked.data, checked.texts, list(checked.notes)
    models: dict[str, OnnxModel | PreTrainedModel] = {"pytorch": source.model, **made}
    logits = {name: _logits(one, texts.student, name, desk) for name, one in models.items()}
    if data is not None:
        texts = replace(texts, examples=kind.answered(texts.examples, logits["pytorch"]))
        if not texts.examples.labelled.all():
            notes.append("the texts have no labels: differences and times, no scores")
            data = None

    def called(metric: str) -> str:
        """A score by the answers of the exported model is none by its teacher's."""
        return metric.replace("teacher", "model") if metric in kind.against_teacher else metric

    desk.display.say("measuring speed ...")
    times, core = serving.latency(models, typical(texts.student, source.model))
    busy = speed.busy_note(core)
    files = {"pytorch": folder_name(model), "checkpoint": "model.safetensors"}
    sides = []
    for name, one in models.items():
        weights = one.bytes if isinstance(one, OnnxModel) else _bytes_of(one)
        file = one.path.name if isinstance(one, OnnxModel) else files[name]
        found = {} if name == "pytorch" else _compared(kind, data, texts, logits[name], logits["pytorch"])
        if isinstance(one, OnnxModel):
            found["tokens_agree"] = _tokens_agree(one, texts)
        scores = None if data is None else {called(m): x for m, x in kind.scores(data, logits[name], texts).items()}
        exact = name in ("onnx", "checkpoint")
        sides.append(
            Side(name=name, file=file, bytes=weights, exact=exact, scores=scores, latency=times[name], **found)
        )
    config = next((one.config for one in made.values() if not isinstance(one, OnnxModel)), source.config)
    return ExportReport(
        tutelage=__version__,
        model=model,
        weights=weights_in(Path(model)),
        out=str(folder),
        type=config.model_type,
        kind=kind.name,
        labels=[str(config.id2label[i]) for i in range(config.num_labels)] if kind.named else [],
        temperature=temperature,
        opset=OPSET if "onnx" in made else None,
        layers=anatomy.shape_of(config).layers,
        parameters=speed.count_parameters(source.model),
        texts=len(texts.examples),
        pairs=texts.examples.pairs is not None,
        source=checked.source,
        metric=None if data is None else called(data.metrics[0]),
        sides=sides,
        notes=[*notes, *([busy] if busy else [])],
        flags=flags_of(sides),
        environment=_environment(),
    )


def _logits(model: OnnxModel | PreTrainedModel, encoded: Encoded, name: str, desk: Bench) -> Tensor:
    if isinstance(model, OnnxModel):
        return model.answers(encoded, lambda count: desk.display.advance(name, len(encoded), count))
    found = desk.predict(model, encoded, name)
    model.to("cpu")  # where times are taken
    return found


def _compared(kind: Kind, data: Data | None, texts: Texts, ours: Tensor, theirs: Tensor) -> dict[str, Any]:
    """What a file's outputs are against the model's."""
    largest = float((ours - theirs).abs().max())
    if not math.isfinite(largest):
        raise TutelageError(
            "the model or a file of it answers with values that are no numbers; train or export it again"
        )
    found: dict[str, Any] = {"largest_difference": largest, "agreement": kind.agreement(ours, theirs)}
    if data is not None and data.metrics[0] not in kind.against_teacher:  # else agreement says it
        found["change"] = difference(kind, data, texts, ours, theirs)
    return found


def _tokens_agree(model: OnnxModel, texts: Texts) -> float:
    """The share of the rows that the script in the folder turns into the same tokens."""
    from tutelage.serving import serve  # which needs the extra onnx

    script = serve.Model(model.path)
    examples, encoded = texts.examples, texts.student
    pairs: Sequence[str | None] = examples.pairs or [None] * len(examples)
    theirs = [
        tuple(one.ids) for text, pair in zip(examples.texts, pairs, strict=True) for one in script.encodings(text, pair)
    ]
    ours = [tuple(row.tolist()) for row in np.split(encoded.tokens, encoded.offsets[1:-1])]
    if len(theirs) != len(ours):  # windows of another length
        return len(set(theirs) & set(ours)) / len(ours)
    return float(np.mean([one == other for one, other in zip(theirs, ours, strict=True)]))


def _bytes_of(model: PreTrainedModel) -> int:
    """Bytes of the weights, each shared one once."""
    tensors = {one.data_ptr(): one for one in model.state_dict().values()}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def _environment() -> dict[str, str]:
    """The machine and the libraries."""
    names = [name for name in ("torch", "transformers", "onnx", "onnxruntime") if find_spec(name) is not None]
    machine = {"cpu": speed.cpu_name(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    return machine | {"python": platform.python_version()} | {name: version(name) for name in names}
