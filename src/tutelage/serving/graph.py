"""Models as ONNX graphs: from PyTorch in float32, and with int8 weights."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from tutelage import anatomy
from tutelage.anatomy import Head
from tutelage.data.tokenizers import fitted_tokenizer
from tutelage.errors import TutelageError, last_reason, of_the_machine, option
from tutelage.serving import four_bits
from tutelage.serving.session import KEY, GraphMetadata, OnnxModel, check_installed
from tutelage.tasks import kind_of_model
from tutelage.tasks.kind import Kind
from tutelage.version import __version__

OPSET = 20
"""The version of ONNX's operators: the first with GELU as one operator. With the file format that torch writes, onnxruntime runs it
since 1.18."""

OUTPUTS: dict[Head, tuple[str, ...]] = {
    "classes": ("logits",),
    "tokens": ("logits",),
    "spans": ("start_logits", "end_logits"),
    "vectors": ("sentence_embedding",),
}
"""The names of a graph's outputs by the head of its model; a model with another head has no graph."""

TRACED = ("A short text.", "A text that is longer than the first: the graph must not depend on lengths.")
"""The texts with which a model is traced: two lengths, so that one is padded."""

Inputs: TypeAlias = Mapping[str, "Tensor | npt.NDArray[Any]"]
"""Inputs of a graph by name, ``(batch, tokens)`` int64."""

LARGEST = 2**31
"""The most bytes of a graph in one file, which quantisation needs."""


class AnswerModule(nn.Module):
    """A model as its graph has it: inputs by name, and of the outputs those that answer."""

    def __init__(self, model: PreTrainedModel, head: Head) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        named = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given = {name: value for name, value in named.items() if value is not None}
        output = anatomy.output_of(self.model, given)
        if self.head == "vectors":
            return (output,)
        return tuple(getattr(output, name) for name in OUTPUTS[self.head])


def to_onnx(
    model: PreTrainedModel,
    tokenizer: Any,
    path: str | os.PathLike[str],
    *,
    kind: Kind | None = None,
    temperature: float = 1.0,
    max_length: int | None = None,
) -> OnnxModel:
    """Write a model as an ONNX graph in float32; batch and length are free.

    Inputs are ``input_ids``, ``attention_mask`` and, of models that have them, ``token_type_ids``, ``(batch, tokens)`` int64.
    Outputs are those of :data:`OUTPUTS`. The metadata holds labels, temperature and length (:class:`GraphMetadata`).

    Args:
        model: In evaluation mode.
        tokenizer: Its tokenizer.
        path: File to write, ``model.onnx``; weights beyond 2 GB go to a file beside it.
        kind: The kind of task. Default: what the configuration says.
        temperature: Divides the logits before they become probabilities.
        max_length: Longest input in tokens. Default: what the kind reads at most.

    Raises:
        TutelageError: the libraries of the extra ``onnx`` are missing, or torch cannot export this model.
    """
    check_installed()
    path, head = Path(path), anatomy.head_of(model)
    if head not in OUTPUTS:
        raise TutelageError(
            f"a {type(model).__name__} answers nothing that can be served; export a model with a head for "
            f"{', '.join(OUTPUTS)}"
        )
    fitted = fitted_tokenizer(tokenizer, model)
    example = dict(fitted(list(TRACED), padding=True, truncation=True, max_length=32, return_tensors="pt"))
    inputs = {name: value.to(model.device) for name, value in example.items() if name in fitted.model_input_names}
    free = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in inputs}
    about = _about(model, fitted, kind or kind_of_model(head, model.config), temperature, max_length)
    try:
        with _quiet(), torch.no_grad():
            program: Any = torch.onnx.export(
                AnswerModule(model, head).eval(),
                (),
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes=free,
                output_names=list(OUTPUTS[head]),
                opset_version=OPSET,
                verbose=False,
            )
            graph = program.model.graph
            for value in (*graph.inputs, *graph.outputs):
                _name_axes(value)
            _strip(graph)
            program.model.metadata_props[KEY] = about.model_dump_json()
            program.save(str(path))
    except Exception as error:  # the exporter raises whatever the model's code runs into
        path.unlink(missing_ok=True)
        if of_the_machine(error) is not None:
            raise
        raise TutelageError(
            f"torch {torch.__version__} cannot export a {model.config.model_type} of transformers {transformers.__version__} to "
            f"ONNX: {last_reason(error)}; serve it with transformers, or distil it into another family"
        ) from None
    return OnnxModel(path)


