"""Matrices of 4-bit integers with a scale for each block of 32 numbers of a row, in graphs of onnxruntime's own operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 32
"""Numbers of a row that have a scale in common."""
LARGEST = 7
"""The largest integer; the least is one less than its negative."""
FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Scales that are tried, as shares of the one at which no number of a block is cut."""
INPUT = 127
"""Largest integer of an input of a product, which has a scale for each block of a token."""
DOMAIN = "com.microsoft"


def four_bits(table: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """A table ``(rows, width)`` as integers from -8 to 7, and a scale for each block of a row: of some that are tried the one with
    the least squared error."""
    rows, width = table.shape
    blocks = -(-width // BLOCK)
    codes, scales = np.empty((rows, width), np.int8), np.empty((rows, blocks), np.float32)
    for start in range(0, rows, 4096):  # a large table needs little memory at a time
        part = table[start : start + 4096]
        padded = np.pad(part, ((0, 0), (0, blocks * BLOCK - width))).reshape(len(part), blocks, BLOCK)
        most = np.maximum(np.abs(padded).max(axis=2, keepdims=True), np.float32(1e-12)) / np.float32(LARGEST)
        tried = [most * np.float32(factor) for factor in FACTORS]
        found = [np.clip(np.rint(padded / scale), -LARGEST - 1, LARGEST) for scale in tried]
        errors = np.stack([((q * scale - padded) ** 2).sum(axis=2) for q, scale in zip(found, tried, strict=True)])
        best = errors.argmin(axis=0)[None, ..., None]
        chosen = np.take_along_axis(np.stack(found), best, axis=0)[0]
        codes[start : start + 4096] = chosen.reshape(len(part), -1)[:, :width]
        scales[start : start + 4096] = np.take_along_axis(np.stack(tried), best, axis=0)[0, ..., 0]
    return codes, scales


def gather(model: Any, node: Any, tensor: Any) -> Any:
    """A node that gathers rows of 4-bit integers, in place of one that gathers those of a float32 table."""
    from onnx import TensorProto, helper, numpy_helper

    rows, scales = f"{tensor.name}.rows", f"{tensor.name}.scales"
    if all(one.name != rows for one in model.graph.initializer):
        codes, scale = four_bits(numpy_helper.to_array(tensor))
        flat = codes.reshape(-1).view(np.uint8) & 15
        packed = (flat[::2] | flat[1::2] << 4).tobytes()
        model.graph.initializer.append(helper.make_tensor(rows, TensorProto.INT4, codes.shape, packed, raw=True))
        model.graph.initializer.append(numpy_helper.from_array(scale, scales))
    _import_domain(model)
    inputs, result = [rows, node.input[1], scales], list(node.output)
    return helper.make_node(
        "GatherBlockQuantized", inputs, result, domain=DOMAIN, block_size=BLOCK, gather_axis=0, quantize_axis=1
    )


def quantize_products(model: Any) -> None:
    """Replace the float32 weights of matrix products by 4-bit integers: a row holds the weights of an output. The operator rounds
    its inputs to 8 bits."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes: list[Any] = []
    for node in model.graph.node:
        by_output = _rows_by_output(node, weights)
        if by_output is None:
            nodes.append(node)
            continue
        tensor = weights[node.input[1]]
        matrix = numpy_helper.to_array(tensor)
        nodes += _product(model, node, tensor.name, matrix if by_output else np.ascontiguousarray(matrix.T))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _rows_by_output(node: Any, weights: Mapping[str, Any]) -> bool | None:
    """Whether a row of the weights of a product has those of an output; None if the node is no product of inputs and weights."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return None
    given = {
        attribute.name: attribute.f if attribute.name in ("alpha", "beta") else attribute.i
        for attribute in node.attribute
    }
    if given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1 or given.get("transA", 0):
        return None
    return bool(given.get("transB", 0))


def _product(model: Any, node: Any, name: str, matrix: npt.NDArray[np.float32]) -> list[Any]:
    """The nodes in place of a product with the weights ``matrix``, ``(outputs, inputs)``."""
    from onnx import helper, numpy_helper

    outputs, inputs = matrix.shape
    codes, scales = f"{name}.codes", f"{name}.scales"
    if all(one.name != codes for one in model.graph.initializer):
        rows, scale = four_bits(matrix)
        blocks = scale.shape[1]
        shifted = np.pad(rows + 8, ((0, 0), (0, blocks * BLOCK - inputs)), constant_values=8).astype(np.uint8)
        packed = (shifted[:, ::2] | shifted[:, 1::2] << 4).reshape(outputs, blocks, BLOCK // 2)
        model.graph.initializer.append(numpy_helper.from_array(packed, codes))
        model.graph.initializer.append(numpy_helper.from_array(scale.reshape(-1), scales))
    _import_domain(model)
    bias, result = list(node.input[2:]), node.output[0]
    sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK}
    first = f"{result}.product" if bias else result
    # At accuracy 4 it computes with integers, which is faster for single texts.
    found = [
        helper.make_node(
            "MatMulNBits", [node.input[0], codes, scales], [first], domain=DOMAIN, accuracy_level=4, **sizes
        )
    ]
    return [*found, helper.make_node("Add", [first, *bias], [result])] if bias else found


def _import_domain(model: Any) -> None:
    from onnx import helper

    if all(one.domain != DOMAIN for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
