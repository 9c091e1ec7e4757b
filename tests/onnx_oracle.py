"""ONNX's reference evaluator on one QuantizeLinear or DequantizeLinear: an oracle that shares no code with ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from forerun_compiler.dialect import OPSET

Array = npt.NDArray[Any]
IR_VERSION = 11


def quantize(x: Array, scale: Array | np.float32, dtype: npt.DTypeLike, **attributes: int) -> Array:
    """QuantizeLinear of x to `dtype` with a zero point of 0."""
    return _run("QuantizeLinear", x, scale, np.zeros(np.shape(scale), dtype), attributes)


def dequantize(codes: Array, scale: Array | np.float32, **attributes: int) -> Array:
    """DequantizeLinear of codes to float32."""
    return _run("DequantizeLinear", codes, scale, np.zeros(np.shape(scale), codes.dtype), attributes)


def _run(op: str, x: Array, scale: Array | np.float32, zero: Array, attributes: dict[str, int]) -> Array:
    names = ("x", "scale", "zero")
    arrays = (x, np.asarray(scale), zero)
    constants = [numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]
    nodes = [helper.make_node(op, names, ["y"], **attributes)]
    output = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    graph = helper.make_graph(nodes, "oracle", [], [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    found: Array = ReferenceEvaluator(model).run(None, {})[0]
    return found
