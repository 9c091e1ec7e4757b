"""A product of the project's own, gates and values side by side, and the gating behind it become one operator.

LinearInt8 or LinearInt4 [..., 2M], Split, gate * sigmoid(gate) * value. The operator finds a gate beside its value in
one run of a thread because blocks of 16 gates and of 16 values alternate: the packed weight's blocks and the scales are
put in that order. The bytes of a block stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.graph import add_initializer, constant_array, integer, replace_node
from forerun_compiler.number_formats.linear_int8 import alternate_halves
from forerun_compiler.number_formats.packing import OUTPUTS
from forerun_compiler.passes.emitter import operands
from forerun_compiler.passes.own_products import ADDEND, GATED_OF, outputs_of, plain_product
from forerun_compiler.passes.quantize_int8 import OPERATORS

Key = tuple[ir.Value, ir.Value, bool]
"""Packed weight, its scales, and whether the gates are the first half."""


@dataclass(frozen=True)
class _Gating:
    """A product and what makes gate * sigmoid(gate) * value of its output; `last` is the second Mul."""

    product: ir.Node
    between: tuple[ir.Node, ...]
    last: ir.Node
    gate_first: bool

    @property
    def key(self) -> Key:
        _, weight, scale = operands(self.product, 3)
        return weight, scale, self.gate_first


def fuse_gate(model: ir.Model) -> int:
    """Fuse every product that only a gating reads; return how many.

    A weight that another product reads too, or that two gatings read in another order, would have to be stored twice:
    its products are left alone.
    """
    found: dict[Key, list[_Gating]] = {}
    for node in model.graph.all_nodes():
        if (gating := _find(node)) is not None:
            found.setdefault(gating.key, []).append(gating)
    fused = [gatings for (weight, *_), gatings in found.items() if len(weight.uses()) == len(gatings)]
    for gatings in fused:
        _fuse(model.graph, gatings)
    return sum(len(gatings) for gatings in fused)


def _find(split: ir.Node) -> _Gating | None:
    """Return the gating that this node begins, all of it in one graph."""
    if split.op_type != "Split" or split.domain or len(split.outputs) != 2:
        return None
    product = plain_product(split.inputs[0])
    if product is None or not _halves(split, product) or not _read_by(product.outputs[0], split):
        return None
    for gate, value in (split.outputs, split.outputs[::-1]):
        if (found := _silu(gate)) is not None and (last := _times(found[-1].outputs[0], value)) is not None:
            nodes = (product, split, *found, last)
            if _read_by(value, last) and len({id(node.graph) for node in nodes}) == 1:
                return _Gating(product, nodes[1:-1], last, gate is split.outputs[0])
    return None


def _halves(split: ir.Node, product: ir.Node) -> bool:
    """Whether the last axis of a product without an addend is cut into halves of whole blocks."""
    x, weight, scale = operands(product, 3)
    if weight.const_value is None or scale.const_value is None or x.shape is None or len(product.inputs) > ADDEND:
        return False
    width = outputs_of(product)
    # Without sizes two outputs are two halves.
    sizes = split.inputs[1] if len(split.inputs) > 1 else None
    array = constant_array(sizes)
    even = sizes is None or (array is not None and array.tolist() == [width // 2] * 2)
    return even and width % (2 * OUTPUTS) == 0 and integer(split, "axis") in (-1, len(x.shape) - 1)


def _silu(gate: ir.Value) -> tuple[ir.Node, ir.Node] | None:
    """Return the Sigmoid and the Mul of gate * sigmoid(gate), where nothing else reads either."""
    sigmoid = next((use.node for use in gate.uses() if (use.node.op_type, use.node.domain) == ("Sigmoid", "")), None)
    silu = _times(sigmoid.outputs[0], gate) if sigmoid is not None else None
    return (sigmoid, silu) if sigmoid is not None and silu is not None and _read_by(gate, sigmoid, silu) else None


def _times(a: ir.Value, b: ir.Value) -> ir.Node | None:
    """Return the Mul of a and b, where it is all that reads a."""
    for node, _ in a.uses():
        if (node.op_type, node.domain) == ("Mul", "") and set(node.inputs) == {a, b} and _read_by(a, node):
            return node
    return None


def _read_by(value: ir.Value, *nodes: ir.Node) -> bool:
    """Whether these nodes read the value once each, nothing else does, and no graph returns it."""
    readers = [node for node, _ in value.uses()]
    return len(readers) == len(nodes) and set(readers) == set(nodes) and not value.is_graph_output()


def _fuse(home: ir.Graph, gatings: list[_Gating]) -> None:
    """Replace the gatings of one weight."""
    *stored, gate_first = gatings[0].key
    by_turns = [_by_turns(home, value, gate_first) for value in stored]
    for gating in gatings:
        product, graph = gating.product, gating.last.graph
        assert isinstance(graph, ir.Graph)
        inputs = [product.inputs[0], *by_turns, *product.inputs[3:]]
        gated = ir.node(
            GATED_OF[product.op_type],
            inputs,
            product.attributes,
            domain=OPERATORS,
            outputs=[ir.val(None)],
            name=f"{product.name}.gated",
        )
        replace_node(gating.last, [gated], gated.outputs)
        graph.remove([product, *gating.between], safe=True)
    for value in stored:  # at once and not after the pass: weights are large
        if not value.uses():
            del home.initializers[str(value.name)]


def _by_turns(home: ir.Graph, value: ir.Value, gate_first: bool) -> ir.Value:
    """Store a packed weight or its scales in the operator's order: [N], or by blocks of outputs, [N/16,...]."""
    array = constant_array(value)
    assert array is not None
    blocks = array.reshape(-1, OUTPUTS) if array.ndim == 1 else array
    return add_initializer(home, f"{value.name}.gated", alternate_halves(blocks, gate_first).reshape(array.shape))
