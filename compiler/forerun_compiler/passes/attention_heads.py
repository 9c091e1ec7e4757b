"""What our own operators of attention compute of a graph: splits into heads, norms of each head, rotations.

Traced graphs reach [1,H,T,D] from rows [1,T,H*D] through Reshape, RMSNormalization, Transpose and RotaryEmbedding. Here
is what says whether those steps are exactly what the operators do to their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import constant_array, constant_scalar, integer, number, permutation, producer, replace_node
from forerun_compiler.passes.emitter import Emitter, operands, optional_input
from forerun_compiler.passes.quantize_int8 import OPERATORS
from forerun_compiler.passes.row_layout import SWAP, publish_rows
from forerun_compiler.passes.spell_out_caches import scales_of

HEAD_DIM_MULTIPLE, MAX_HEAD_DIM = 16, 256
"""The head dims that the operators take."""
DEFAULT_EPSILON = 1e-5
"""Of RMSNormalization in ONNX."""


@dataclass(frozen=True)
class Rotation:
    """Tables [at least C, R], R <= D/2, that turn the two halves of the first 2R dims at position ids [1,T]."""

    cos: ir.Value
    sin: ir.Value
    positions: ir.Value


@dataclass(frozen=True)
class Heads:
    """What made [1,H,T,D]: rows [1,T,H*D], then a norm of each head by a weight [D], then a rotation."""

    rows: ir.Value
    norm: ir.Value | None
    epsilon: float
    rotation: Rotation | None


@dataclass(frozen=True)
class Projected:
    """What made q, k and v of one attention."""

    query: Heads
    key: Heads
    value: Heads
    sizes: tuple[int, int, int]
    """Heads, key-value heads, head dim."""

    @property
    def epsilon(self) -> float:
        """Of the norms, 0 where there are none."""
        return self.query.epsilon if self.query.norm is not None else self.key.epsilon

    @property
    def norms_and_tables(self) -> tuple[ir.Value | None, ...]:
        """The operators' last inputs: norms of q and k, cos and sin."""
        turn = self.key.rotation
        return (self.query.norm, self.key.norm, *((turn.cos, turn.sin) if turn is not None else (None, None)))


def projected(node: ir.Node) -> Projected | None:
    """Return what made q, k and v of a CachedAttention, or None where the operators do not compute that."""
    q, k, v, k_cache, _, position = operands(node, 6)
    parents = optional_input(node, dialect.CachedAttention.PARENTS)
    if not _fits(q, k, v, k_cache):
        return None
    query, (key, value) = heads_of(q), keys_values(k, v)
    if query is None or key is None or value is None or query.rotation != key.rotation:
        return None
    if query.norm and key.norm and query.epsilon != key.epsilon:
        return None
    if key.rotation is not None and not (
        counts_from(key.rotation.positions, position, parents) and _covers(key.rotation, k_cache)
    ):
        return None
    return Projected(query, key, value, (size_of(q, 1), size_of(k, 1), size_of(q, 3)))


def replace_attention(
    node: ir.Node, emit: Emitter, op_type: str, found: Projected, states: Sequence[ir.Value], **mask: int
) -> None:
    """Replace a CachedAttention by an operator of ours: the stacked rows, `states`, then norms and tables.

    What a CachedAttention has after its caches and scales, a tree and rows, the operator takes at its end. `states` end
    with the position; the scales of int8 caches are among them, which is another operator. `mask` are the
    operator's attributes beside those that all of them have.
    """
    attributes = dialect.CachedAttention.from_node(node)
    heads, kv_heads, head_dim = found.sizes
    optional = node.inputs[dialect.CachedAttention.PARENTS :]
    out, *caches = emit.many(
        f"{op_type}Int8" if scales_of(node) else op_type,
        len(node.outputs),
        side_by_side(emit, [each.rows for each in (found.query, found.key, found.value)]),
        *states,
        *found.norms_and_tables,
        *optional,
        domain=OPERATORS,
        num_heads=heads,
        kv_num_heads=kv_heads,
        head_dim=head_dim,
        scale=attributes.scale,
        epsilon=found.epsilon,
        softcap=attributes.softcap,
        **mask,
    )
    replace_node(node, [], [publish_rows(emit, node.outputs[0], out, heads, head_dim), *caches])


def keys_values(k: ir.Value, v: ir.Value) -> tuple[Heads | None, Heads | None]:
    """Return what made k and v, None for one with a step that is none of the operators': values have rows only."""
    value = heads_of(v)
    return heads_of(k), value if value is not None and value.norm is None and value.rotation is None else None


def size_of(value: ir.Value, axis: int) -> int:
    """Return the size along an axis, or 0 where it is not known."""
    size = value.shape[axis] if value.shape is not None and len(value.shape) == 4 else 0
    return size if isinstance(size, int) else 0