def _about(
    model: PreTrainedModel, fitted: Any, kind: Kind, temperature: float, max_length: int | None
) -> GraphMetadata:
    longest = max_length or kind.longest(anatomy.max_length(model.config))
    return GraphMetadata(
        kind=kind.name,
        answer=kind.served_as,
        labels=tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels)) if kind.named else (),
        temperature=temperature,
        max_length=longest if longest < anatomy.UNLIMITED else None,
        pad_token=int(fitted.pad_token_id),
        made_by=f"tutelage {__version__}",
    )


def _name_axes(value: Any) -> None:
    """Call the free axes of an input or output by what they are."""
    import onnx_ir

    names = ("batch", "tokens")
    value.shape = onnx_ir.Shape(size if isinstance(size, int) else names[axis] for axis, size in enumerate(value.shape))


def _strip(graph: Any) -> None:
    """Remove what the exporter notes of where each part comes from: paths of this machine, and most of a small file."""
    graph.metadata_props.clear()
    nodes = list(graph.all_nodes())
    outputs = [value for node in nodes for value in node.outputs]
    for part in (*nodes, *outputs, *graph.inputs, *graph.initializers.values()):
        part.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own parts."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantize(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    table_bits: int = 8,
    weight_bits: int = 8,
    calibration: Iterable[Inputs] | None = None,
) -> OnnxModel:
    """Write a graph of :func:`to_onnx` with int8 weights. Activations are quantised while it runs (dynamic quantisation), or with
    ranges that are measured here (static quantisation).

    Weights of matrix products have one scale for each output, embedding tables one for each row. Activations have one scale for
    all tokens, and one for each token where a product makes them narrower (:func:`narrows`). The weights of matrix products use 7
    of the 8 bits: on x86 CPUs without VNNI the sums of full products overflow 16 bits.

    Args:
        path: The graph in float32.
        out: File to write.
        table_bits: Bits of a number in the largest embedding table: 8, or 4 with one scale for 32 numbers of a row.
        weight_bits: Bits of a weight of a matrix product: 8, or 4 with one scale for 32 weights of an output. LSTMs have 8.
        calibration: Inputs of the graph, for static quantisation.

    Raises:
        TutelageError: the graph is too large for a single file, it has nothing of what is to be quantised, or onnxruntime cannot
            quantise it.
    """
    check_installed()
    import onnx

    if OnnxModel(path).bytes >= LARGEST:
        raise TutelageError(f"{os.fspath(path)!r} has 2 GB or more, which onnxruntime cannot quantise; leave out int8")
    graph = onnx.load(os.fspath(path))
    # Shapes noted for intermediate values contradict those that the quantiser infers.
    del graph.graph.value_info[:]
    about = {entry.key: entry.value for entry in graph.metadata_props}
    if calibration is not None and any(node.op_type == "LSTM" for node in graph.graph.node):
        raise TutelageError(
            f"onnxruntime cannot quantise an LSTM with static {option('activations')}; take dynamic ones"
        )
    if weight_bits == 4:
        four_bits.quantize_products(graph)
    _scale_tokens(graph)
    try:
        with _quiet():
            _quantize_products(graph, os.fspath(out), calibration)
    except Exception as error:  # of onnx's checks, or onnxruntime's
        Path(out).unlink(missing_ok=True)
        raise TutelageError(
            f"onnxruntime cannot quantise {os.fspath(path)!r}: {last_reason(error)}; serve the float32 graph"
        ) from None
    made = onnx.load(os.fspath(out))
    _quantize_tables(made, table_bits)
    if KEY in about:
        said = GraphMetadata.model_validate_json(about[KEY]).model_copy(update={"precision": "int8"})
        onnx.helper.set_model_props(made, {KEY: said.model_dump_json()})
    onnx.save(made, os.fspath(out))
    return OnnxModel(out)


