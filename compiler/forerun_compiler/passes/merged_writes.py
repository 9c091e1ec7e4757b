"""A cache that a context and then a block write to is written once, with the rows of both.

A cache goes from graph input to graph output through one node only, so that both ends can be one buffer: with a value
between two writes a library would copy the cache.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import producer
from forerun_compiler.passes.emitter import Emitter, operands

Join = Callable[[Emitter, ir.Value, ir.Value, ir.Value, int], ir.Value]
"""Appends the given rows of two values, concatenated along an axis."""


class MergedWrites:
    """The merged writes of a graph; which rows they take is computed once for each pair of positions."""

    def __init__(self) -> None:
        self._rows: dict[tuple[ir.Value, ir.Value], ir.Value] = {}

    def emit(self, emit: Emitter, write: ir.Node, node: ir.Node, join: Join) -> list[ir.Value]:
        """Append one write for each cache of the CacheWrite `write` and of the attention `node` behind it.

        The block starts n = position_block - position_context rows into the T rows of the context, n <= T. Row r of the
        T + S rows written is context row r for r < n, block row r - n for the next S, and again context row r after
        them, where the rows that neither has repeat the context's last: no query ever sees them.
        """
        context_k, context_v, k_cache, v_cache, start = operands(write, 5)
        _, block_k, block_v, _, _, position = operands(node, 6)
        if (start, position) not in self._rows:
            self._rows[start, position] = _merged_rows(emit, context_k, start, position, block_k)
        rows = self._rows[start, position]
        pairs = ((k_cache, context_k, block_k), (v_cache, context_v, block_v))
        return [emit("TensorScatter", cache, join(emit, old, new, rows, 2), start, axis=2) for cache, old, new in pairs]


def context_write(node: ir.Node) -> ir.Node | None:
    """Return the CacheWrite that this attention, and nothing else, continues."""
    write = producer(node.inputs[3], dialect.CacheWrite.OP_TYPE, dialect.DOMAIN)
    if write is None or list(write.outputs) != list(node.inputs[3:5]):
        return None
    alone = all(len(value.uses()) == 1 and not value.is_graph_output() for value in write.outputs)
    return write if alone else None


def join_rows(emit: Emitter, ours: ir.Value, theirs: ir.Value, rows: ir.Value, axis: int) -> ir.Value:
    """Append the rows `rows` [N] of both values, concatenated along `axis`."""
    return emit("Gather", emit("Concat", ours, theirs, axis=axis), rows, axis=axis)


def row_count(emit: Emitter, keys: ir.Value, axis: int, rows: int | None) -> ir.Value:
    """Return the number of rows of keys as int64 [1]: `rows` if known, else the size along `axis`."""
    return emit.constant([rows]) if rows is not None else emit("Shape", keys, start=axis, end=axis + 1)


def known_rows(heads: ir.Value) -> int | None:
    """Return the number of rows of a value [1,H,T,D], None when a run chooses it."""
    rows = heads.shape[2] if heads.shape is not None else None
    return rows if isinstance(rows, int) else None


def _merged_rows(emit: Emitter, context_k: ir.Value, start: ir.Value, block: ir.Value, block_k: ir.Value) -> ir.Value:
    """Append which rows of context and block, concatenated, go to the cache: int64 [T+S]."""
    context_rows, block_rows = (row_count(emit, keys, 2, known_rows(keys)) for keys in (context_k, block_k))
    count = emit("Squeeze", emit("Add", context_rows, block_rows))
    row = emit("Range", emit.constant(0), count, emit.constant(1))
    slot = emit("Sub", row, emit("Sub", block, start))
    in_block = emit("And", emit("GreaterOrEqual", slot, emit.constant([0])), emit("Less", slot, block_rows))
    from_context = emit("Min", row, emit("Sub", context_rows, emit.constant([1])))
    return emit("Where", in_block, emit("Add", slot, context_rows), from_context)
