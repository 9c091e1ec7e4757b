"""CachedAttention and CacheWrite become ONNX Runtime's own operators, with caches that can stay in place.

| dialect | becomes |
|---|---|
| CachedAttention, causal | GroupQueryAttention, which writes the cache and attends; rotations of q and k move into it |
| the same over a tree | the same with a bias on the scores, rotations apart |
| CachedAttention, block | TensorScatter, then GroupQueryAttention with causal=0 and no keys of its own |
| CacheWrite, then a block on the same cache | one TensorScatter with the rows of both |
| CacheWrite | TensorScatter |

A cache is written by one node only, from graph input to graph output, so that both can be bound to one buffer. That is
why a context write and the block after it are merged: with a value between them the library would copy the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import find_nodes, producer, replace_node
from forerun_compiler.passes.emitter import Emitter, operands, optional_input
from forerun_compiler.passes.row_layout import publish_rows, rotation_of, take_rows
from forerun_compiler.passes.spell_out_trees import tree_bias

MICROSOFT = "com.microsoft"
HEAD_DIM_MULTIPLE = 8
"""GroupQueryAttention takes head dims that are multiples of 8."""


@dataclass(frozen=True)
class _Sizes:
    """Static sizes of an attention; `rows` is None when the number of tokens is dynamic."""

    heads: int
    kv_heads: int
    head_dim: int
    rows: int | None


def lower_attention(model: ir.Model) -> int:
    """Replace every CachedAttention and CacheWrite of batch 1; return how many were replaced.

    Raises:
        PassError: another batch size, an unknown shape, a head dim or a mask that the library cannot run.
    """
    graph = model.graph
    lengths = _Lengths(graph)
    attentions = find_nodes(graph, dialect.CachedAttention.OP_TYPE, dialect.DOMAIN)
    count = len(attentions) + len(find_nodes(graph, dialect.CacheWrite.OP_TYPE, dialect.DOMAIN))
    for number, node in enumerate(attentions):
        attributes, sizes = dialect.CachedAttention.from_node(node), _sizes(node)
        if attributes.mask == dialect.CAUSAL:
            _lower_causal(graph, node, attributes, sizes, lengths, f"attention.{number}.")
        else:
            _lower_block(graph, node, attributes, sizes, lengths, f"attention.{number}.")
    for number, node in enumerate(find_nodes(graph, dialect.CacheWrite.OP_TYPE, dialect.DOMAIN)):
        k, v, k_cache, v_cache, position = operands(node, 5)
        emit = Emitter(graph, f"write.{number}.", before=node)
        written = [emit("TensorScatter", cache, new, position, axis=2) for cache, new in ((k_cache, k), (v_cache, v))]
        replace_node(node, [], written)
    return count


class _Lengths:
    """Sequence lengths as GroupQueryAttention wants them, made once per position and number of rows."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._known: dict[tuple[ir.Value, int | None], tuple[ir.Value, ir.Value]] = {}
        self._merged: dict[tuple[ir.Value, ir.Value], ir.Value] = {}

    def of(
        self, position: ir.Value, keys: ir.Value, axis: int, rows: int | None, before: ir.Node
    ) -> tuple[ir.Value, ir.Value]:
        """Return (seqlens_k int32 [1] = position + rows - 1, total int32 [] = position + rows).

        When `rows` is not known it is the size of `keys` along `axis`.
        """
        key = (position, rows)
        if key not in self._known:
            emit = Emitter(self.graph, f"length.{len(self._known)}.", before=before)
            total = emit("Add", position, row_count(emit, keys, axis, rows))
            last = emit("Cast", emit("Sub", total, emit.constant([1])), to=int(ir.DataType.INT32))
            scalar = emit("Squeeze", emit("Cast", total, to=int(ir.DataType.INT32)))
            self._known[key] = (last, scalar)
        return self._known[key]

    def merged(
        self, emit: Emitter, context_k: ir.Value, start: ir.Value, block: ir.Value, rows: int | None, block_k: ir.Value
    ) -> ir.Value:
        """Return which rows of context and block, concatenated, go to the cache: int64 [T+S]; see `_write_both`."""
        if (start, block) not in self._merged:
            context_rows, block_rows = emit("Shape", context_k, start=2, end=3), row_count(emit, block_k, 2, rows)
            count = emit("Squeeze", emit("Add", context_rows, block_rows))
            row = emit("Range", emit.constant(0), count, emit.constant(1))
            slot = emit("Sub", row, emit("Sub", block, start))
            in_block = emit("And", emit("GreaterOrEqual", slot, emit.constant([0])), emit("Less", slot, block_rows))
            from_context = emit("Min", row, emit("Sub", context_rows, emit.constant([1])))
            self._merged[start, block] = emit("Where", in_block, emit("Add", slot, context_rows), from_context)
        return self._merged[start, block]


def row_count(emit: Emitter, keys: ir.Value, axis: int, rows: int | None) -> ir.Value:
    """Return the number of rows of keys as int64 [1]: `rows` if known, else the size along `axis`."""
    return emit.constant([rows]) if rows is not None else emit("Shape", keys, start=axis, end=axis + 1)


