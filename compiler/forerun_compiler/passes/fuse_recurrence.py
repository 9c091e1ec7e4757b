"""The step of a gated recurrence, ten small nodes behind a product, becomes one operator, GatedRecurrence.

Split z [..., 3E] into keep, candidate and output; next = sigmoid(keep) * state + (1 - sigmoid(keep)) * tanh(candidate)
and out = tanh(output). A drafter's walk takes one such step a slot, each on a few hundred numbers: there a node costs
what the library does around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.graph import constant_array, constant_scalar, integer, new_node, replace_node
from forerun_compiler.passes.emitter import operands
from forerun_compiler.passes.quantize_int8 import OPERATORS

RECURRENCE = "GatedRecurrence"


@dataclass(frozen=True)
class _Step:
    """What the operator replaces: `next` makes the next state, `out` the output, `between` all else but the Split."""

    state: ir.Value
    between: tuple[ir.Node, ...]
    next: ir.Node
    out: ir.Node


def fuse_recurrence(model: ir.Model) -> int:
    """Fuse every step whose state has the shape of its thirds and is made before them; return how many."""
    splits = [node for node in model.graph.all_nodes() if (node.op_type, node.domain) == ("Split", "")]
    count = sum(_fuse(split) for split in splits)
    if count:
        model.graph.opset_imports.setdefault(OPERATORS, 1)
    return count


def _fuse(split: ir.Node) -> bool:
    step = _find(split)
    if step is None or not _suits(step, split):
        return False
    (z, graph), state = (split.inputs[0], split.graph), step.state
    assert isinstance(graph, ir.Graph)
    names = [f"{node.outputs[0].name}.fused" for node in (step.next, step.out)]
    fused = new_node(RECURRENCE, [z, state], names, domain=OPERATORS)
    graph.insert_before(split, fused)
    for old, output in zip((step.next, step.out), fused.outputs, strict=True):
        replace_node(old, [], [output])
    graph.remove([split, *step.between], safe=True)
    return True


def _find(split: ir.Node) -> _Step | None:
    """Return the step that begins here, where nothing else reads any value between its ends."""
    if len(split.outputs) != 3:
        return None
    gates, candidates, outs = (
        _readers(part, op) for part, op in zip(split.outputs, ("Sigmoid", "Tanh", "Tanh"), strict=True)
    )
    if not (gates and candidates and outs) or not (parts := _readers(gates[0].outputs[0], "Mul", "Sub")):
        return None
    keep, (kept, rest) = gates[0].outputs[0], parts
    lost = _readers(rest.outputs[0], "Mul")
    if not lost or lost != _readers(candidates[0].outputs[0], "Mul") or not _is_complement(rest, keep):
        return None
    sums = _readers(kept.outputs[0], "Add")
    if not sums or sums != _readers(lost[0].outputs[0], "Add"):
        return None
    state = next(value for value in operands(kept, 2) if value is not keep)
    return _Step(state, (*gates, *candidates, kept, rest, *lost), sums[0], outs[0])


def _readers(value: ir.Value, *ops: str) -> tuple[ir.Node, ...]:
    """Return the readers of a value, one node of each of these ops; () where another reads it or a graph returns it."""
    found = {node.op_type: node for node, _ in value.uses() if not node.domain}
    if value.is_graph_output() or len(value.uses()) != len(ops) or set(found) != set(ops):
        return ()
    return tuple(found[op] for op in ops)


def _is_complement(sub: ir.Node, gate: ir.Value) -> bool:
    """Whether the node is 1 - gate."""
    one, taken = operands(sub, 2)
    array = constant_array(one)
    # A constant of more dimensions would give the difference more of them.
    fits = array is not None and gate.shape is not None and array.ndim <= len(gate.shape)
    return taken is gate and fits and constant_scalar(one) == 1


def _suits(step: _Step, split: ir.Node) -> bool:
    """Whether z [...,3E] is cut into equal thirds, the state [...,E] is float32 and known before that, in one graph."""
    z, state, nodes = split.inputs[0], step.state, (split, *step.between, step.next, step.out)
    if z is None or z.shape is None or state.shape is None or z.dtype != state.dtype or z.dtype != ir.DataType.FLOAT:
        return False
    *rows, width = z.shape
    if not isinstance(width, int) or width % 3 or integer(split, "axis") not in (-1, len(rows)):
        return False
    # Without sizes three outputs are three thirds.
    sizes = constant_array(split.inputs[1]) if len(split.inputs) > 1 else None
    even = len(split.inputs) == 1 or (sizes is not None and sizes.tolist() == [width // 3] * 3)
    known = all(isinstance(size, int) or size.value is not None for size in rows)
    same = known and list(state.shape) == [*rows, width // 3]
    return even and same and len({id(node.graph) for node in nodes}) == 1 and _is_made_before(state, split)


def _is_made_before(value: ir.Value, node: ir.Node) -> bool:
    """Whether the value is an input, a constant, of a graph around, or made by an earlier node of the node's graph."""
    maker = value.producer()
    if maker is None or maker.graph is not node.graph:
        return True
    assert node.graph is not None
    return next(each for each in node.graph if each in (maker, node)) is maker
