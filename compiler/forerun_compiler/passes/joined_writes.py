"""A cache that a drafter's context and then its block write to is written once, with the rows of both.

A cache goes from graph input to graph output through one TensorScatter only, so that both ends can be one buffer. Rows
are joined before they are normed and rotated, which happens row by row: one kernel does it for both, and TensorRT-RTX
1.7 fails to build three layers that are joined behind it ("uses before defs", an internal error).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import permutation
from forerun_compiler.passes.emitter import Emitter, operands


class JoinedWrites:
    """The joined writes of a graph; which rows they take is computed once for each pair of positions."""

    def __init__(self) -> None:
        self._rows: dict[tuple[ir.Value, ir.Value], ir.Value] = {}

    def emit(self, emit: Emitter, write: ir.Node, node: ir.Node) -> list[ir.Value]:
        """Append one write for each cache of the CacheWrite `write` and of the attention `node` behind it.

        The block's S rows start n = position_block - position_context rows into the T rows of the context, n <= T. Of
        the T + S rows that are written, row r is context row r for r < n, else block row r - n, the last of them again
        and again: no query ever sees those.
        """
        context_k, context_v, k_cache, v_cache, start = operands(write, 5)
        _, block_k, block_v, _, _, position = operands(node, 6)
        if (start, position) not in self._rows:
            self._rows[start, position] = _rows(emit, context_k, block_k, start, position)
        rows = self._rows[start, position]
        pairs = ((k_cache, context_k, block_k), (v_cache, context_v, block_v))
        return [
            emit("TensorScatter", cache, join_rows(emit, block, context, rows, 2), start, axis=2)
            for cache, context, block in pairs
        ]


def _rows(emit: Emitter, context_k: ir.Value, block_k: ir.Value, start: ir.Value, position: ir.Value) -> ir.Value:
    """Append which rows of block and context, concatenated, are written: int64 [T+S].

    T is in no number here, only in a size: TensorRT hands sizes that are computed with to the device from the host.
    """
    count = block_k.shape[2] if block_k.shape is not None else None
    if not isinstance(count, int):
        raise PassError(f"the rows of the block {block_k.name!r}: expected a known number, found {count}")
    source, axis = _source(context_k, 2)
    total = emit("Add", emit("Shape", source, start=axis, end=axis + 1), emit.constant([count]))
    row = emit("Range", emit.constant(0), emit("Squeeze", total), emit.constant(1))
    slot = emit("Sub", row, emit("Sub", position, start))
    in_block = emit("Min", slot, emit.constant([count - 1]))
    before = emit("Less", slot, emit.constant([0]))
    return emit("Where", before, emit("Add", row, emit.constant([count])), in_block)


def _source(value: ir.Value, axis: int) -> tuple[ir.Value, int]:
    """Return a value that has as many rows, before norm and rotation: its size keeps neither of them in the graph."""
    while (node := value.producer()) is not None and node.op_type in (
        "Transpose",
        "RMSNormalization",
        "RotaryEmbedding",
    ):
        axis = permutation(node)[axis] if node.op_type == "Transpose" else axis
        value = operands(node, 1)[0]
    return value, axis


def join_rows(emit: Emitter, ours: ir.Value, theirs: ir.Value, rows: ir.Value, axis: int) -> ir.Value:
    """Append the rows `rows` [N] of both values, concatenated along `axis`, as far up as both are made alike."""
    a, b = ours.producer(), theirs.producer()
    joined = None
    if a is not None and b is not None and (a.op_type, a.domain) == (b.op_type, "") and a.op_type in _RULES:
        joined = _RULES[a.op_type](emit, a, b, rows, axis)
    if joined is None:
        joined = emit("Gather", emit("Concat", ours, theirs, axis=axis), rows, axis=axis)
    joined.type = ours.type
    if ours.shape is not None:
        joined.shape = ir.Shape([None if index == axis else size for index, size in enumerate(ours.shape)])
    return joined


Rule = Callable[[Emitter, ir.Node, ir.Node, ir.Value, int], ir.Value | None]
"""Appends one node in the place of two of one op, its data joined along an axis; None where that is not the same."""


def _reshape(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    """[1,T,...] to [1,T,...]: what is split or merged lies behind the rows."""
    ours, theirs, x = a.outputs[0].shape, b.outputs[0].shape, operands(a, 1)[0]
    if axis != 1 or ours is None or theirs is None or x.shape is None or x.shape[1] != ours[1]:
        return None
    rest = [size for size in ours[2:] if isinstance(size, int)]
    if len(rest) != len(ours) - 2 or list(ours[2:]) != list(theirs[2:]):
        return None
    return emit("Reshape", join_rows(emit, x, operands(b, 1)[0], rows, axis), emit.constant([1, -1, *rest]))


def _transpose(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    perm = permutation(a)
    if not perm or perm != permutation(b):
        return None
    return emit("Transpose", join_rows(emit, operands(a, 1)[0], operands(b, 1)[0], rows, perm[axis]), perm=perm)


def _norm(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    """A norm over the last axis by the same weights."""
    (x, weights), (y, others) = operands(a, 2), operands(b, 2)
    named = _attributes(a)
    if x.shape is None or axis >= len(x.shape) - 1 or weights is not others or named != _attributes(b):
        return None
    if named.get("axis", -1) not in (-1, len(x.shape) - 1):
        return None
    return emit("RMSNormalization", join_rows(emit, x, y, rows, axis), weights, domain="", **named)


def _rotation(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    """A rotation of [1,H,T,D] by the same tables; the positions [1,T] are joined as well."""
    if len(a.inputs) != 4 or len(b.inputs) != 4 or axis != 2 or _attributes(a) != _attributes(b):
        return None
    (x, *tables, here), (y, *others, there) = operands(a, 4), operands(b, 4)
    if any(table is not other for table, other in zip(tables, others, strict=True)):
        return None
    positions = join_rows(emit, here, there, rows, 1)
    return emit("RotaryEmbedding", join_rows(emit, x, y, rows, axis), *tables, positions, domain="", **_attributes(a))


def _attributes(node: ir.Node) -> dict[str, int | float]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


_RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "RMSNormalization": _norm,
    "RotaryEmbedding": _rotation,
}
