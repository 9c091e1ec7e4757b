"""A drafter's block and the context written before it become one operator of the project's own.

The context's keys and values pass through Reshape, RMSNormalization, Transpose and RotaryEmbedding into CacheWrite, the
block's rows likewise into CachedAttention on the same cache. Where each step is what the operator does, it takes the
rows of both. The context's rows from the block's position on are not written: in the dialect the block's rows replace
the first of them, and nothing sees the rest before it is written again.

A block without a context, a context without a block and what the operator does not compute stay for `lower_attention`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import constant_array, find_nodes
from forerun_compiler.passes.attention_heads import (
    Heads,
    Projected,
    counts_from,
    keys_values,
    projected,
    replace_attention,
    size_of,
)
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.lower_attention import context_write
from forerun_compiler.passes.spell_out_caches import scales_of

OP_TYPE = "BlockAttention"


def own_block_attention(model: ir.Model) -> int:
    """Replace every CacheWrite and the block after it that the operator can compute; return how many ops went."""
    nodes = find_nodes(model.graph, dialect.CachedAttention.OP_TYPE, dialect.DOMAIN)
    return 2 * sum(_replace(model.graph, node, f"own_block.{number}.") for number, node in enumerate(nodes))


def _replace(graph: ir.Graph, node: ir.Node, prefix: str) -> bool:
    attributes = dialect.CachedAttention.from_node(node)
    write = context_write(node) if attributes.mask == dialect.BLOCK and not attributes.window else None
    found = projected(node) if write is not None else None
    if write is None or found is None:
        return False
    context = _context_rows(write, found)
    if context is None:
        return False
    _, _, k_cache, v_cache, start = operands(write, 5)
    emit = Emitter(graph, prefix, before=node)
    states = (*context, k_cache, v_cache, *scales_of(write), start, operands(node, 6)[5])
    replace_attention(node, emit, OP_TYPE, found, states)
    graph.remove(write, safe=True)
    return True


def _context_rows(write: ir.Node, block: Projected) -> tuple[ir.Value, ir.Value] | None:
    """Return the rows of keys and values [1,T,G*D] that are written, or None where they are not made as the block's."""
    k, v, _, _, start = operands(write, 5)
    _, *expected = block.sizes
    key, value = keys_values(k, v)
    if key is None or value is None or any([size_of(each, 1), size_of(each, 3)] != expected for each in (k, v)):
        return None
    made_alike = _same(key.norm, block.key.norm) and key.epsilon == block.key.epsilon and _turned_alike(key, block.key)
    at_start = key.rotation is None or counts_from(key.rotation.positions, start)
    return (key.rows, value.rows) if made_alike and at_start else None


def _turned_alike(key: Heads, other: Heads) -> bool:
    if key.rotation is None or other.rotation is None:
        return key.rotation is other.rotation
    return _same(key.rotation.cos, other.rotation.cos) and _same(key.rotation.sin, other.rotation.sin)


def _same(value: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values are one, or equal constants: parts are traced apart, and bring their own."""
    if value is None or other is None or value is other:
        return value is other
    array, second = constant_array(value), constant_array(other)
    return array is not None and second is not None and np.array_equal(array, second)
