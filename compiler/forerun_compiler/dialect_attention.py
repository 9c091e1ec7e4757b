"""The `forerun` ONNX domain's attention: ops on key-value caches, and their references in numpy.

Shapes: B sequences, T tokens this run, H query heads, G key-value heads (H is a multiple of G), D head dim, C cache
rows.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.errors import TraceError

DOMAIN = "forerun"

CAUSAL = "causal"
BLOCK = "block"
MASKS = (CAUSAL, BLOCK)

TINY = 2.0**-100
"""A row of int8 whose largest value is below this has scale 0: 127 / m must not overflow, nor m / 127 be subnormal."""

KEYS = 64
WEIGHT_MOST = 32767
"""Over int8 the largest weight of a block of KEYS positions has this code."""

Array = npt.NDArray[Any]


class Op:
    """What all dialect ops share: attributes to and from an ONNX node."""

    OP_TYPE: ClassVar[str]

    def attributes(self) -> dict[str, float | int | str]:
        """Return the attributes as an exporter or `ir.node` takes them, in declaration order."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_node(cls, node: ir.Node) -> Self:
        """Read the attributes of a dialect node.

        Raises:
            TraceError: the node is another op, lacks an attribute, has one more, or a value is out of range.
        """
        if node.domain != DOMAIN or node.op_type != cls.OP_TYPE:
            raise TraceError(
                f"node {node.name!r}: expected {DOMAIN}::{cls.OP_TYPE}, found {node.domain}::{node.op_type}"
            )
        expected = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if set(node.attributes) != expected:
            raise TraceError(
                f"node {node.name!r} ({cls.OP_TYPE}): expected the attributes {sorted(expected)}, "
                f"found {sorted(node.attributes)}"
            )
        return cls(**{name: attribute.value for name, attribute in node.attributes.items()})


@dataclass(frozen=True)
class CachedAttention(Op):
    """Write keys and values to the cache at `position`, then attend over it.

    Inputs: q [B,H,T,D], k [B,G,T,D], v [B,G,T,D], k_cache [B,G,C,D], v_cache [B,G,C,D] float32,
    position [B] int64 (tokens already in the cache). q and k are rotated already. Optional, in this order:

    - k_scale, v_scale [B,G,C] float32: the caches are int8 (see `int8_rows`), and all rows are read from there; q
      becomes such codes too, and the softmax's weights are rounded (see `rounded_weights`);
    - parents [B,T] int64, of a causal mask: row i continues row parents[i] < i, or the text for -1. A row sees the
      text, its ancestors and itself, its place in the text is `position + tree_depth`, its cache row position+i;
    - rows [B] int64: the rows of a sequence that are there; beyond them nothing is written and out is 0.

    Outputs: out [B,H,T,D], k_cache', v_cache', and with scales k_scale', v_scale'.
    Query head h reads key-value head h // (H // G).
    """

    OP_TYPE: ClassVar[str] = "CachedAttention"
    SCALES: ClassVar[slice] = slice(6, 8)
    """Where among the inputs the optional k_scale and v_scale stand."""
    PARENTS: ClassVar[int] = 8
    ROWS: ClassVar[int] = 9

    scale: float
    """Factor of the scores q . k."""
    mask: str = CAUSAL
    """`causal`: row i sees the keys 0..position+i; `block`: every row sees the keys 0..position+T-1."""
    window: int = 0
    """0, or how far back a query at absolute position p sees: only keys after p-window (causal: (p-window, p])."""
    softcap: float = 0.0
    """0, or c: scores become c * tanh(score / c) before the mask."""

    def __post_init__(self) -> None:
        """Refuse values that no lowering knows."""
        if self.mask not in MASKS:
            raise TraceError(f"CachedAttention: mask must be one of {', '.join(MASKS)}; got {self.mask!r}")
        if self.window < 0 or self.softcap < 0.0 or not math.isfinite(self.scale) or not math.isfinite(self.softcap):
            raise TraceError(
                "CachedAttention: window and softcap must be 0 (off) or positive and scale finite; "
                f"got window={self.window}, softcap={self.softcap}, scale={self.scale}"
            )


@dataclass(frozen=True)
class CacheWrite(Op):
    """Write keys and values to the cache at `position`, without a query.

    Inputs: k [B,G,T,D], v [B,G,T,D], k_cache [B,G,C,D], v_cache [B,G,C,D] float32, position [B] int64; optional
    k_scale, v_scale [B,G,C] float32 as in CachedAttention.
    Outputs: k_cache', v_cache', and with scales k_scale', v_scale'.
    """

    OP_TYPE: ClassVar[str] = "CacheWrite"
    SCALES: ClassVar[slice] = slice(5, 7)


@dataclass(frozen=True)
class TreeDepth(Op):
    """How many ancestors each row of a tree has: parents [B,T] int64 -> [B,T] int64; see `tree_depth`."""

    OP_TYPE: ClassVar[str] = "TreeDepth"


def int8_rows(x: Array) -> tuple[Array, Array]:
    """Return codes int8 [...,D] and scales float32 [...] of rows x [...,D] float32, each row for itself.

    m = max |x|, scale = m / 127, code = x * (127 / m) rounded to the nearest, ties to even; m < 2^-100: both 0; m not
    finite: scale NaN and codes 0.
    """
    peak = np.abs(x).max(axis=-1, keepdims=True).astype(np.float32)
    finite, used = np.isfinite(peak), np.isfinite(peak) & (peak >= TINY)
    inverse = np.float32(127) / np.where(used, peak, np.float32(127))
    codes = np.where(used, np.rint(np.where(used, x, 0).astype(np.float32) * inverse), 0).astype(np.int8)
    scales = np.where(used, peak / np.float32(127), np.where(finite, np.float32(0), np.float32(np.nan)))
    return codes, scales[..., 0].astype(np.float32)