def _sizes(node: ir.Node) -> _Sizes:
    shapes = [list(value.shape or ()) for value in operands(node, 2)]
    if any(len(shape) != 4 for shape in shapes):
        raise PassError(f"node {node.name!r}: expected q and k of known rank 4, found the shapes {shapes}")
    (batch, heads, rows, head_dim), kv_heads = shapes[0], shapes[1][1]
    ragged = batch != 1 or optional_input(node, dialect.CachedAttention.ROWS) is not None
    if ragged or not (isinstance(heads, int) and isinstance(kv_heads, int) and isinstance(head_dim, int)):
        raise PassError(
            f"node {node.name!r}: expected q [1,H,T,D] with H, G and D known and all rows there, found {shapes[0]} and "
            f"k {shapes[1]}; only batch 1 is lowered for ONNX Runtime"
        )
    if head_dim % HEAD_DIM_MULTIPLE:
        raise PassError(
            f"node {node.name!r}: head dim {head_dim} cannot run on ONNX Runtime's GroupQueryAttention, "
            f"which takes multiples of {HEAD_DIM_MULTIPLE}"
        )
    return _Sizes(heads, kv_heads, head_dim, rows if isinstance(rows, int) else None)


def _attributes(attributes: dialect.CachedAttention, sizes: _Sizes) -> dict[str, float | int]:
    found: dict[str, float | int] = {
        "num_heads": sizes.heads,
        "kv_num_heads": sizes.kv_heads,
        "scale": attributes.scale,
    }
    if attributes.window:
        found["local_window_size"] = attributes.window
    if attributes.softcap:
        found["softcap"] = attributes.softcap
    return found


def _lower_causal(
    graph: ir.Graph,
    node: ir.Node,
    attributes: dialect.CachedAttention,
    sizes: _Sizes,
    lengths: _Lengths,
    prefix: str,
) -> None:
    q, k, v, k_cache, v_cache, position = operands(node, 6)
    emit = Emitter(graph, prefix, before=node)
    extra: list[ir.Value | None] = []
    found = _attributes(attributes, sizes)
    parents = optional_input(node, attributes.PARENTS)
    # The library's rotation counts rows one by one, which those of a tree do not.
    turn_q, turn_k = (None, None) if parents is not None else (rotation_of(q), rotation_of(k))
    if turn_q is not None and turn_k is not None and turn_q.operands == turn_k.operands:
        # The rotation happens inside the attention: two nodes and two passes over q and k less.
        q, k, extra = turn_q.source, turn_k.source, list(turn_q.operands)
        found |= {"do_rotary": 1, "rotary_interleaved": turn_q.interleaved}
    rows = [
        take_rows(emit, value, heads) for value, heads in ((q, sizes.heads), (k, sizes.kv_heads), (v, sizes.kv_heads))
    ]
    if parents is not None:
        found.pop("local_window_size", None)  # it counts rows as well
        extra = [None, None, None, tree_bias(emit, parents, position, attributes.window)]
    seqlens, total = lengths.of(position, rows[1], 1, sizes.rows, node)
    out, k_out, v_out = emit.many(
        "GroupQueryAttention", 3, *rows, k_cache, v_cache, seqlens, total, *extra, domain=MICROSOFT, **found
    )
    replace_node(node, [], [publish_rows(emit, node.outputs[0], out, sizes.heads, sizes.head_dim), k_out, v_out])


def _lower_block(
    graph: ir.Graph,
    node: ir.Node,
    attributes: dialect.CachedAttention,
    sizes: _Sizes,
    lengths: _Lengths,
    prefix: str,
) -> None:
    q, k, v, k_cache, v_cache, position = operands(node, 6)
    if attributes.window:
        raise PassError(
            f"node {node.name!r}: a block with a window ({attributes.window}) is not lowered for ONNX Runtime"
        )
    seqlens, total = lengths.of(position, k, 2, sizes.rows, node)
    emit = Emitter(graph, prefix, before=node)
    write = context_write(node)
    if write is None:
        written = [emit("TensorScatter", cache, new, position, axis=2) for cache, new in ((k_cache, k), (v_cache, v))]
    else:
        written = _write_both(emit, lengths, write, node, sizes)
    # The keys are in the cache already: the attention gets none of its own, and gives no cache back.
    none = emit.constant(np.zeros((1, 0, sizes.kv_heads * sizes.head_dim)), np.float32)
    inputs = (take_rows(emit, q, sizes.heads), none, none, *written, seqlens, total)
    out = emit("GroupQueryAttention", *inputs, domain=MICROSOFT, causal=0, **_attributes(attributes, sizes))
    replace_node(node, [], [publish_rows(emit, node.outputs[0], out, sizes.heads, sizes.head_dim), *written])
    if write is not None:
        graph.remove(write, safe=True)


def context_write(node: ir.Node) -> ir.Node | None:
    """Return the CacheWrite that this attention, and nothing else, continues."""
    write = producer(node.inputs[3], dialect.CacheWrite.OP_TYPE, dialect.DOMAIN)
    states = [*node.inputs[3:5], *node.inputs[dialect.CachedAttention.SCALES]]
    if write is None or list(write.outputs) != states[: len(write.outputs)]:
        return None
    alone = all(len(value.uses()) == 1 and not value.is_graph_output() for value in write.outputs)
    return write if alone else None


def _write_both(emit: Emitter, lengths: _Lengths, write: ir.Node, node: ir.Node, sizes: _Sizes) -> list[ir.Value]:
    """Append one write per cache of the context's rows, those from the block's position on replaced by the block's.

    The block starts n = position_block - position_context rows into the T rows of the context, n <= T. Row r of the
    T + S rows written is context row r for r < n, block row r - n for the next S, and again context row r after them,
    where the rows that neither has repeat the context's last: no query ever sees them.
    """
    context_k, context_v, k_cache, v_cache, start = operands(write, 5)
    _, block_k, block_v, _, _, position = operands(node, 6)
    rows = lengths.merged(emit, context_k, start, position, sizes.rows, block_k)
    pairs = ((k_cache, context_k, block_k), (v_cache, context_v, block_v))
    return [
        emit("TensorScatter", cache, emit("Gather", emit("Concat", old, new, axis=2), rows, axis=2), start, axis=2)
        for cache, old, new in pairs
    ]
