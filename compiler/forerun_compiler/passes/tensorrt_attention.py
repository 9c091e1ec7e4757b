"""CachedAttention and CacheWrite become TensorScatter and Attention with the rows of a decoding run as heads.

TensorRT reads keys and values where they lie only if a head has one row; else it copies every cache in every run. So
q [1,H,T,D] becomes [1,H*W,T/W,D], W being the rows of the widest decoding run: one row a head while decoding, T/W rows
a head in prefill, where a copy of the caches serves a whole chunk. Head h*W+i holds rows i*T/W and on of query head h,
and reads key-value head (h*W+i) // (H/G*W) = h // (H/G) as before. T must be a multiple of W.

Narrower decoding runs cannot be folded by another number: the heads of an Attention are fixed in the engine, and a
number that divides all widths would leave several rows a head, and copies. An engine for each width would hold the
weights once more. So q is filled up with zeros to W rows, for attention alone, and what they give is cut off; all
products keep T rows, and the keys and values that W rows read are those of one row of the widest run.

What a row sees is a mask, made once for a position and shared by all layers of the same window: TensorRT ignores
Attention's own lengths, and its causal mask counts from row 0. A cache goes from the graph input NAME through one
TensorScatter to the graph output `NAME.out`, which is what TensorRT keeps in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import find_nodes, output_named, replace_node
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.joined_writes import JoinedWrites
from forerun_compiler.passes.lower_attention import context_write, row_count

MOST_CACHE_ROWS = 20480
"""TensorRT-RTX 1.7 has a kernel for one row a head up to here; with 24576 cache rows the build fails."""
HEAD_DIMS = range(16, 257)
"""16 to 256 build, 8 and 288 do not."""


@dataclass(frozen=True)
class _Sizes:
    """Static sizes of an attention over caches [1,G,C,D]: H heads, of whose T rows `spread` become heads."""

    heads: int
    head_dim: int
    cache_rows: int
    spread: int


def tensorrt_attention(model: ir.Model, narrower: bool = False) -> int:
    """Replace every CachedAttention and CacheWrite of batch 1; return how many were replaced.

    `narrower`: decoding runs may have fewer rows than the widest; else every T must be a multiple of that.

    Raises:
        PassError: another batch size, an unknown shape, or what TensorRT has no kernel for: a soft-cap, a head dim, a
            cache of too many rows.
    """
    graph, joined = model.graph, JoinedWrites()
    width = decoding_width(model)
    rows = _Rows(narrower and width > 1)
    masks = _Masks(graph, rows)
    attentions = find_nodes(graph, dialect.CachedAttention.OP_TYPE, dialect.DOMAIN)
    count = len(attentions) + len(find_nodes(graph, dialect.CacheWrite.OP_TYPE, dialect.DOMAIN))
    for number, node in enumerate(attentions):
        _lower(graph, node, _sizes(node, width), (rows, masks, joined), f"attention.{number}.")
    for number, node in enumerate(find_nodes(graph, dialect.CacheWrite.OP_TYPE, dialect.DOMAIN)):
        k, v, k_cache, v_cache, position = operands(node, 5)
        emit = Emitter(graph, f"write.{number}.", before=node)
        replace_node(node, [], _write(emit, ((k_cache, k), (v_cache, v)), position))
    return count


def decoding_width(model: ir.Model) -> int:
    """Return T of a decoding run: K+1 of a round, 1 of the plain graph; it is the width of `committed` [1,T]."""
    shape = output_named(model.graph, "committed").shape
    width = shape[1] if shape is not None else None
    if not isinstance(width, int):
        raise PassError(f"the output 'committed' of {model.graph.name!r}: expected [1,T] with T known, found {shape}")
    return width


def _lower(
    graph: ir.Graph, node: ir.Node, sizes: _Sizes, shared: tuple[_Rows, _Masks, JoinedWrites], prefix: str
) -> None:
    attributes, (rows, masks, joined) = dialect.CachedAttention.from_node(node), shared
    if attributes.softcap:
        raise PassError(
            f"node {node.name!r}: TensorRT's attention has no soft-cap of the scores, and this one has "
            f"{attributes.softcap:g}; build this target for onnxruntime"
        )
    q, k, v, k_cache, v_cache, position = operands(node, 6)
    mask = masks.of(attributes, q, position, sizes, node)
    emit = Emitter(graph, prefix, before=node)
    write = context_write(node)
    if write is None:
        caches = _write(emit, ((k_cache, k), (v_cache, v)), position)
    else:
        caches = joined.emit(emit, write, node)
    filled = rows.fill(emit, q, sizes)
    spread = emit("Reshape", filled, emit.constant([1, sizes.heads * sizes.spread, -1, sizes.head_dim]))
    out = emit("Attention", spread, *caches, mask, scale=attributes.scale)
    whole = emit("Reshape", out, emit.constant([1, sizes.heads, -1, sizes.head_dim]))
    replace_node(node, [], [rows.cut(emit, whole, q), *caches])
    if write is not None:
        graph.remove(write, safe=True)


def _write(emit: Emitter, pairs: tuple[tuple[ir.Value, ir.Value], ...], position: ir.Value) -> list[ir.Value]:
    return [emit("TensorScatter", cache, rows, position, axis=2) for cache, rows in pairs]


def _sizes(node: ir.Node, width: int) -> _Sizes:
    q, _, _, cache = operands(node, 4)
    shapes = [list(value.shape or ()) for value in (q, cache)]
    if [len(shape) for shape in shapes] != [4, 4]:
        raise PassError(f"node {node.name!r}: expected q and the caches of known rank 4, found the shapes {shapes}")
    (batch, heads, _, head_dim), rows = shapes[0], shapes[1][2]
    if any(value is not None for value in node.inputs[6:]):
        raise PassError(f"node {node.name!r}: int8 caches, trees and ragged batches are not lowered for TensorRT")
    if batch != 1 or not (isinstance(heads, int) and isinstance(head_dim, int) and isinstance(rows, int)):
        raise PassError(
            f"node {node.name!r}: expected q [1,H,T,D] and caches [1,G,C,D] with H, D and C known, found {shapes}; "
            "only batch 1 is lowered for TensorRT"
        )
    if head_dim not in HEAD_DIMS:
        raise PassError(
            f"node {node.name!r}: head dim {head_dim} cannot run on TensorRT, whose attention takes "
            f"{HEAD_DIMS.start} to {HEAD_DIMS.stop - 1}; build this target for onnxruntime"
        )
    if rows > MOST_CACHE_ROWS:
        raise PassError(
            f"node {node.name!r}: a cache of {rows} rows cannot run on TensorRT, whose attention reads at most "
            f"{MOST_CACHE_ROWS} in place; choose a smaller capacity in the recipe"
        )
    count = _known_rows(q)
    return _Sizes(heads, head_dim, rows, width if count is None else count)


def _known_rows(q: ir.Value) -> int | None:
    """Return the number of rows of q [1,H,T,D], None when a run chooses it."""
    rows = q.shape[2] if q.shape is not None else None
    return rows if isinstance(rows, int) else None


def _row_name(q: ir.Value) -> object:
    """What equal numbers of rows have in common: one without a name is known by the value that has it only."""
    assert q.shape is not None
    rows = q.shape[2]
    return rows if isinstance(rows, int) or rows.value is not None else q


class _Rows:
    """The rows of a run, int64 [1], and the multiple of W that attention has in their place; each made once."""

    def __init__(self, narrower: bool) -> None:
        self._narrower = narrower
        self._known: dict[object, tuple[ir.Value, ir.Value, ir.Value]] = {}

    def fill(self, emit: Emitter, q: ir.Value, sizes: _Sizes) -> ir.Value:
        """Append zeros to q where its rows are chosen by a run."""
        return emit("Pad", q, self._counts(emit, q, sizes)[2]) if self._varies(q) else q

    def cut(self, emit: Emitter, out: ir.Value, q: ir.Value) -> ir.Value:
        """The rows of `out` that q has; `fill` came before."""
        if not self._varies(q):
            return out
        return emit("Slice", out, emit.constant([0]), self._known[_row_name(q)][0], emit.constant([2]))

    def filled(self, emit: Emitter, q: ir.Value, sizes: _Sizes) -> ir.Value:
        """The number of rows of a filled q."""
        return self._counts(emit, q, sizes)[1] if self._varies(q) else row_count(emit, q, 2, _known_rows(q))

    def _varies(self, q: ir.Value) -> bool:
        return self._narrower and _known_rows(q) is None

    def _counts(self, emit: Emitter, q: ir.Value, sizes: _Sizes) -> tuple[ir.Value, ir.Value, ir.Value]:
        name = _row_name(q)
        if name not in self._known:
            count, spread = row_count(emit, q, 2, None), emit.constant([sizes.spread])
            up = emit("Add", count, emit.constant([sizes.spread - 1]))
            whole = emit("Mul", emit("Div", up, spread), spread)
            zeros = [emit.constant([0] * 6), emit("Sub", whole, count), emit.constant([0])]
            self._known[name] = count, whole, emit("Concat", *zeros, axis=0)
        return self._known[name]


class _Masks:
    """What the rows of a run see, bool [1,H*W,T/W,C], or [1,1,1,C] where all see the same; each made once."""

    def __init__(self, graph: ir.Graph, rows: _Rows) -> None:
        self._graph = graph
        self._rows = rows
        self._known: dict[tuple[object, ...], ir.Value] = {}

    def of(
        self, attributes: dialect.CachedAttention, q: ir.Value, position: ir.Value, sizes: _Sizes, before: ir.Node
    ) -> ir.Value:
        key = (position, attributes.mask, attributes.window, _row_name(q), sizes)
        if key not in self._known:
            emit = Emitter(self._graph, f"mask.{len(self._known)}.", before=before)
            self._known[key] = _mask(emit, attributes, self._rows.filled(emit, q, sizes), position, sizes)
        return self._known[key]


def _mask(
    emit: Emitter, attributes: dialect.CachedAttention, count: ir.Value, position: ir.Value, sizes: _Sizes
) -> ir.Value:
    key = emit.constant(np.arange(sizes.cache_rows)[None, None, None])
    row = emit("Range", emit.constant(0), emit("Squeeze", count), emit.constant(1))
    query = emit("Reshape", emit("Add", position, row), emit.constant([1, sizes.spread, -1, 1]))
    if attributes.mask == dialect.CAUSAL:
        seen = emit("LessOrEqual", key, query)
    else:
        seen = emit("Less", key, emit("Add", position, count))
        if not attributes.window:
            return seen
    if attributes.window:
        seen = emit("And", seen, emit("Greater", key, emit("Sub", query, emit.constant([attributes.window]))))
    return emit("Tile", seen, emit.constant([1, sizes.heads, 1, 1]))