def _quantize_products(graph: Any, out: str, calibration: Iterable[Inputs] | None) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    how: dict[str, Any] = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    if calibration is None:
        quantize_dynamic(graph, out, op_types_to_quantize=["MatMul", "Gemm", "LSTM"], **how)
        return
    names, given = [one.name for one in graph.graph.input], iter(calibration)

    class CalibrationInputs(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            inputs = next(given, None)
            return None if inputs is None else {name: np.asarray(inputs[name]) for name in names}

    # Operators on integers: of the two forms the faster one on CPUs.
    form = QuantFormat.QOperator
    quantize_static(
        graph,
        out,
        CalibrationInputs(),
        quant_format=form,
        op_types_to_quantize=["MatMul", "Gemm"],
        activation_type=QuantType.QUInt8,
        **how,
    )


def narrows(inputs: int, outputs: int) -> bool:
    """Whether a matrix product has fewer outputs than inputs, as the second of a feed-forward layer.

    Its inputs come from an activation function and differ much between tokens; those of the other products mostly come from a
    layer norm. One scale for each token of all products costs four times as much and gains little more
    (docs/results/int8_scales.md).
    """
    return inputs > outputs


def _scale_tokens(model: Any) -> None:
    """Divide each token's inputs of the products that :func:`narrows` holds for by the largest of them, and multiply the outputs
    by it. onnxruntime has one scale for all tokens, which the few with very large values determine."""
    from onnx import helper, numpy_helper

    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 2}
    divided: set[str] = set()
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in sizes or not narrows(*sizes[node.input[1]]):
            nodes.append(node)
            continue
        x, y = node.input[0], node.output[0]
        largest, unit = f"{x}.largest", f"{x}.divided"
        if x not in divided:
            divided.add(x)
            nodes += [
                helper.make_node("Abs", [x], [f"{x}.sizes"]),
                helper.make_node("ReduceMax", [f"{x}.sizes", "scale_tokens.axes"], [f"{x}.most"]),
                helper.make_node("Max", [f"{x}.most", "scale_tokens.least"], [largest]),  # a token may be all zeros
                helper.make_node("Div", [x, largest], [unit]),
            ]
        node.input[0], node.output[0] = unit, f"{y}.divided"
        nodes += [node, helper.make_node("Mul", [f"{y}.divided", largest], [y])]
    if divided:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1], dtype=np.int64), "scale_tokens.axes"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(1e-12, dtype=np.float32), "scale_tokens.least"))


def _quantize_tables(model: Any, bits: int) -> None:
    """Replace float32 tables that rows are gathered from by int8 rows with a scale each. onnxruntime's own way has one scale for
    a whole table, which the largest of all its numbers determines. With 4 ``bits`` the largest table has those."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    tables = {
        place: tensor for place, node in enumerate(model.graph.node) if (tensor := _table_of(node, weights)) is not None
    }
    largest = max((math.prod(tensor.dims) for tensor in tables.values()), default=0)
    nodes: list[Any] = []
    for place, node in enumerate(model.graph.node):
        tensor = tables.get(place)
        if tensor is None:
            nodes.append(node)
            continue
        if bits == 4 and math.prod(tensor.dims) == largest and tensor.dims[1] % 2 == 0:  # two numbers share a byte
            nodes.append(four_bits.gather(model, node, tensor))
            continue
        rows, scales = f"{tensor.name}.rows", f"{tensor.name}.scales"
        if all(one.name != rows for one in model.graph.initializer):
            values = numpy_helper.to_array(tensor)
            scale = np.maximum(np.abs(values).max(axis=1, keepdims=True), np.float32(1e-12)) / np.float32(127)
            model.graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), rows))
            model.graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), scales))
        ids, result = node.input[1], node.output[0]
        nodes += [
            helper.make_node("Gather", [rows, ids], [f"{result}.rows"]),
            helper.make_node("Cast", [f"{result}.rows"], [f"{result}.cast"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [scales, ids], [f"{result}.scales"]),
            helper.make_node("Mul", [f"{result}.cast", f"{result}.scales"], [result]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _table_of(node: Any, weights: Mapping[str, Any]) -> Any:
    """The float32 table that a node gathers rows from, or None."""
    from onnx import TensorProto

    tensor = weights.get(node.input[0]) if node.op_type == "Gather" else None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or axis != 0:
        return None
    return tensor
