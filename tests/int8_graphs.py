"""Graphs of int8 products by hand, and their numbers by ONNX's evaluator with the operators' numpy references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from forerun_compiler.graph import check_graph, remove_unused
from forerun_compiler.number_formats.linear_int8 import GATED, LINEAR, Norm, gated_linear_int8, linear_int8
from forerun_compiler.number_formats.packing import unpack_blocks
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.quantize_int8 import OPERATORS, SCHEME, quantize_int8
from hand_graphs import FLOAT, constant, make_model
from linear_graphs import linear

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
ROWS = 5
T = "T"


def product(x: ir.Value, out: str, n: int, weight: ir.Value | None = None) -> ir.Node:
    """A Linear at int8 of `n` outputs, of a random weight unless one is given."""
    assert x.shape is not None
    return linear(x, weight or constant(f"{out}.w", RNG.standard_normal((n, int(str(x.shape[-1]))))), out, SCHEME)


def quantized(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> ir.Model:
    """A model whose Linears are the project's own int8 operator."""
    assert len(nodes) <= 15
    model = make_model(inputs, nodes, outputs)
    assert quantize_int8(model) > 0
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
    assert quantize_int8(model) > 0
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
    session = ReferenceEvaluator(ir.to_proto(model), new_ops=[_LINEAR, _GATED])
    return dict(zip(session.output_names, session.run(None, dict(feeds)), strict=True))


def _read(x: Array, packed: Array, scale: Array, norm: Array | None, epsilon: float | None) -> tuple[Any, ...]:
    codes = unpack_blocks(packed, len(scale), x.shape[-1])
    assert (norm is None) == (epsilon is None)
    return x, codes, scale, None if norm is None or epsilon is None else Norm(norm, epsilon)


def _linear(
    self: Any, x: Array, packed: Array, scale: Array, norm: Any = None, addend: Any = None, epsilon: Any = None
) -> tuple[Array]:
    return (linear_int8(*_read(x, packed, scale, norm, epsilon), addend=addend),)


def _gated(self: Any, x: Array, packed: Array, scale: Array, norm: Any = None, epsilon: Any = None) -> tuple[Array]:
    return (gated_linear_int8(*_read(x, packed, scale, norm, epsilon)),)


_LINEAR, _GATED = (
    type(name, (OpRun,), {"op_domain": OPERATORS, "_run": run}) for name, run in ((LINEAR, _linear), (GATED, _gated))
)
