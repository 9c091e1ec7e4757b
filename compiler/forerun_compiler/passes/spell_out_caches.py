"""Attention over caches of int8 in standard operators: the numbers of our own operators, slowly.

| dialect | becomes |
|---|---|
| CacheWrite with scales | the rows' codes and scales by standard operators, each written by TensorScatter |
| CachedAttention with scales | the same, then CachedAttention in float32 over what the codes of caches and q mean |

The softmax's weights alone are not rounded here, which is at most 1/65534 of a block's largest.

What follows lowers the attention in float32 as any other. Its cost is proportional to the capacity, not to the tokens
that are present: it is for graphs that our own operators do not compute, and for engines that have none.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import find_nodes, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


def spell_out_caches(model: ir.Model) -> int:
    """Replace every CacheWrite and CachedAttention over int8; return how many were replaced."""
    count = 0
    for op, replace in ((dialect.CacheWrite, _replace_write), (dialect.CachedAttention, _replace_attention)):
        for node in find_nodes(model.graph, op.OP_TYPE, dialect.DOMAIN):
            if scales_of(node):
                replace(node, Emitter(model.graph, f"int8_caches.{count}.", before=node))
                count += 1
    return count


def scales_of(node: ir.Node) -> list[ir.Value]:
    """Return the scales of int8 caches that a CachedAttention or CacheWrite reads; none of float32 ones."""
    op = dialect.CacheWrite if node.op_type == dialect.CacheWrite.OP_TYPE else dialect.CachedAttention
    return [value for value in node.inputs[op.SCALES] if value is not None]


def _replace_write(node: ir.Node, emit: Emitter) -> None:
    k, v, k_cache, v_cache, position, k_scale, v_scale = operands(node, 7)
    written = [_write(emit, *each, position) for each in ((k, k_cache, k_scale), (v, v_cache, v_scale))]
    replace_node(node, [], [codes for _, codes, _ in written] + [scales for _, _, scales in written])


def _replace_attention(node: ir.Node, emit: Emitter) -> None:
    q, k, v, k_cache, v_cache, position, k_scale, v_scale = operands(node, 8)
    written = [_write(emit, *each, position) for each in ((k, k_cache, k_scale), (v, v_cache, v_scale))]
    rows = [new for new, _, _ in written]
    # From the caches after the write: then whatever reads them reads after the states were written in place.
    wide = [_widened(emit, codes, scales) for _, codes, scales in written]
    for new, old in zip((*rows, *wide), (k, v, k_cache, v_cache), strict=True):
        new.type, new.shape = ir.TensorType(ir.DataType.FLOAT), old.shape
    query = _product(emit, *_coded(emit, q))
    query.type, query.shape = q.type, q.shape
    inputs = [query, *rows, *wide, position, None, None, *node.inputs[dialect.CachedAttention.PARENTS :]]
    while inputs[-1] is None:
        inputs.pop()
    attention = dialect.CachedAttention.from_node(node)
    out, *_ = emit.many(attention.OP_TYPE, 3, *inputs, domain=dialect.DOMAIN, **attention.attributes())
    replace_node(node, [], [out, *(codes for _, codes, _ in written), *(scales for _, _, scales in written)])


def _write(
    emit: Emitter, rows: ir.Value, cache: ir.Value, scale: ir.Value, position: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return rows [1,G,T,D] as they will be read, and the cache and its scales with them."""
    codes, scales = _coded(emit, rows)
    flat = emit("Squeeze", scales, emit.constant([3]))
    written = emit("TensorScatter", cache, codes, position, axis=2)
    return _product(emit, codes, scales), written, emit("TensorScatter", scale, flat, position, axis=2)


def _coded(emit: Emitter, rows: ir.Value) -> tuple[ir.Value, ir.Value]:
    """`dialect_attention.int8_rows` of [1,N,T,D]: codes [1,N,T,D] and scales [1,N,T,1]."""
    zero, most, last = emit.constant(0, np.float32), emit.constant(127, np.float32), emit.constant([-1])
    peak = emit("ReduceMax", emit("Abs", rows), last, keepdims=1)
    spoiled = emit("ReduceSum", emit("Mul", rows, zero), last, keepdims=1)  # NaN where a value is not finite, else 0
    small = emit("Less", peak, emit.constant(dialect.TINY, np.float32))
    scales = emit("Add", emit("Where", small, zero, emit("Div", peak, most)), spoiled)
    inverse = emit("Where", small, zero, emit("Div", most, peak))
    rounded = emit("Round", emit("Mul", rows, inverse))
    clean = emit("Where", emit("IsNaN", spoiled), zero, rounded)
    return emit("Cast", clean, to=int(ir.DataType.INT8)), scales


def _product(emit: Emitter, codes: ir.Value, scales: ir.Value) -> ir.Value:
    return emit("Mul", emit("Cast", codes, to=int(ir.DataType.FLOAT)), scales)


def _widened(emit: Emitter, cache: ir.Value, scale: ir.Value) -> ir.Value:
    """Return a whole cache [1,G,C,D] as it is read."""
    return _product(emit, cache, emit("Unsqueeze", scale, emit.constant([3])))
