"""A draw from a large vocabulary by one running sum becomes two: over sums of blocks, then within the drawn block.

TensorRT-RTX 1.7 runs a running sum in one thread block of 128 threads (`grid = { 1 1 1 }` in its engines), however
long it is; a round has one for its own token and one for each drafted token. Blocks are summed by the whole device, and
both running sums are short. A token is drawn where it was but for the rounding of sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import constant_scalar, find_nodes, integer, producer, replace_node
from forerun_compiler.passes.emitter import Emitter, operands

LEAST_VOCABULARY = 16384
"""Below it one running sum is a few steps of the thread block, and fewer kernels count for more."""
BLOCK = 512


@dataclass(frozen=True)
class _Draw:
    """`weights` [...,V] of one row, `uniform` of one number, and the sum `node` that counts the tokens below it."""

    weights: ir.Value
    uniform: ir.Value
    node: ir.Node
    vocabulary: int


def two_level_draws(model: ir.Model) -> int:
    """Rewrite every draw from LEAST_VOCABULARY tokens or more; return how many."""
    draws = [draw for node in find_nodes(model.graph, "ReduceSum") if (draw := _draw(node)) is not None]
    for number, draw in enumerate(draws):
        emit = Emitter(model.graph, f"draw.{number}.", before=draw.node)
        shape = draw.node.outputs[0].shape
        token = _two_levels(emit, draw)
        replace_node(
            draw.node, [], [token if shape is None or len(shape) == 1 else emit("Unsqueeze", token, emit.constant([0]))]
        )
    return len(draws)


def _draw(node: ir.Node) -> _Draw | None:
    """Match ReduceSum(Cast(And(c <= total * u, c < total))) with c = CumSum(weights) over the last axis."""
    both = producer(_input(producer(node.inputs[0], "Cast")), "And")
    if both is None or integer(node, "keepdims", 1):
        return None
    reached, within = producer(both.inputs[0], "LessOrEqual"), producer(both.inputs[1], "Less")
    if reached is None or within is None or reached.inputs[0] is not within.inputs[0]:
        return None
    running, scaled, total = producer(within.inputs[0], "CumSum"), producer(reached.inputs[1], "Mul"), within.inputs[1]
    if running is None or scaled is None or total not in scaled.inputs:
        return None
    uniform = next((value for value in scaled.inputs if value is not None and value is not total), None)
    weights = operands(running, 1)[0]
    size = weights.shape[-1] if weights.shape is not None else None
    if uniform is None or not isinstance(size, int) or size < LEAST_VOCABULARY or weights.shape is None:
        return None
    last = constant_scalar(running.inputs[1]) in (-1, len(weights.shape) - 1)
    return _Draw(weights, uniform, node, size) if last else None


def _input(node: ir.Node | None) -> ir.Value | None:
    return node.inputs[0] if node is not None else None


def _two_levels(emit: Emitter, draw: _Draw) -> ir.Value:
    """Append the draw: the token, int64 [1]."""
    count = -(-draw.vocabulary // BLOCK)
    row = emit("Reshape", draw.weights, emit.constant([1, draw.vocabulary]))
    if padding := count * BLOCK - draw.vocabulary:
        row = emit("Concat", row, emit.constant(np.zeros((1, padding)), np.float32), axis=1)
    blocks = emit("Reshape", row, emit.constant([1, count, BLOCK]))
    one, zero = emit.constant([1]), emit.constant([0.0], np.float32)
    sums = emit("ReduceSum", blocks, emit.constant([2]), keepdims=0)
    running, total = _running(emit, sums)
    threshold = emit("Mul", total, emit("Reshape", draw.uniform, one))
    block = _below(emit, running, total, threshold)
    earlier = emit("Where", emit("Less", emit.constant(np.arange(count)[None]), block), sums, zero)
    # Sums that are rounded apart may differ a little: never below the block's first token of positive weight.
    rest = emit("Max", emit("Sub", threshold, emit("ReduceSum", earlier, one, keepdims=1)), zero)
    within = emit("Squeeze", emit("Gather", blocks, block, axis=1), one)
    inner, inner_total = _running(emit, within)
    token = _below(emit, inner, inner_total, rest)
    return emit("Add", emit("Mul", block, emit.constant([BLOCK])), token)


def _running(emit: Emitter, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Append the running sum of [1,N] and its largest, [1,1]."""
    running = emit("CumSum", weights, emit.constant(1))
    return running, emit("ReduceMax", running, emit.constant([1]), keepdims=1)


def _below(emit: Emitter, running: ir.Value, total: ir.Value, threshold: ir.Value) -> ir.Value:
    """Append how many entries of a running sum do not exceed the threshold, the first that holds the total left out."""
    below = emit("And", emit("LessOrEqual", running, threshold), emit("Less", running, total))
    return emit("ReduceSum", emit("Cast", below, to=int(ir.DataType.INT64)), emit.constant([1]), keepdims=0)
