"""Between the dialect's [1,H,T,D] and the row layout [1,T,H*D] of ONNX Runtime's attention, without moving data.

Traced graphs reach [1,H,T,D] by Reshape and Transpose, and leave it the same way. Where that is visible the row layout
is simply what stood before or comes after; elsewhere the Transpose and Reshape are emitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.graph import integer, permutation, producer
from forerun_compiler.passes.emitter import Emitter

SWAP = [0, 2, 1, 3]
TABLE_WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class Rotation:
    """A RotaryEmbedding over tables: its source [1,H,T,D] and the operands that GroupQueryAttention can take over."""

    source: ir.Value
    operands: tuple[ir.Value, ...]
    interleaved: int


def rotation_of(value: ir.Value) -> Rotation | None:
    """Return the rotation that made `value`, if it reads tables [C,D/2] by position ids [1,T] and has no other user."""
    node = producer(value, "RotaryEmbedding")
    if node is None or len(node.inputs) != 4 or len(value.uses()) != 1:
        return None
    source, cos, sin, positions = node.inputs
    interleaved, partial = (integer(node, name) for name in ("interleaved", "rotary_embedding_dim"))
    if (
        source is None
        or cos is None
        or sin is None
        or positions is None
        or cos.shape is None
        or cos.const_value is None
    ):
        return None
    # The attention takes the rotated dims from the table's width, which it wants in multiples of 8.
    width = cos.shape[1]
    if not isinstance(width, int) or width % TABLE_WIDTH_MULTIPLE or (partial and width != partial // 2):
        return None
    return Rotation(source, (cos, sin, positions), interleaved)


def take_rows(emit: Emitter, value: ir.Value, heads: int) -> ir.Value:
    """Return `value` [1,heads,T,D] in the row layout [1,T,heads*D]."""
    turn = producer(value, "RotaryEmbedding")
    if turn is not None and producer(turn.inputs[0], "Transpose") is not None and turn.inputs[0] is not None:
        interleaved, partial = (integer(turn, name) for name in ("interleaved", "rotary_embedding_dim"))
        source = take_rows(emit, turn.inputs[0], heads)
        return emit(
            "RotaryEmbedding",
            source,
            *turn.inputs[1:],
            num_heads=heads,
            interleaved=interleaved,
            rotary_embedding_dim=partial,
        )
    swap = producer(value, "Transpose")
    if swap is not None and permutation(swap) == SWAP:
        split = swap.inputs[0]
        merged = producer(split, "Reshape")
        if merged is not None and merged.inputs[0] is not None and _is_row_layout(merged.inputs[0], value):
            return merged.inputs[0]
    else:
        split = emit("Transpose", value, perm=SWAP)
    # Zeros keep the batch and the rows as they are.
    return emit("Reshape", split, emit.constant([0, 0, -1]))


def publish_rows(emit: Emitter, old: ir.Value, rows: ir.Value, heads: int, head_dim: int) -> ir.Value:
    """Let users of `old` [1,H,T,D] read `rows` [1,T,H*D]; returns what replaces `old` for users of its layout."""
    assert old.shape is not None
    rows.type, rows.shape = old.type, ir.Shape([old.shape[0], old.shape[2], heads * head_dim])
    for use in list(old.uses()):
        swap = use.node
        if swap.op_type != "Transpose" or permutation(swap) != SWAP:
            continue
        for next_use in list(swap.outputs[0].uses()):
            merge = next_use.node
            merged = merge.outputs[0]
            # A graph output keeps its own node, and so its name.
            if merge.op_type == "Reshape" and _is_row_layout(merged, old) and not merged.is_graph_output():
                merged.replace_all_uses_with(rows)
    if all(_is_dead(use.node) for use in old.uses()) and not old.is_graph_output():
        return rows
    split = emit("Reshape", rows, emit.constant([0, 0, heads, head_dim]))
    return emit("Transpose", split, perm=SWAP)


def _is_dead(node: ir.Node) -> bool:
    """Whether all that a Transpose leads to are Reshapes without users."""
    return node.op_type == "Transpose" and all(
        use.node.op_type == "Reshape" and not use.node.outputs[0].uses() and not use.node.outputs[0].is_graph_output()
        for use in node.outputs[0].uses()
    )


def _is_row_layout(rows: ir.Value, heads: ir.Value) -> bool:
    """Whether the shapes are [1,T,H*D] and [1,H,T,D]."""
    if rows.shape is None or heads.shape is None or len(rows.shape) != 3:
        return False
    count, dim, width = heads.shape[1], heads.shape[3], rows.shape[2]
    return isinstance(count, int) and isinstance(dim, int) and width == count * dim and rows.shape[0] == heads.shape[0]
