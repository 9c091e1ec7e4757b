"""Experts becomes dense products: every expert computes every token, and the router's weights choose.

Correct and independent of what the other tokens choose (a grouped product would round a token's result by its group's
size), but X / k times the work of a sparse form.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import constant_array, find_nodes, replace_node
from forerun_compiler.passes.emitter import Emitter


def lower_experts(model: ir.Model) -> int:
    """Replace every Experts node; return how many were replaced.

    Raises:
        PassError: the experts' weights are not constants.
    """
    nodes = find_nodes(model.graph, dialect.Experts.OP_TYPE, dialect.DOMAIN)
    for number, node in enumerate(nodes):
        attributes = dialect.Experts.from_node(node)
        hidden, index, weight = node.inputs[:3]
        gate_up, down = constant_array(node.inputs[3]), constant_array(node.inputs[4])
        if gate_up is None or down is None:
            raise PassError(f"node {node.name!r}: expected constant expert weights, found computed ones")
        emit = Emitter(model.graph, f"experts.{number}.", before=node)
        gate_rows, up_rows = (np.swapaxes(half, 1, 2) for half in np.split(gate_up, 2, axis=1))
        tokens = emit("Unsqueeze", hidden, emit.constant([0]))
        gate = emit("MatMul", tokens, emit.constant(gate_rows, np.float32))
        inner = emit(
            "Mul",
            _activate(emit, attributes.activation, gate),
            emit("MatMul", tokens, emit.constant(up_rows, np.float32)),
        )
        each = emit("MatMul", inner, emit.constant(np.swapaxes(down, 1, 2), np.float32))
        # [N,k] shares at [N,k] experts -> [N,X] -> [X,N,1]
        zeros = emit.constant(np.zeros((1, len(down))), np.float32)
        empty = emit("Expand", zeros, emit("Concat", emit("Shape", hidden, start=0, end=1), emit.constant([1]), axis=0))
        shares = emit("Transpose", emit("ScatterElements", empty, index, weight, axis=1, reduction="add"), perm=[1, 0])
        weighted = emit("Mul", each, emit("Unsqueeze", shares, emit.constant([2])))
        replace_node(node, [], [emit("ReduceSum", weighted, emit.constant([0]), keepdims=0)])
    return len(nodes)


def _activate(emit: Emitter, activation: str, x: ir.Value) -> ir.Value:
    if activation == "silu":
        return emit("Mul", x, emit("Sigmoid", x))
    if activation == "relu":
        return emit("Relu", x)
    return emit("Gelu", x, approximate="tanh" if activation == "gelu_pytorch_tanh" else "none")
