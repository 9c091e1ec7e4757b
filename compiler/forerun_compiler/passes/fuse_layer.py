"""A decoder layer whose products and attention are all the project's own becomes one operator.

That saves what the library costs a node, and meetings of the threads in its pool: within the operator they go from one
part to the next on their own. A layer is the exact chain of five nodes whose inner values nothing else reads: products
of either precision, norms or none, caches of float32 or int8. Anything else stays as it is.

What is measured or read by single kernels takes the layers apart again: `split_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import replace_node
from forerun_compiler.number_formats import linear_int4, linear_int8
from forerun_compiler.passes.emitter import operands, optional_input
from forerun_compiler.passes.own_products import ADDEND, GATED_OF, NORM, is_own
from forerun_compiler.passes.quantize_int8 import OPERATORS

LAYER = "DecoderLayer"
PREFIXES = ("qkv_", "output_", "gate_", "down_")
"""Of the attributes of each product; those without are the attention's."""
_ATTENTION = dialect.CachedAttention.OP_TYPE
_INT8 = "Int8"
"""Ends the names of operators over int8 caches."""
_WEIGHTS, _NORMS = 2 * len(PREFIXES), 2
"""Inputs: x, weights and scales, the attention's states, norms of the rows, the attention's rest."""


@dataclass(frozen=True)
class _Layer:
    """The nodes of one layer in their order."""

    qkv: ir.Node
    attention: ir.Node
    output: ir.Node
    gate: ir.Node
    down: ir.Node

    @property
    def products(self) -> tuple[ir.Node, ir.Node, ir.Node, ir.Node]:
        """In the order of their prefixes."""
        return self.qkv, self.output, self.gate, self.down

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return self.qkv, self.attention, self.output, self.gate, self.down


def fuse_layer(model: ir.Model) -> int:
    """Fuse every whole layer; return how many."""
    found = [_find(node) for node in model.graph.all_nodes()]
    layers = [layer for layer in found if layer is not None]
    for layer in layers:
        _fuse(layer)
    return len(layers)


def _find(down: ir.Node) -> _Layer | None:
    """Return the layer that this node ends."""
    if not _is_plain(down) or len(down.inputs) <= ADDEND:
        return None
    gate, output = _maker(down, 0), _maker(down, ADDEND)
    if (
        gate is None
        or output is None
        or not is_own(gate)
        or _is_plain(gate)
        or gate.inputs[0] is not down.inputs[ADDEND]
    ):
        return None
    attention = _maker(output, 0) if _is_plain(output) and len(output.inputs) > ADDEND else None
    if attention is None or attention.domain != OPERATORS or not attention.op_type.startswith(_ATTENTION):
        return None
    qkv = _maker(attention, 0)
    if qkv is None or not _is_plain(qkv) or qkv.inputs[0] is not output.inputs[ADDEND]:
        return None
    layer = _Layer(qkv, attention, output, gate, down)
    return layer if _stands_alone(layer) and _suits(layer) else None


def _is_plain(node: ir.Node) -> bool:
    return is_own(node) and node.op_type in GATED_OF


def _maker(node: ir.Node, index: int) -> ir.Node | None:
    value = optional_input(node, index)
    return value.producer() if value is not None else None


def _stands_alone(layer: _Layer) -> bool:
    """Whether only the layer reads what is made within it, caches are read by nothing, and all is in one graph."""
    readers = {layer.qkv: 1, layer.attention: 1, layer.output: 2, layer.gate: 1}
    inner = all(
        len(node.outputs[0].uses()) == count and not node.outputs[0].is_graph_output()
        for node, count in readers.items()
    )
    caches = all(not value.uses() for value in layer.attention.outputs[1:])
    return inner and caches and len({id(node.graph) for node in layer.nodes}) == 1


def _suits(layer: _Layer) -> bool:
    """Whether x is [B,T,E], stored weights stand at each product, and norms and addends where the operator has them."""
    x = layer.qkv.inputs[0]
    stored = (value for node in layer.products for value in operands(node, 3)[1:])
    norms = (optional_input(node, NORM) for node in (layer.output, layer.down))
    return (
        x is not None
        and x.shape is not None
        and len(x.shape) == 3
        and all(value.const_value is not None for value in stored)
        and all(norm is None for norm in norms)
        and optional_input(layer.qkv, ADDEND) is None
    )


