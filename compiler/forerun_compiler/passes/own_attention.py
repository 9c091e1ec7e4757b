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
from forerun_compiler.graph import find_nodes, replace_node
from forerun_compiler.passes.attention_heads import projected, side_by_side
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.quantize_int8 import OPERATORS
from forerun_compiler.passes.row_layout import publish_rows


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
    heads, kv_heads, head_dim = found.sizes
    out, *caches = emit.many(
        dialect.CachedAttention.OP_TYPE,
        3,
        side_by_side(emit, [each.rows for each in (found.query, found.key, found.value)]),
        *operands(node, 6)[3:],
        *found.norms_and_tables,
        domain=OPERATORS,
        num_heads=heads,
        kv_num_heads=kv_heads,
        head_dim=head_dim,
        scale=attributes.scale,
        epsilon=found.epsilon,
        window=attributes.window,
        softcap=attributes.softcap,
        causal=1,
    )
    replace_node(node, [], [publish_rows(emit, node.outputs[0], out, heads, head_dim), *caches])
    return True
