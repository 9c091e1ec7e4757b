"""Join the rows of a drafter's context and block before they are normed and rotated, not after.

Both go through the same norm and the same tables, row by row. Joined first, one kernel does for both; and TensorRT-RTX
1.7 fails to build three layers that are joined behind it ("uses before defs", an internal error).
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from forerun_compiler.graph import permutation
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.merged_writes import join_rows


def join_rows_early(emit: Emitter, ours: ir.Value, theirs: ir.Value, rows: ir.Value, axis: int) -> ir.Value:
    """Append the rows `rows` [N] of both values, concatenated along `axis`, as far up as both are made alike."""
    a, b = ours.producer(), theirs.producer()
    joined = None
    if a is not None and b is not None and (a.op_type, a.domain) == (b.op_type, "") and a.op_type in _RULES:
        joined = _RULES[a.op_type](emit, a, b, rows, axis)
    if joined is None:
        joined = join_rows(emit, ours, theirs, rows, axis)
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
    return emit("Reshape", join_rows_early(emit, x, operands(b, 1)[0], rows, axis), emit.constant([1, -1, *rest]))


def _transpose(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    perm = permutation(a)
    if not perm or perm != permutation(b):
        return None
    return emit("Transpose", join_rows_early(emit, operands(a, 1)[0], operands(b, 1)[0], rows, perm[axis]), perm=perm)


def _norm(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    """A norm over the last axis by the same weights."""
    (x, weights), (y, others) = operands(a, 2), operands(b, 2)
    named = _attributes(a)
    if x.shape is None or axis >= len(x.shape) - 1 or weights is not others or named != _attributes(b):
        return None
    if named.get("axis", -1) not in (-1, len(x.shape) - 1):
        return None
    return emit("RMSNormalization", join_rows_early(emit, x, y, rows, axis), weights, domain="", **named)


def _rotation(emit: Emitter, a: ir.Node, b: ir.Node, rows: ir.Value, axis: int) -> ir.Value | None:
    """A rotation of [1,H,T,D] by the same tables; the positions [1,T] are joined as well."""
    if len(a.inputs) != 4 or len(b.inputs) != 4 or axis != 2 or _attributes(a) != _attributes(b):
        return None
    (x, *tables, here), (y, *others, there) = operands(a, 4), operands(b, 4)
    if any(table is not other for table, other in zip(tables, others, strict=True)):
        return None
    positions = join_rows_early(emit, here, there, rows, 1)
    return emit(
        "RotaryEmbedding", join_rows_early(emit, x, y, rows, axis), *tables, positions, domain="", **_attributes(a)
    )


def _attributes(node: ir.Node) -> dict[str, int | float]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


_RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "RMSNormalization": _norm,
    "RotaryEmbedding": _rotation,
}
