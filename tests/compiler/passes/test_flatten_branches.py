"""Branches become a Where: both ways give the same results, and two walks become one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.graph import check_graph, find_nodes, remove_unused
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.flatten_branches import flatten_branches
from hand_graphs import FLOAT, op_types, run

STEPS = 3


def branchy(*, walk: bool, nested: bool = False) -> ir.Model:
    """y = x * 2 if the flag is positive, else x; or a walk of steps next = 3 * (last + 1) or its square."""
    x, flag = ir.val("x", FLOAT, [1, 4]), ir.val("flag", FLOAT, [1])
    graph = ir.Graph([x, flag], [], nodes=[], opset_imports={"": 24}, name="branchy")
    emit = Emitter(graph, "hand.")
    zero, one, two = (emit.constant([number], np.float32) for number in (0.0, 1.0, 2.0))
    positive = emit("Greater", flag, zero)

    def steps(branch: Emitter, op: str, other: ir.Value) -> list[ir.Value]:
        made, last = list[ir.Value](), x
        for _ in range(STEPS):
            shared = branch("Mul", branch("Add", last, one), two)
            last = branch(op, shared, other)
            last.type, last.shape = ir.TensorType(FLOAT), ir.Shape([1, 4])
            made.append(last)
        return [branch("Concat", *made, axis=1)]

    def then(branch: Emitter) -> list[ir.Value]:
        if nested:
            return list(branch.either(positive, lambda inner: [x], lambda inner: [x]))
        return steps(branch, "Mul", two) if walk else [branch("Mul", x, two)]

    (y,) = emit.either(positive, then, lambda branch: steps(branch, "Sub", one) if walk else [x])
    y.name, y.type, y.shape = "y", ir.TensorType(FLOAT), ir.Shape([1, 4 * STEPS if walk else 4])
    graph.outputs.append(y)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("walk", [False, True])
def test_both_ways_give_what_the_branches_gave(walk: bool) -> None:
    model, flat = branchy(walk=walk), branchy(walk=walk)
    assert flatten_branches(flat) == 1
    check_graph(flat, "flat")
    assert find_nodes(flat.graph, "If") == []
    x = np.random.default_rng(0).standard_normal((1, 4)).astype(np.float32)
    for flag in (-1.0, 0.0, 1.0):
        feeds = {"x": x, "flag": np.array([flag], np.float32)}
        np.testing.assert_array_equal(run(flat, feeds)["y"], run(model, feeds)["y"])


def test_a_value_from_around_the_branch_needs_no_detour() -> None:
    model = branchy(walk=False)
    flatten_branches(model)
    remove_unused(model)
    assert op_types(model) == ["Greater", "Mul", "Where"]


def test_two_walks_become_one() -> None:
    model = branchy(walk=True)
    flatten_branches(model)
    remove_unused(model)
    found = op_types(model)
    # One Add and one Mul a step are the same in both; the choice itself, Mul or Sub, is made both ways.
    assert [found.count(op) for op in ("Where", "Add", "Mul", "Sub", "Concat")] == [STEPS, STEPS, 2 * STEPS, STEPS, 1]


def test_a_branch_in_a_branch_is_refused() -> None:
    with pytest.raises(PassError, match=r"expected branches without another If, found one in then_branch"):
        flatten_branches(branchy(walk=False, nested=True))


def test_a_graph_without_branches_is_left_alone() -> None:
    model = branchy(walk=False)
    flatten_branches(model)
    before = [node.name for node in model.graph]
    assert flatten_branches(model) == 0
    assert [node.name for node in model.graph] == before