def _fits(q: ir.Value, k: ir.Value, v: ir.Value, k_cache: ir.Value) -> bool:
    """Whether the operators take these shapes: one sequence, known heads, one head dim of those they have loops for."""
    heads, kv_heads, head_dim = size_of(q, 1), size_of(k, 1), size_of(q, 3)
    return (
        size_of(q, 0) == 1
        and kv_heads > 0
        and heads > 0
        and heads % kv_heads == 0
        and head_dim % HEAD_DIM_MULTIPLE == 0
        and 0 < head_dim <= MAX_HEAD_DIM
        and size_of(v, 1) == kv_heads
        and {size_of(each, 3) for each in (k, v, k_cache)} == {head_dim}
    )


def heads_of(value: ir.Value) -> Heads | None:
    """Return what made [1,H,T,D], or None where a step is none of the operators'."""
    heads, head_dim = size_of(value, 1), size_of(value, 3)
    rotation, norm, epsilon = None, None, 0.0
    if (turn := producer(value, "RotaryEmbedding")) is not None:
        rotation = _rotation(turn, head_dim)
        if rotation is None:
            return None
        value = operands(turn, 1)[0]
    swapped = False
    for _ in range(2):  # the norm stands on either side of the transpose
        if (swap := producer(value, "Transpose")) is not None and not swapped:
            if permutation(swap) != SWAP:
                return None
            value, swapped = operands(swap, 1)[0], True
        elif (step := producer(value, "RMSNormalization")) is not None and norm is None:
            value, norm = operands(step, 2)
            if (
                norm.const_value is None
                or list(norm.shape or ()) != [head_dim]
                or integer(step, "axis", -1) not in (-1, 3)
            ):
                return None
            epsilon = number(step, "epsilon", DEFAULT_EPSILON)
    split = producer(value, "Reshape")
    rows = split.inputs[0] if split is not None else None
    if not swapped or rows is None or rows.shape is None:
        return None
    is_rows = len(rows.shape) == 3 and rows.shape[0] == 1 and rows.shape[2] == heads * head_dim
    return Heads(rows, norm, epsilon, rotation) if is_rows else None


def _rotation(turn: ir.Node, head_dim: int) -> Rotation | None:
    """Return the rotation where it turns halves, by constant tables at position ids."""
    if len(turn.inputs) != 4 or any(value is None for value in turn.inputs):
        return None
    _, cos, sin, positions = operands(turn, 4)
    interleaved, partial = (integer(turn, name) for name in ("interleaved", "rotary_embedding_dim"))
    if interleaved or cos.const_value is None or cos.shape is None or len(cos.shape) != 2:
        return None
    turned = partial or head_dim
    return Rotation(cos, sin, positions) if turned <= head_dim and cos.shape[1] == turned // 2 else None


def _covers(rotation: Rotation, k_cache: ir.Value) -> bool:
    """Whether both tables have a row for every row of the cache."""
    cos, sin = constant_array(rotation.cos), constant_array(rotation.sin)
    return cos is not None and sin is not None and cos.shape == sin.shape and len(cos) >= size_of(k_cache, 2) > 0


def counts_from(ids: ir.Value, position: ir.Value, parents: ir.Value | None = None) -> bool:
    """Whether the position ids [1,T] are position, position + 1, ...: position + Range(0, T, 1), or + a constant.

    Those of a tree's rows are position + TreeDepth(parents).
    """
    added = producer(ids, "Add")
    if added is None:
        return False
    sides = [_unsqueezed(side) for side in operands(added, 2)]
    rest = [side for side in sides if side is not position]
    if len(rest) != 1:
        return False
    if parents is not None:
        depth = producer(rest[0], dialect.TreeDepth.OP_TYPE, dialect.DOMAIN)
        return depth is not None and depth.inputs[0] is parents
    if (count := producer(rest[0], "Range")) is not None:
        return (constant_scalar(count.inputs[0]), constant_scalar(count.inputs[2])) == (0, 1)
    array = constant_array(rest[0])
    return array is not None and np.array_equal(array.reshape(-1), np.arange(array.size))


def _unsqueezed(value: ir.Value) -> ir.Value:
    while (step := producer(value, "Unsqueeze")) is not None:
        value = operands(step, 1)[0]
    return value


def side_by_side(emit: Emitter, parts: list[ir.Value]) -> ir.Value:
    """Return [1,T,(H+2G)*D]: what a Split made exactly these parts of, in this order, else their Concat."""
    split = producer(parts[0], "Split")
    if split is not None and list(split.outputs) == parts and integer(split, "axis") in (-1, 2):
        return operands(split, 1)[0]
    return emit("Concat", *parts, axis=-1)