def _fuse(layer: _Layer) -> None:
    """Replace a layer; the operator stands where its last product stood."""
    (x,), first_rest = operands(layer.qkv, 1), 1 + _states(layer.attention.op_type)
    weights = [value for node in layer.products for value in operands(node, 3)[1:]]
    states, rest = layer.attention.inputs[1:first_rest], layer.attention.inputs[first_rest:]
    norms = [optional_input(node, NORM) for node in (layer.qkv, layer.gate)]
    attributes = list(layer.attention.attributes.values())
    for prefix, node in zip(PREFIXES, layer.products, strict=True):
        attributes += [_named(value, prefix + name) for name, value in node.attributes.items()]
    fused = ir.Node(
        OPERATORS,
        LAYER + layer.attention.op_type.removeprefix(_ATTENTION),
        [x, *weights, *states, *norms, *rest],
        attributes,
        num_outputs=len(layer.attention.outputs),
        name=f"{layer.down.name}.layer",
    )
    y, *caches = fused.outputs
    graph = layer.down.graph
    assert isinstance(graph, ir.Graph)
    replace_node(layer.down, [fused], [y])
    graph.remove([layer.gate, layer.output], safe=True)
    replace_node(layer.attention, [], [ir.val(None), *caches])
    graph.remove(layer.qkv, safe=True)


def split_layers(model: ir.Model) -> int:
    """Replace every layer by the nodes that it was fused of; return how many."""
    layers = [node for node in model.graph.all_nodes() if node.domain == OPERATORS and node.op_type.startswith(LAYER)]
    for layer in layers:
        _split(layer)
    return len(layers)


def _split(layer: ir.Node) -> None:
    attention_op = _ATTENTION + layer.op_type.removeprefix(LAYER)
    first_norm = 1 + _WEIGHTS + _states(attention_op)
    x, weights, states = layer.inputs[0], layer.inputs[1 : 1 + _WEIGHTS], layer.inputs[1 + _WEIGHTS : first_norm]
    qkv_norm, gate_norm = layer.inputs[first_norm : first_norm + _NORMS]
    rest = layer.inputs[first_norm + _NORMS :]

    def product(index: int, rows: ir.Value | None, norm: ir.Value | None, *addend: ir.Value | None) -> ir.Node:
        prefix, parts = PREFIXES[index], weights[2 * index : 2 * index + 2]
        own = [
            _named(value, name.removeprefix(prefix))
            for name, value in layer.attributes.items()
            if name.startswith(prefix)
        ]
        plain = linear_int4.LINEAR if f"{prefix}group_size" in layer.attributes else linear_int8.LINEAR
        op_type = GATED_OF[plain] if prefix == "gate_" else plain
        return _node(layer, op_type, [rows, *parts, norm, *addend], own, prefix.removesuffix("_"), 1)

    qkv = product(0, x, qkv_norm)
    own = [value for name, value in layer.attributes.items() if not name.startswith(PREFIXES)]
    inputs = [qkv.outputs[0], *states, *rest]
    attention = _node(layer, attention_op, inputs, own, "attention", len(layer.outputs))
    output = product(1, attention.outputs[0], None, x)
    gate = product(2, output.outputs[0], gate_norm)
    down = product(3, gate.outputs[0], None, output.outputs[0])
    replace_node(layer, [qkv, attention, output, gate, down], [down.outputs[0], *attention.outputs[1:]])


def _node(
    layer: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Sequence[ir.Attr],
    part: str,
    count: int,
) -> ir.Node:
    """Make a part of a layer; its outputs are named after it."""
    stem = f"{layer.name}.{part}"
    outputs = [ir.val(stem if index == 0 else f"{stem}.{index}") for index in range(count)]
    while inputs[-1] is None:
        inputs = inputs[:-1]
    return ir.Node(OPERATORS, op_type, inputs, attributes, outputs=outputs, name=stem)


def _named(attribute: ir.Attr, name: str) -> ir.Attr:
    return ir.Attr(name, attribute.type, attribute.value)


def _states(attention_op: str) -> int:
    """Return how many inputs an attention has between its rows and its norms: caches, their scales, the position."""
    return 5 if attention_op.endswith(_INT8) else 3
