"""The greedy walk of a drafter with a recurrent Markov head, six small nodes a slot, becomes one operator, GreedyWalk.

Each slot reads a row of a table by the token before, multiplies it beside the state and a hidden row, takes a step of a
recurrence, adds a product of its output to the slot's logits, and chooses the first largest. A node of it costs what
the library does around it; in one operator the threads meet within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from forerun_compiler.graph import constant_array, integer, new_node, producer, replace_node
from forerun_compiler.passes.emitter import operands
from forerun_compiler.passes.fuse_recurrence import RECURRENCE
from forerun_compiler.passes.own_products import ADDEND, NORM, outputs_of, plain_product
from forerun_compiler.passes.quantize_int8 import OPERATORS

WALK = "GreedyWalk"


@dataclass(frozen=True)
class _Slot:
    """What chooses one token: the two products, and what they read that differs from slot to slot."""

    token: ir.Value
    before: ir.Value
    state: ir.Value
    next: ir.Value | None
    hidden: ir.Value
    logits: ir.Value
    table: ir.Value
    joint: ir.Node
    output: ir.Node
    nodes: tuple[ir.Node, ...]

    @property
    def shared(self) -> list[ir.Value | None]:
        """The table, and the weights, scales and bias of the products."""
        return [self.table, *self.joint.inputs[1:3], self.joint.inputs[ADDEND], *self.output.inputs[1:3]]


def fuse_walk(model: ir.Model) -> int:
    """Fuse every walk whose inner values nothing else reads; return how many."""
    ends = [node for node in model.graph.all_nodes() if (node.op_type, node.domain) == ("Concat", "")]
    count = sum(_fuse(end) for end in ends)
    if count:
        model.graph.opset_imports.setdefault(OPERATORS, 1)
    return count


def _fuse(end: ir.Node) -> bool:
    slots = _slots(end)
    if slots is None:
        return False
    first, inner = slots[0], [node for slot in slots for node in slot.nodes]
    logits, hidden = (_cut([getattr(slot, name) for slot in slots]) for name in ("logits", "hidden"))
    size = _state_size(first)
    if logits is None or hidden is None or not size or not _is_chain(slots) or not _is_closed(inner, end):
        return False
    graph = end.graph
    assert isinstance(graph, ir.Graph)
    attributes = {"state_size": size, **_attributes("joint_", first.joint), **_attributes("output_", first.output)}
    name = f"{end.outputs[0].name}.walk"
    walk = new_node(
        WALK, [first.before, logits, hidden, *first.shared], [name], domain=OPERATORS, attributes=attributes
    )
    replace_node(end, [walk], walk.outputs)
    graph.remove(reversed(inner), safe=True)
    return True


def _attributes(prefix: str, product: ir.Node) -> dict[str, int]:
    return {f"{prefix}{name}": value.as_int() for name, value in product.attributes.items() if name != "epsilon"}


def _slots(end: ir.Node) -> list[_Slot] | None:
    """Return the slots whose tokens the node joins, if all of its inputs are such."""
    found = [_slot(value) for value in end.inputs]
    slots = [slot for slot in found if slot is not None]
    return slots if len(slots) == len(found) > 1 and integer(end, "axis") == 1 else None


def _slot(token: ir.Value | None) -> _Slot | None:
    choice = producer(token, "ArgMax")
    if token is None or choice is None or not _takes_first_largest(choice):
        return None
    output = plain_product(choice.inputs[0])
    if output is None or not _has_addend_alone(output) or (step := _step(output.inputs[0])) is None:
        return None
    z, state, following, between = step
    joint = plain_product(z)
    if joint is None or not _has_addend_alone(joint) or (read := _read(joint.inputs[0])) is None:
        return None
    row, gather, (own_state, hidden) = read
    logits, (table, before) = output.inputs[ADDEND], operands(gather, 2)
    if logits is None or state not in (None, own_state):
        return None
    nodes = (gather, row, joint, *between, output, choice)
    return _Slot(token, before, own_state, following, hidden, logits, table, joint, output, nodes)


def _takes_first_largest(node: ir.Node) -> bool:
    return (
        integer(node, "axis") in (-1, 2)
        and not integer(node, "keepdims", 1)
        and not integer(node, "select_last_index", 0)
    )


def _has_addend_alone(product: ir.Node) -> bool:
    return len(product.inputs) == ADDEND + 1 and product.inputs[NORM] is None


def _step(out: ir.Value | None) -> tuple[ir.Value, ir.Value | None, ir.Value | None, tuple[ir.Node, ...]] | None:
    """Return z, the state, the next one, and the nodes of what makes `out`; the last step of a walk has no states."""
    step = producer(out, RECURRENCE, OPERATORS)
    if step is not None and out is step.outputs[1]:
        z, state = operands(step, 2)
        return z, state, step.outputs[0], (step,)
    tangent = producer(out, "Tanh")
    split = producer(tangent.inputs[0], "Split") if tangent is not None else None
    if tangent is None or split is None or len(split.outputs) != 3 or tangent.inputs[0] is not split.outputs[2]:
        return None
    even = len(split.inputs) == 1 and integer(split, "axis") in (-1, 2)
    return (operands(split, 1)[0], None, None, (split, tangent)) if even else None


def _read(x: ir.Value | None) -> tuple[ir.Node, ir.Node, tuple[ir.Value, ir.Value]] | None:
    """Return the Concat of a state, a row of a table and a hidden row, the Gather of that row, and the two others."""
    row = producer(x, "Concat")
    if row is None or len(row.inputs) != 3 or integer(row, "axis") not in (-1, 2):
        return None
    state, taken, hidden = operands(row, 3)
    gather = producer(taken, "Gather")
    if gather is None or integer(gather, "axis") != 0:
        return None
    return row, gather, (state, hidden)


def _cut(parts: Sequence[ir.Value]) -> ir.Value | None:
    """Return what a Split cuts into exactly these parts, one row of [1,K,N] each, in their order."""
    split = producer(parts[0], "Split")
    if split is None or integer(split, "axis") != 1:
        return None
    whole = split.inputs[0]
    if whole is None or whole.shape is None or list(whole.shape[:2]) != [1, len(parts)]:
        return None
    return whole if tuple(split.outputs) == tuple(parts) else None


def _state_size(first: _Slot) -> int:
    """Return E if the state before the first slot is E zeros, else 0; products and table must fit it."""
    zeros, table = constant_array(first.state), first.table.shape
    if zeros is None or zeros.any() or table is None or len(table) != 2 or first.table.dtype != ir.DataType.FLOAT:
        return 0
    size, bias = int(zeros.size), constant_array(first.joint.inputs[ADDEND])
    fits = bias is not None and bias.size == 3 * size and outputs_of(first.joint) == 3 * size
    tokens = outputs_of(first.output)
    return size if fits and isinstance(table[0], int) and table[0] >= tokens else 0


def _is_chain(slots: Sequence[_Slot]) -> bool:
    """Whether each slot goes on from the one before, with the same weights."""
    return all(
        slot.before is last.token
        and slot.state is last.next
        and all(a is b for a, b in zip(slot.shared, last.shared, strict=True))
        and slot.joint.op_type == last.joint.op_type
        and slot.output.op_type == last.output.op_type
        for last, slot in pairwise(slots)
    )


def _is_closed(inner: Iterable[ir.Node], end: ir.Node) -> bool:
    """Whether only these nodes and `end` read what these nodes make, all in one graph."""
    known = {id(node) for node in (*inner, end)}
    return all(
        node.graph is end.graph
        and not value.is_graph_output()
        and all(id(reader) in known for reader, _ in value.uses())
        for node in inner
        for value in node.outputs
    )
