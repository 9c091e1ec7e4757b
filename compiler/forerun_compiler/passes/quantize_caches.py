"""Key-value caches become int8: each row of a head with a float32 scale of its own.

The states `NAME` of the attention, float32 [1,G,C,D], become int8, and beside each of them stands `NAME_scale` float32
[1,G,C]. The ops of the dialect stay what they are: they take the scales and give them back, and what that means stands
in `dialect_attention`.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import replace_node
from forerun_compiler.passes.emitter import operands

_INT8, _FLOAT = ir.TensorType(ir.DataType.INT8), ir.TensorType(ir.DataType.FLOAT)
_OPS = {op.OP_TYPE: op for op in (dialect.CacheWrite, dialect.CachedAttention)}
"""Among an op's inputs the caches stand before the position, and that before the scales."""


def quantize_caches(model: ir.Model) -> int:
    """Give every CacheWrite and CachedAttention caches of int8; return how many ops were changed.

    Raises:
        PassError: a cache is no state of the graph, or there is none.
    """
    nodes = [node for node in model.graph if node.domain == dialect.DOMAIN and node.op_type in _OPS]
    for node in nodes:
        _quantize(model.graph, node)
    if not nodes:
        raise PassError(f"{model.graph.name!r} has no key-value caches to quantize: expected a CachedAttention in it")
    return len(nodes)


def _quantize(graph: ir.Graph, node: ir.Node) -> None:
    op = _OPS[node.op_type]
    start, attributes = op.SCALES.start, op.from_node(node).attributes()
    caches = operands(node, start)[start - 3 : start - 1]
    scales = [_scale_of(graph, node, cache, index) for index, cache in enumerate(caches)]
    inputs = [*node.inputs[:start], *scales, *node.inputs[start + 2 :]]
    count = len(node.outputs)
    new = ir.node(node.op_type, inputs, attributes, domain=node.domain, num_outputs=count + 2)
    new.name = node.name
    before = [value.name for value in node.outputs[-2:]]
    for cache, scale, given in zip(new.outputs[count - 2 : count], new.outputs[count:], scales, strict=True):
        cache.type, scale.type, scale.shape = _INT8, _FLOAT, given.shape
    replace_node(node, [new], new.outputs[:count])
    for name, cache, scale in zip(before, new.outputs[count - 2 : count], new.outputs[count:], strict=True):
        scale.name = _beside(str(name))
        if cache.is_graph_output():
            graph.outputs.insert(graph.outputs.index(cache) + 1, scale)


def _scale_of(graph: ir.Graph, node: ir.Node, cache: ir.Value, index: int) -> ir.Value:
    """The scales of a cache that a node reads: made by the node before it, or a new state beside the cache."""
    made = cache.producer()
    if made is not None and made.op_type in _OPS:
        return made.outputs[index - 2]
    if cache not in graph.inputs or cache.shape is None or len(cache.shape) != 4:
        raise PassError(
            f"node {node.name!r} ({node.op_type}): expected caches that are states of the graph, [1,G,C,D]; "
            f"found {cache.name!r} {cache.shape}"
        )
    scale = ir.val(_beside(str(cache.name)), ir.DataType.FLOAT, ir.Shape(cache.shape[:3]))
    cache.type = _INT8
    graph.inputs.insert(graph.inputs.index(cache) + 1, scale)
    return scale


def _beside(name: str) -> str:
    """NAME_scale beside the cache NAME, and NAME_scale.out beside NAME.out."""
    stem = name.removesuffix(".out")
    return f"{stem}_scale{name[len(stem) :]}"
