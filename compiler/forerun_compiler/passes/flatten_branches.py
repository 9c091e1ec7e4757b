"""Every If becomes both of its branches and a Where for each result, so that an engine can be captured as one graph.

What a branch computes reaches the graph around it by such a Where only. Results that both branches concatenate from
pieces are joined piece by piece, and each branch reads on from what the joining chose: its own piece whenever the
branch counts. So two walks from token to token, which differ in how they choose the next one, become one walk that
makes both choices at every step; nodes that are equal then are kept once.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes import common

from forerun_compiler.errors import PassError
from forerun_compiler.graph import find_nodes, integer, producer, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


@dataclass(frozen=True)
class _Branch:
    """The results of a branch whose nodes now stand in the graph around it."""

    results: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]

    def pieces(self, index: int) -> tuple[ir.Node, list[ir.Value]] | None:
        """Return the Concat behind a result and its pieces, if the branch itself computes every one of them."""
        joint = producer(self.results[index], "Concat")
        if joint not in self.nodes:
            return None
        pieces = [value for value in joint.inputs if value is not None]
        return (joint, pieces) if all(piece.producer() in self.nodes for piece in pieces) else None


def flatten_branches(model: ir.Model) -> int:
    """Replace every If of the main graph; return how many there were.

    Raises:
        PassError: an If within a branch.
    """
    nodes = find_nodes(model.graph, "If")
    for number, node in enumerate(nodes):
        _flatten(model.graph, node, f"branch.{number}.")
    if nodes:
        # A branch's nodes read what a Where makes that stands behind all of them.
        model.graph.sort()
        common.CommonSubexpressionEliminationPass()(model)
    return len(nodes)


def _flatten(graph: ir.Graph, node: ir.Node, prefix: str) -> None:
    condition = operands(node, 1)[0]
    then, otherwise = (_move(graph, node, name) for name in ("then_branch", "else_branch"))
    emit = Emitter(graph, prefix, before=node)
    replace_node(node, [], [_join(emit, condition, then, otherwise, index) for index in range(len(node.outputs))])


def _move(graph: ir.Graph, node: ir.Node, name: str) -> _Branch:
    """Put a branch's nodes before the If."""
    branch = node.attributes[name].as_graph()
    if find_nodes(branch, "If"):
        raise PassError(f"node {node.name!r}: expected branches without another If, found one in {name}")
    results, nodes = list(branch.outputs), list(branch)
    branch.outputs.clear()
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    # A branch returns a value of the graph around it by an Identity.
    passed = [producer(value, "Identity") for value in results]
    inner = [value if same is None else operands(same, 1)[0] for value, same in zip(results, passed, strict=True)]
    return _Branch(tuple(inner), tuple(nodes))


def _join(emit: Emitter, condition: ir.Value, then: _Branch, otherwise: _Branch, index: int) -> ir.Value:
    """Append the choice between the two branches' result number `index`."""
    ours, theirs = then.pieces(index), otherwise.pieces(index)
    if ours is None or theirs is None or not _alike(*ours, *theirs):
        return emit("Where", condition, then.results[index], otherwise.results[index])
    for pair in zip(ours[1], theirs[1], strict=True):
        _choose(emit, condition, *pair)
    # Both Concats read the choices now.
    return then.results[index]


def _alike(ours: ir.Node, our_pieces: list[ir.Value], theirs: ir.Node, their_pieces: list[ir.Value]) -> bool:
    """Whether two Concats join as many pieces, of the same known shapes, along the same axis."""
    shapes = [[value.shape for value in pieces] for pieces in (our_pieces, their_pieces)]
    return integer(ours, "axis") == integer(theirs, "axis") and None not in shapes[0] and shapes[0] == shapes[1]


def _choose(emit: Emitter, condition: ir.Value, ours: ir.Value, theirs: ir.Value) -> None:
    """Append the choice between two pieces; whatever read one of them reads the choice."""
    users = [*ours.uses(), *theirs.uses()]
    chosen = emit("Where", condition, ours, theirs)
    chosen.type, chosen.shape = ours.type, ours.shape
    for use in users:
        use.node.replace_input_with(use.idx, chosen)