def cache_write(
    k: Array,
    v: Array,
    k_cache: Array,
    v_cache: Array,
    position: Array,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    *,
    rows: Array | None = None,
) -> tuple[Array, ...]:
    """Reference of CacheWrite.

    Raises:
        ValueError: the rows position..position+T-1 are not all inside the cache.
    """
    room, capacity = k.shape[2], k_cache.shape[2]
    sides = [[k_cache.copy(), v_cache.copy()]]
    new = [[k, v]]
    if k_scale is not None and v_scale is not None:
        coded = [int8_rows(side) for side in (k, v)]
        new = [[codes for codes, _ in coded], [scales for _, scales in coded]]
        sides.append([k_scale.copy(), v_scale.copy()])
    for b, start in enumerate(position.tolist()):
        count = room if rows is None else int(rows[b])
        if start < 0 or start + count > capacity:
            raise ValueError(f"cache rows {start}..{start + count - 1} are outside the cache of {capacity} rows")
        for outs, arrays in zip(sides, new, strict=True):
            for out, array in zip(outs, arrays, strict=True):
                out[b, :, start : start + count] = array[b, :, :count]
    return tuple(out for outs in sides for out in outs)


def tree_depth(parents: Array) -> Array:
    """Reference of TreeDepth: 0 for parent -1, else one more than the parent's."""
    depth = np.zeros_like(parents)
    for b, row in np.ndindex(parents.shape):
        depth[b, row] = depth[b, parents[b, row]] + 1 if parents[b, row] >= 0 else 0
    return depth


def key_positions(position: int, rows: int, parents: Array | None = None) -> Array:
    """Return the place in the text of each cache row: int64 [position + rows]; parents [rows] of a tree."""
    new = np.arange(rows) if parents is None else tree_depth(parents[None, :rows])[0]
    return np.concatenate([np.arange(position), position + new])


def visible(attributes: CachedAttention, position: int, rows: int, parents: Array | None = None) -> Array:
    """Return which cache rows each query row sees: bool [rows, position + rows]; parents [rows] of a tree."""
    key = key_positions(position, rows, parents)
    row, query = np.arange(position + rows), key[position:]
    causal = attributes.mask == CAUSAL
    seen = row <= row[position:, None] if causal else np.ones((rows, position + rows), np.bool_)
    if parents is not None:
        related = np.eye(rows, dtype=np.bool_)
        for i in range(rows):
            if parents[i] >= 0:
                related[i] |= related[parents[i]]
        seen = np.concatenate([np.ones((rows, position), np.bool_), related], axis=1)
    return seen & (key > query[:, None] - attributes.window) if attributes.window else seen


def cached_attention(
    q: Array,
    k: Array,
    v: Array,
    k_cache: Array,
    v_cache: Array,
    position: Array,
    k_scale: Array | None = None,
    v_scale: Array | None = None,
    parents: Array | None = None,
    rows: Array | None = None,
    *,
    attributes: CachedAttention,
) -> tuple[Array, ...]:
    """Reference of CachedAttention.

    Raises:
        ValueError: the rows position..position+T-1 are not all inside the cache.
    """
    states = cache_write(k, v, k_cache, v_cache, position, k_scale, v_scale, rows=rows)
    queries = q if k_scale is None else _widened(*int8_rows(q))
    keys, values = (_widened(cache, states[2 + i] if len(states) > 2 else None) for i, cache in enumerate(states[:2]))
    group = q.shape[1] // k.shape[1]
    out = np.zeros_like(q)
    for b, start in enumerate(position.tolist()):
        count = q.shape[2] if rows is None else int(rows[b])
        tree = None if parents is None else parents[b]
        seen, places = visible(attributes, start, count, tree), key_positions(start, count, tree)
        for h in range(q.shape[1]):
            scores = (
                queries[b, h, :count].astype(np.float64) @ keys[b, h // group, : start + count].T * attributes.scale
            )
            if attributes.softcap:
                scores = attributes.softcap * np.tanh(scores / attributes.softcap)
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            total = weights.sum(axis=-1, keepdims=True)
            if len(states) > 2:
                weights = rounded_weights(weights, states[3][b, h // group, : start + count], places)
            out[b, h, :count] = weights / total @ values[b, h // group, : start + count]
    return out, *states


def rounded_weights(weights: Array, scales: Array, places: Array) -> Array:
    """Round weights [T,N] of N values of int8 with `scales` [N]: those at the places 0 to 63 together, and so on.

    u = weight * scale, and 0 where the weight is; m = max u; code = u * (32767 / m) rounded to the nearest; m < 2^-100:
    0; m not finite: NaN. Returned is what the code stands for, of a value with its scale.
    """
    rounded = np.zeros_like(weights)
    used = weights != 0
    scaled = np.where(used, weights * scales, 0)
    for block in np.unique(places // KEYS):
        here = places // KEYS == block
        step = scaled[:, here].max(axis=1, keepdims=True) / WEIGHT_MOST
        step = np.where(step < TINY / WEIGHT_MOST, np.inf, step)  # codes of 0
        codes = np.rint(scaled[:, here] / step)
        taken = used[:, here] & (codes != 0)
        rounded[:, here] = np.where(taken, codes * np.where(taken, step, 0) / np.where(taken, scales[here], 1), 0)
    return rounded


def _widened(cache: Array, scale: Array | None) -> Array:
    """What a cache's rows are read as: int8 codes times their scales in float32; float64 from there on."""
    return (cache if scale is None else cache.astype(np.float32) * scale[..., None]).astype(np.float64)
