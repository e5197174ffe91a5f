"""An ONNX model as onnxruntime runs it, and what its file says about itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from tutelage.data.batches import padded
from tutelage.data.examples import NO_TARGET, Encoded
from tutelage.errors import TutelageError, last_reason

KEY = "tutelage"
"""The entry of a graph's metadata that holds :class:`GraphMetadata` as JSON."""

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def missing() -> list[str]:
    """The libraries of the extra ``onnx`` that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def check_installed() -> None:
    """See that the libraries of the extra ``onnx`` are there.

    Raises:
        TutelageError: one is missing.
    """
    if lacking := missing():
        raise TutelageError(f'{", ".join(lacking)} is not installed; pip install "tutelage[onnx]"')


class GraphMetadata(BaseModel):
    """What a graph says about itself, in its metadata: all that serving needs beside the tokenizer."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    version: int = 1
    kind: str
    """The kind of task."""
    answer: str
    """How ``serve.py`` reads the outputs: class, classes, number, tags, span, vector."""
    labels: tuple[str, ...] = ()
    """The classes in the order of the outputs; empty where answers are no classes."""
    temperature: float = 1.0
    """Divides the logits before they become probabilities."""
    max_length: int | None = None
    """Longest input in tokens; None where the network has no positions."""
    pad_token: int = 0
    """The id of the padding token."""
    precision: str = "float32"
    """float32, or how the weights are quantised."""
    made_by: str = ""


class OnnxModel:
    """An ONNX model in a session of onnxruntime on the CPU.

    ``threads`` is the number of threads within an operator; by default all cores.

    Raises:
        TutelageError: onnxruntime is not installed or cannot load the file, or it was not written by :func:`to_onnx`.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        check_installed()
        import onnxruntime

        self.path, self.threads = Path(path), threads
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; the rest is advice to the authors of onnxruntime
        options.intra_op_num_threads = threads or 0
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise TutelageError(
                f"onnxruntime {onnxruntime.__version__} cannot load {str(path)!r}: {last_reason(error)}; export the model again"
            ) from None

    @cached_property
    def about(self) -> GraphMetadata:
        """What the graph says about itself."""
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        try:
            return GraphMetadata.model_validate_json(text or "")
        except ValidationError:
            raise TutelageError(
                f"{str(self.path)!r} does not say what its outputs mean (metadata {KEY!r}); write it with tutelage export"
            ) from None

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(one.name for one in self.session.get_inputs())

    @property
    def bytes(self) -> int:
        """Size of the file, with weights that lie beside it."""
        beside = self.path.with_name(f"{self.path.name}.data")
        return self.path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)

    def with_threads(self, threads: int) -> OnnxModel:
        """The same model in a session of its own with so many threads."""
        return OnnxModel(self.path, threads)

    def answers(self, encoded: Encoded, advance: Callable[[int], None] = lambda count: None) -> Tensor:
        """All logits, ``(answers, outputs)``, as ``encoded.logit_rows`` counts them: each text alone, as ``serve.py`` runs it.

        (Most activations of an int8 model share one scale within a batch, so its answers depend a little on the other texts.)
        """
        found = []
        for row in range(len(encoded)):
            one = encoded.take(np.array([row]))
            logits = torch.from_numpy(self.logits(padded(one, np.array([0]))))
            predicted = None if one.targets is None else torch.from_numpy(np.flatnonzero(one.targets != NO_TARGET))
            found.append(logits if predicted is None else logits[0, predicted])
            advance(1)
        return torch.cat(found)

    def logits(self, inputs: Mapping[str, Tensor | npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """The outputs of a batch, float32.

        Args:
            inputs: ``input_ids``, ``attention_mask`` (and ``token_type_ids``), ``(batch, tokens)`` int64, matched by name; names
                that the graph lacks are ignored.

        Returns:
            ``(batch, outputs)`` for answers of texts, vectors among them; ``(batch, tokens, outputs)`` for tokens, and for spans
            with the scores of starts and ends as outputs.

        Raises:
            TutelageError: an input is missing.
        """
        missing = [name for name in self.inputs if name not in inputs]
        if missing:
            raise TutelageError(f"{str(self.path)!r} needs the input {missing[0]}, and got {', '.join(inputs)}")
        feed = {
            name: value.detach().cpu().numpy() if isinstance(value := inputs[name], Tensor) else value
            for name in self.inputs
        }
        outputs = self.session.run(None, feed)
        found: npt.NDArray[np.float32] = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
        return found
