"""Causal CachedAttention becomes the project's own operator, which takes the stacked rows of q, k and v.

The operator does what stands between the product of q, k and v and the one of the output: splits into heads, norms of
each head, rotation, the caches' writes and the attention. A graph reaches CachedAttention through Reshape,
RMSNormalization, Transpose and RotaryEmbedding; where each of them is exactly what the operator does, they go. What is
not (interleaved rotations, computed norms, head dims that the operator does not take) stays for `lower_attention`;
a drafter's blocks are `own_block_attention`'s. Linears are best stacked before: then the rows of q, k and v stand side
by side already.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import find_nodes
from forerun_compiler.passes.attention_heads import projected, replace_attention
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.spell_out_caches import scales_of


def own_attention(model: ir.Model) -> int:
    """Replace every causal CachedAttention that the operator can compute; return how many were replaced."""
    nodes = find_nodes(model.graph, dialect.CachedAttention.OP_TYPE, dialect.DOMAIN)
    return sum(_replace(model.graph, node, f"own_attention.{number}.") for number, node in enumerate(nodes))


def _replace(graph: ir.Graph, node: ir.Node, prefix: str) -> bool:
    attributes = dialect.CachedAttention.from_node(node)
    found = projected(node) if attributes.mask == dialect.CAUSAL else None
    if found is None:
        return False
    emit = Emitter(graph, prefix, before=node)
    _, _, _, k_cache, v_cache, position = operands(node, 6)
    states = [k_cache, v_cache, *scales_of(node), position]
    replace_attention(node, emit, dialect.CachedAttention.OP_TYPE, found, states, window=attributes.window, causal=1)
    return True
