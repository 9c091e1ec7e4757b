"""Graphs of the project's own products by hand, and their numbers by ONNX's evaluator with the numpy references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from forerun_compiler.graph import check_graph, remove_unused
from forerun_compiler.number_formats.linear_int4 import gated_linear_int4, linear_int4
from forerun_compiler.number_formats.linear_int8 import Norm, gated_linear_int8, linear_int8
from forerun_compiler.number_formats.packing import unpack_blocks, unpack_nibbles, unpack_scales
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.quantize_int4 import quantize_int4
from forerun_compiler.passes.quantize_int8 import OPERATORS, quantize_int8
from hand_graphs import FLOAT, constant, make_model
from linear_graphs import linear

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
ROWS = 5
T = "T"
OPS = {"int8": "LinearInt8", "int4-group32": "LinearInt4"}
"""By scheme, the operator that it becomes; 70 inputs are three groups, the last of 6."""
of_each_precision = pytest.mark.parametrize("scheme", OPS)


def product(x: ir.Value, out: str, n: int, weight: ir.Value | None = None, scheme: str = "int8") -> ir.Node:
    """A Linear of `n` outputs, of a random weight unless one is given."""
    assert x.shape is not None
    return linear(x, weight or constant(f"{out}.w", RNG.standard_normal((n, int(str(x.shape[-1]))))), out, scheme)


def quantized(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> ir.Model:
    """A model whose Linears are the project's own operators."""
    assert len(nodes) <= 15
    model = make_model(inputs, nodes, outputs)
    assert quantize_int8(model) + quantize_int4(model) > 0
    remove_unused(model)
    return model


def branchy(k: int, n: int, fill: Callable[[Emitter, ir.Value], ir.Value]) -> ir.Model:
    """y [1,T,n] = what `fill` makes of x [1,T,k], in a branch that is taken where the sum of x is positive; else 0."""
    x = ir.val("x", FLOAT, [1, T, k])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 24, "forerun": 1}, name="branchy")
    emit = Emitter(graph, "")
    positive = emit("Greater", emit("ReduceSum", x, keepdims=0), emit.constant(0.0, np.float32))
    zeros = emit.constant(np.zeros((k, n)), np.float32)
    branches = (lambda inside: [fill(inside, x)]), (lambda inside: [inside("MatMul", x, zeros)])
    (y,) = emit.either(positive, *branches)
    y.name, y.type, y.shape = "y", ir.TensorType(FLOAT), ir.Shape([1, T, n])
    graph.outputs.append(y)
    model = ir.Model(graph, ir_version=11)
    assert quantize_int8(model) + quantize_int4(model) > 0
    remove_unused(model)
    return model


def shaped(value: ir.Value, n: int) -> ir.Value:
    """The value, known to be float32 [1,T,n]."""
    value.type, value.shape = ir.TensorType(FLOAT), ir.Shape([1, T, n])
    return value


def apply(model: ir.Model, fuse: Callable[[ir.Model], int]) -> int:
    """Run a pass as the table does."""
    count = fuse(model)
    remove_unused(model)
    check_graph(model, "fusion")
    return count


def feeds_of(model: ir.Model) -> dict[str, Array]:
    """Random rows for every input, of a positive sum."""
    feeds = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = [size if isinstance(size, int) else ROWS for size in value.shape]
        feeds[str(value.name)] = (RNG.standard_normal(shape) + 0.1).astype(np.float32)
    return feeds


def all_ops(model: ir.Model) -> list[str]:
    """The ops of all graphs but for If and its condition, sorted."""
    around = ("If", "Greater", "ReduceSum", "MatMul")
    return sorted(node.op_type for node in model.graph.all_nodes() if node.op_type not in around)


def evaluate(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run the model on no execution library."""
    session = ReferenceEvaluator(ir.to_proto(model), new_ops=_RUNS)
    return dict(zip(session.output_names, session.run(None, dict(feeds)), strict=True))


def _norm(weight: Array | None, epsilon: float | None) -> Norm | None:
    assert (weight is None) == (epsilon is None)
    return None if weight is None or epsilon is None else Norm(weight, epsilon)


def _linear_int8(
    self: Any, x: Array, packed: Array, scale: Array, norm: Any = None, addend: Any = None, epsilon: Any = None
) -> tuple[Array]:
    codes = unpack_blocks(packed, len(scale), x.shape[-1])
    return (linear_int8(x, codes, scale, _norm(norm, epsilon), addend),)


def _gated_int8(
    self: Any, x: Array, packed: Array, scale: Array, norm: Any = None, epsilon: Any = None
) -> tuple[Array]:
    codes = unpack_blocks(packed, len(scale), x.shape[-1])
    return (gated_linear_int8(x, codes, scale, _norm(norm, epsilon)),)


def _read_int4(x: Array, packed: Array, scale: Array, group_size: int, outputs: int) -> tuple[Any, ...]:
    assert scale.dtype == ml_dtypes.bfloat16
    return x, unpack_nibbles(packed, outputs, x.shape[-1]), unpack_scales(scale, outputs), group_size


def _linear_int4(
    self: Any, x: Array, packed: Array, scale: Array, norm: Any = None, addend: Any = None, **attributes: Any
) -> tuple[Array]:
    norm = _norm(norm, attributes.pop("epsilon", None))
    return (linear_int4(*_read_int4(x, packed, scale, **attributes), norm, addend),)


def _gated_int4(self: Any, x: Array, packed: Array, scale: Array, norm: Any = None, **attributes: Any) -> tuple[Array]:
    norm = _norm(norm, attributes.pop("epsilon", None))
    return (gated_linear_int4(*_read_int4(x, packed, scale, **attributes), norm),)


_RUNS = [
    type(name, (OpRun,), {"op_domain": OPERATORS, "_run": run})
    for name, run in {
        "LinearInt8": _linear_int8,
        "GatedLinearInt8": _gated_int8,
        "LinearInt4": _linear_int4,
        "GatedLinearInt4": _gated_int4,
    }.items()
]
