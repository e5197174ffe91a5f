"""Models that answer one text at a time: a checkpoint, or the graph of an exported folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy.checkpoints import near, resolve
from tutelage.artifacts import sha256_of
from tutelage.data.batches import padded, predicted_places
from tutelage.data.examples import Encoded
from tutelage.data.texts import Texts
from tutelage.data.tokenizers import fitted_tokenizer, load_tokenizer
from tutelage.errors import TutelageError
from tutelage.evaluation.calibration import probabilities
from tutelage.report.cascade import CASCADE, CascadeReport, load_cascade
from tutelage.run.folder import longest_input, temperature_of_run
from tutelage.run.workspace import Bench, bench
from tutelage.serving import OnnxModel
from tutelage.serving.server import Server
from tutelage.students.load import head_in
from tutelage.tasks import kind_of, kind_of_model
from tutelage.tasks.kind import Kind
from tutelage.teachers.source import Source

GRAPHS = ("model.int8.onnx", "model.onnx")
"""Of an exported folder the first of these that is there answers, as in its ``serve.py``."""

TRIAL = ("A trial.", "A second text.")
"""What is asked before the page opens: mistakes show at once, and the first text of a user is not slower than the others."""


@dataclass(frozen=True)
class ServedModel:
    """A model that answers."""

    role: str
    name: str
    form: str
    """What runs it, for people."""
    kind: Kind
    labels: tuple[str, ...]
    temperature: float
    limit: int
    tokenizer: Any
    logits: Callable[[Encoded], Tensor]
    cascade: CascadeReport | None = None
    """When it answers; None: always."""

    def reply(self, text: str, pair: str | None = None) -> dict[str, Any]:
        """The answer, and the milliseconds that reading the text and the forward pass took.

        Raises:
            TutelageError: the task has no such texts, or people cannot read its answers.
        """
        examples = self.kind.typed([text], None if pair is None else [pair])
        began = time.perf_counter()
        encoded = self.kind.encode(examples, self.tokenizer, self.limit)
        logits = self.logits(encoded)
        took = time.perf_counter() - began
        (found,) = self.kind.replies(logits, Texts(examples, encoded, None), self.labels, self.temperature)
        cut = f"cut at {self.limit:,} tokens" if encoded.windows is None else "the question was cut"
        asks = None if self.cascade is None else self._asks(self.cascade, logits)
        note = "; ".join(part for part in (asks, found.note, cut if encoded.truncated else None) if part)
        said = found.said if asks is None else "ask the teacher"
        return {
            **asdict(found),
            "said": said,
            "asks": asks is not None,
            "note": note or None,
            "ms": round(1000 * took, 2),
        }

    def _asks(self, cascade: CascadeReport, logits: Tensor) -> str | None:
        """Why the teacher is asked; None where the model is sure enough."""
        (shares,) = probabilities(logits.numpy(), cascade.temperature)
        best = int(shares.argmax())
        if cascade.is_sure(best, float(shares[best])):
            return None
        return f"not sure enough by {CASCADE}: {self.labels[best]} has probability {shares[best]:.4f}"


def serve(model: str, teacher: str | None, *, host: str, port: int) -> Server:
    """See :func:`tutelage.api.serve`."""
    with bench(quiet=True) as desk:
        sides = [_served(model, "student" if teacher else "model", desk)]
        if teacher is not None:
            sides.append(_served(teacher, "teacher", desk))
    first = sides[0].kind
    for side in sides[1:]:
        if type(side.kind) is not type(first):
            raise TutelageError(
                f"the student {model!r} answers tasks of kind {first.name}, and the teacher {side.name!r} those of kind "
                f"{side.kind.name}; give two models of one task"
            )
    for side in sides:
        side.reply(TRIAL[0], TRIAL[1] if first.answers_in_pair else None)

    def answer(text: str, pair: str | None) -> Any:
        replies = [side.reply(text, pair) for side in sides]
        differ = first.probabilities and len({one["said"] for one in replies if not one["asks"]}) > 1
        return {"differ": differ, "replies": replies}

    about = {
        "kind": first.name,
        "pairs": "context" if first.answers_in_pair else "possible" if first.per_text else "none",
        "models": [{"role": one.role, "name": one.name, "form": one.form, "labels": len(one.labels)} for one in sides],
    }
    return Server(about, answer, host, port)


def _served(name: str, role: str, desk: Bench) -> ServedModel:
    """A model by the name of its folder or file, or by its Hub id.

    Raises:
        TutelageError: it cannot be loaded, or answers no task.
    """
    graph = graph_of(name)
    return _of_checkpoint(name, role, desk) if graph is None else _of_graph(name, graph, role)


def graph_of(name: str) -> Path | None:
    """The ONNX file that a name stands for: its own, or that of an exported folder; None where it stands for a checkpoint.

    Raises:
        TutelageError: there is no such file.
    """
    path = Path(name).expanduser()
    if path.suffix == ".onnx" and not path.is_dir():
        if not path.is_file():
            raise TutelageError(f"there is no file {str(path)!r}{near(path)}")
        return path
    found = [path / name for name in GRAPHS if (path / name).is_file()]
    return found[0] if found and not list(path.glob("*.safetensors")) else None


def _of_graph(name: str, path: Path, role: str) -> ServedModel:
    model = OnnxModel(path)
    about = model.about
    return ServedModel(
        role=role,
        name=name,
        form=f"{path.name}, onnxruntime",
        kind=kind_of(about.kind),
        labels=about.labels,
        temperature=about.temperature,
        limit=about.max_length or anatomy.UNLIMITED,
        tokenizer=load_tokenizer(str(path.parent)),
        logits=model.answers,
        cascade=None if role == "teacher" else load_cascade(path.parent, lambda: sha256_of(path)),
    )


def _of_checkpoint(name: str, role: str, desk: Bench) -> ServedModel:
    path = resolve(name)
    head = head_in(path)
    source = Source(path, head, role=role)
    kind, config = kind_of_model(head, source.config), source.config
    network = source.model.to(desk.accelerator.device)
    # As an export of the model has them, so that both say the same of a text.
    temperature, _ = temperature_of_run(path) if kind.classifies_texts else (1.0, [])
    return ServedModel(
        role=role,
        name=name,
        form=f"PyTorch, {desk.accelerator.device.type}",
        kind=kind,
        labels=tuple(str(config.id2label[i]) for i in range(config.num_labels)) if kind.named else (),
        temperature=temperature,
        limit=longest_input(path, kind, config),
        tokenizer=fitted_tokenizer(source.tokenizer, network),
        logits=lambda encoded: _logits(network, encoded),
        cascade=None if role == "teacher" else load_cascade(Path(path), lambda: source.fingerprint),
    )


def _logits(model: PreTrainedModel, encoded: Encoded) -> Tensor:
    """All logits, ``(answers, outputs)`` float32 on the CPU: each row alone, as onnxruntime runs it. (Not with a run's accelerator:
    other runs of this process may come and go while the page is open.)"""
    found = []
    with torch.inference_mode():
        for row in range(len(encoded)):
            part = encoded.take(np.array([row]))
            inputs = padded(part, np.array([0]))
            places = None if part.targets is None else predicted_places(part, inputs["attention_mask"]).to(model.device)
            inputs = {name: value.to(model.device) for name, value in inputs.items()}
            found.append(anatomy.answers_of(model, inputs, places).float().cpu())
    return torch.cat(found)
