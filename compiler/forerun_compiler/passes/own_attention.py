"""Causal CachedAttention becomes the project's own operator, which takes the stacked rows of q, k and v.

The operator does what stands between the product of q, k and v and the one of the output: splits into heads, norms of
each head, rotation, the caches' writes and the attention. A graph reaches CachedAttention through Reshape,
RMSNormalization, Transpose and RotaryEmbedding; where each of them is exactly what the operator does, they go. What is
not (interleaved rotations, computed norms, head dims that the operator does not take, block masks) stays for
`lower_attention`. Linears are best stacked before: then the rows of q, k and v stand side by side already.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import (
    constant_array,
    constant_scalar,
    find_nodes,
    integer,
    number,
    permutation,
    producer,
    replace_node,
)
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.quantize_int8 import OPERATORS
from forerun_compiler.passes.row_layout import SWAP, publish_rows

HEAD_DIM_MULTIPLE, MAX_HEAD_DIM = 16, 256
"""The head dims that the operator takes."""
DEFAULT_EPSILON = 1e-5
"""Of RMSNormalization in ONNX."""


@dataclass(frozen=True)
class _Rotation:
    """Tables [at least C, R], R <= D/2, that turn the two halves of the first 2R dims at position ids [1,T]."""

    cos: ir.Value
    sin: ir.Value
    positions: ir.Value


@dataclass(frozen=True)
class _Heads:
    """What made [1,H,T,D]: rows [1,T,H*D], then a norm of each head by a weight [D], then a rotation."""

    rows: ir.Value
    norm: ir.Value | None
    epsilon: float
    rotation: _Rotation | None


def own_attention(model: ir.Model) -> int:
    """Replace every causal CachedAttention that the operator can compute; return how many were replaced."""
    nodes = find_nodes(model.graph, dialect.CachedAttention.OP_TYPE, dialect.DOMAIN)
    return sum(_replace(model.graph, node, f"own_attention.{number}.") for number, node in enumerate(nodes))


def _replace(graph: ir.Graph, node: ir.Node, prefix: str) -> bool:
    attributes = dialect.CachedAttention.from_node(node)
    q, k, v, k_cache, v_cache, position = operands(node, 6)
    if attributes.mask != dialect.CAUSAL or not _fits(q, k, v, k_cache):
        return False
    made = _heads(q), _heads(k), _heads(v)
    query, key, value = made
    if query is None or key is None or value is None or value.norm is not None or value.rotation is not None:
        return False
    if query.rotation != key.rotation or (query.norm and key.norm and query.epsilon != key.epsilon):
        return False
    rotation = query.rotation
    if rotation is not None and not (_counts_from(rotation.positions, position) and _covers(rotation, k_cache)):
        return False
    emit = Emitter(graph, prefix, before=node)
    heads, kv_heads, head_dim = (int(size) for size in (_size(q, 1), _size(k, 1), _size(q, 3)))
    tables = (rotation.cos, rotation.sin) if rotation is not None else (None, None)
    out, *caches = emit.many(
        dialect.CachedAttention.OP_TYPE,
        3,
        _side_by_side(emit, [each.rows for each in (query, key, value)]),
        *(k_cache, v_cache, position, query.norm, key.norm, *tables),
        domain=OPERATORS,
        num_heads=heads,
        kv_num_heads=kv_heads,
        head_dim=head_dim,
        scale=attributes.scale,
        epsilon=query.epsilon if query.norm is not None else key.epsilon,
        window=attributes.window,
        softcap=attributes.softcap,
        causal=1,
    )
    replace_node(node, [], [publish_rows(emit, node.outputs[0], out, heads, head_dim), *caches])
    return True


def _size(value: ir.Value, axis: int) -> int:
    """Return the size along an axis, or 0 where it is not known."""
    size = value.shape[axis] if value.shape is not None and len(value.shape) == 4 else 0
    return size if isinstance(size, int) else 0


def _fits(q: ir.Value, k: ir.Value, v: ir.Value, k_cache: ir.Value) -> bool:
    """Whether the operator takes these shapes: one sequence, known heads, one head dim of those it has loops for."""
    heads, kv_heads, head_dim = _size(q, 1), _size(k, 1), _size(q, 3)
    return (
        _size(q, 0) == 1
        and kv_heads > 0
        and heads > 0
        and heads % kv_heads == 0
        and head_dim % HEAD_DIM_MULTIPLE == 0
        and 0 < head_dim <= MAX_HEAD_DIM
        and _size(v, 1) == kv_heads
        and {_size(each, 3) for each in (k, v, k_cache)} == {head_dim}
    )


def _heads(value: ir.Value) -> _Heads | None:
    """Return what made [1,H,T,D], or None where a step is none of the operator's."""
    heads, head_dim = _size(value, 1), _size(value, 3)
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
    return _Heads(rows, norm, epsilon, rotation) if is_rows else None


def _rotation(turn: ir.Node, head_dim: int) -> _Rotation | None:
    """Return the rotation where it turns halves, by constant tables at position ids."""
    if len(turn.inputs) != 4 or any(value is None for value in turn.inputs):
        return None
    _, cos, sin, positions = operands(turn, 4)
    interleaved, partial = (integer(turn, name) for name in ("interleaved", "rotary_embedding_dim"))
    if interleaved or cos.const_value is None or cos.shape is None or len(cos.shape) != 2:
        return None
    turned = partial or head_dim
    return _Rotation(cos, sin, positions) if turned <= head_dim and cos.shape[1] == turned // 2 else None


def _covers(rotation: _Rotation, k_cache: ir.Value) -> bool:
    """Whether both tables have a row for every row of the cache."""
    cos, sin = constant_array(rotation.cos), constant_array(rotation.sin)
    return cos is not None and sin is not None and cos.shape == sin.shape and len(cos) >= _size(k_cache, 2) > 0


def _counts_from(ids: ir.Value, position: ir.Value) -> bool:
    """Whether the position ids [1,T] are position, position + 1, and so on: position + Range(0, T, 1)."""
    added = producer(ids, "Add")
    if added is None:
        return False
    sides = [_unsqueezed(side) for side in operands(added, 2)]
    rest = [side for side in sides if side is not position]
    count = producer(rest[0], "Range") if len(rest) == 1 else None
    return count is not None and (constant_scalar(count.inputs[0]), constant_scalar(count.inputs[2])) == (0, 1)


def _unsqueezed(value: ir.Value) -> ir.Value:
    while (step := producer(value, "Unsqueeze")) is not None:
        value = operands(step, 1)[0]
    return value


def _side_by_side(emit: Emitter, parts: list[ir.Value]) -> ir.Value:
    """Return [1,T,(H+2G)*D]: what a Split made exactly these parts of, in this order, else their Concat."""
    split = producer(parts[0], "Split")
    if split is not None and list(split.outputs) == parts and integer(split, "axis") in (-1, 2):
        return operands(split, 1)[0]
    return emit("Concat", *parts, axis=-1)
