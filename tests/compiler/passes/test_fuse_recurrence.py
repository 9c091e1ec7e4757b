"""A step of a gated recurrence becomes one operator; what another reads in between, or has other shapes, stays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.dialect import OPSET
from forerun_compiler.graph import check_graph, remove_unused
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.fuse_recurrence import fuse_recurrence
from forerun_compiler.passes.quantize_int8 import OPERATORS
from hand_graphs import FLOAT, INT, Array, constant, make_model, node, op_types, run
from tiny_pairs import pair

E, T = 20, "T"
"""No multiple of a vector; any number of rows."""
TOLERANCE = 1e-6
"""Absolute, of numbers of at most 1: one sigmoid and tangent against others."""
RNG = np.random.default_rng(0)


def thirds(name: str = "z", width: int | str = 3 * E) -> ir.Value:
    return ir.val(name, FLOAT, [1, T, width])


def states(name: str = "state") -> ir.Value:
    return ir.val(name, FLOAT, [1, T, E])


def step(
    z: ir.Value,
    state: ir.Value,
    name: str = "",
    *,
    turned: bool = False,
    one: float = 1.0,
    sizes: Sequence[int] | ir.Value | None = None,
    axis: int = -1,
) -> list[ir.Node]:
    """The nodes that a trace writes; the last two make the next state and the output."""
    shape = [1, T, E]
    parts = [(f"{name}part{i}", shape) for i in range(3)]
    if sizes is None:
        split = node("Split", [z], *parts, axis=axis, num_outputs=3)
    else:
        given = sizes if isinstance(sizes, ir.Value) else constant(f"{name}sizes", sizes, np.int64)
        split = node("Split", [z, given], *parts, axis=axis)
    keep = node("Sigmoid", split.outputs[:1], (f"{name}keep", shape))

    def of(op: str, out: str, a: ir.Value, b: ir.Value) -> ir.Node:
        return node(op, [b, a] if turned else [a, b], (f"{name}{out}", shape))

    kept = of("Mul", "kept", keep.outputs[0], state)
    rest = node("Sub", [constant(f"{name}one", one), keep.outputs[0]], (f"{name}rest", shape))
    candidate = node("Tanh", split.outputs[1:2], (f"{name}candidate", shape))
    lost = of("Mul", "lost", rest.outputs[0], candidate.outputs[0])
    following = of("Add", "next", kept.outputs[0], lost.outputs[0])
    return [split, keep, kept, rest, candidate, lost, following, node("Tanh", split.outputs[2:], (f"{name}out", shape))]


def ends(nodes: Sequence[ir.Node]) -> list[ir.Value]:
    return [nodes[-2].outputs[0], nodes[-1].outputs[0]]


def apply(model: ir.Model) -> int:
    count = fuse_recurrence(model)
    remove_unused(model)
    check_graph(model, "fusion")
    return count


def check_left(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
    model = make_model(inputs, nodes, outputs)
    before = op_types(model)
    assert apply(model) == 0
    assert op_types(model) == before


def reference(z: Array, state: Array) -> tuple[Array, Array]:
    keep, candidate, out = np.split(z.astype(np.float64), 3, -1)
    keep = 1 / (1 + np.exp(-keep))
    return keep * state + (1 - keep) * np.tanh(candidate), np.tanh(out)


def numbers(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("sizes", "axis"), [(None, -1), ([E] * 3, 2)])
def test_a_step(turned: bool, sizes: list[int] | None, axis: int) -> None:
    z, state = thirds(), states()
    nodes = step(z, state, turned=turned, sizes=sizes, axis=axis)
    model = make_model([z, state], nodes, ends(nodes))
    feeds = {"z": 3 * numbers(1, 5, 3 * E), "state": numbers(1, 5, E)}
    assert apply(model) == 1
    assert op_types(model) == ["GatedRecurrence"]
    found = run(model, feeds)
    for name, expected in zip(("next", "out"), reference(feeds["z"], feeds["state"]), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE)


def test_the_state_of_an_earlier_step() -> None:
    """An earlier operator's state, from zeros; the readers of both ends read the operator then."""
    first, z, zeros = thirds("first"), thirds(), constant("zeros", np.zeros((1, 1, E)))
    for value in (first, z):
        value.shape = ir.Shape([1, 1, 3 * E])
    shape = [1, 1, E]
    before = node("GatedRecurrence", [first, zeros], ("a.next", shape), ("a.out", shape), domain=OPERATORS)
    nodes = step(z, before.outputs[0])
    for each in nodes:
        for value in each.outputs:
            value.shape = ir.Shape(shape)
    negated = [node("Neg", [value], (f"{value.name}.negated", shape)) for value in ends(nodes)]
    constants = [zeros, *(value for value in nodes[3].inputs[:1] if value is not None)]
    graph = ir.Graph(
        [first, z],
        [each.outputs[0] for each in negated],
        nodes=[before, *nodes, *negated],
        initializers=constants,
        opset_imports={"": OPSET, OPERATORS: 1},
        name="hand",
    )
    model = ir.Model(graph, ir_version=10)
    feeds = {"first": numbers(1, 1, 3 * E), "z": numbers(1, 1, 3 * E)}
    assert apply(model) == 1
    assert op_types(model) == ["GatedRecurrence", "GatedRecurrence", "Neg", "Neg"]
    found = run(model, feeds)
    expected = reference(feeds["z"], reference(feeds["first"], np.zeros(E))[0])
    for name, array in zip(("next", "out"), expected, strict=True):
        np.testing.assert_allclose(found[f"{name}.negated"], -array, rtol=0, atol=TOLERANCE)


def test_in_a_branch() -> None:
    z, state = thirds(), states()
    graph = ir.Graph([z, state], [], nodes=[], opset_imports={"": OPSET}, name="hand")
    emit = Emitter(graph, "")

    def taken(inside: Emitter) -> list[ir.Value]:
        nodes = step(z, state)
        nodes[3].replace_input_with(0, inside.constant(1.0, np.float32))
        for each in nodes:
            inside.add(each)
        return ends(nodes)

    positive = emit("Greater", emit("ReduceSum", z, keepdims=0), emit.constant(0.0, np.float32))
    for name, value in zip("ab", emit.either(positive, taken, lambda _: [state, state]), strict=True):
        value.name, value.type, value.shape = name, ir.TensorType(FLOAT), ir.Shape([1, T, E])
        graph.outputs.append(value)
    model = ir.Model(graph, ir_version=10)
    feeds = {"z": numbers(1, 5, 3 * E) + 1, "state": numbers(1, 5, E)}
    assert apply(model) == 1
    assert [each.op_type for each in model.graph.all_nodes() if each.domain] == ["GatedRecurrence"]
    found = run(model, feeds)
    for name, expected in zip("ab", reference(feeds["z"], feeds["state"]), strict=True):
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE)
    found = run(model, feeds | {"z": -feeds["z"]})
    np.testing.assert_array_equal(found["a"], feeds["state"])


BETWEEN = ["part0", "part1", "part2", "keep", "kept", "rest", "candidate", "lost"]


@pytest.mark.parametrize("reader", ["another op", "the graph's caller"])
@pytest.mark.parametrize("name", BETWEEN)
def test_what_something_else_reads_stays(name: str, reader: str) -> None:
    z, state = thirds(), states()
    nodes = step(z, state)
    (value,) = (value for each in nodes for value in each.outputs if value.name == name)
    outputs = ends(nodes)
    if reader == "another op":
        nodes.append(node("Neg", [value], ("negated", [1, T, E])))
        value = nodes[-1].outputs[0]
    check_left([z, state], nodes, [*outputs, value])


@pytest.mark.parametrize("shape", [[1, 1, E], [1, "S", E], [1, T, 1], [T, E], [1, None, E], None])
def test_a_state_of_another_or_no_known_shape_stays(shape: list[int | str | None] | None) -> None:
    z, state = thirds(), ir.val("other", FLOAT, [2])
    made = node("Mystery", [state], ("made", []), domain="forerun")
    made.outputs[0].shape = None if shape is None else ir.Shape(shape)
    nodes = step(z, made.outputs[0])
    check_left([z, state], [made, *nodes], ends(nodes))


def test_unknown_rows_are_no_shape() -> None:
    z, state = ir.val("z", FLOAT, [1, None, 3 * E]), ir.val("state", FLOAT, [1, None, E])
    nodes = step(z, state)
    check_left([z, state], nodes, ends(nodes))


def test_a_state_that_is_made_later_stays() -> None:
    """The operator would stand before what it reads."""
    z, state = thirds(), states()
    split, *rest = step(z, state)
    late = node("Neg", [state], ("late", [1, T, E]))
    rest[1].replace_input_with(0, late.outputs[0])
    check_left([z, state], [split, late, *rest], ends(rest))


@pytest.mark.parametrize("kind", ["two parts", "uneven", "computed", "of rows", "width", "unknown width", "float64"])
def test_other_cuts_stay(kind: str) -> None:
    z, state, computed = thirds(), states(), ir.val("computed", INT, [3])
    inputs, nodes = [z, state], step(z, state, sizes=[E] * 3)
    if kind == "two parts":
        split = node("Split", [z], ("a", [1, T, E]), ("b", [1, T, E]), axis=-1, num_outputs=2)
        nodes[0].outputs[0].replace_all_uses_with(split.outputs[0])
        nodes[0].outputs[1].replace_all_uses_with(split.outputs[1])
        nodes[0].outputs[2].replace_all_uses_with(split.outputs[1])
        nodes[0] = split
    elif kind == "uneven":
        nodes = step(z, state, sizes=[E, E - 1, E + 1])
    elif kind == "computed":
        inputs, nodes = [*inputs, computed], step(z, state, sizes=computed)
    elif kind == "of rows":
        nodes = step(z, state, axis=1)
    elif kind == "float64":
        for value in (z, state):
            value.dtype = ir.DataType.DOUBLE
    else:
        z.shape = ir.Shape([1, T, 3 * E - 1 if kind == "width" else "W"])
        nodes = step(z, state)
    check_left(inputs, nodes, ends(nodes))


@pytest.mark.parametrize(
    "kind", ["another constant", "a constant of more dimensions", "turned difference", "another function", "no mixture"]
)
def test_other_formulas_stay(kind: str) -> None:
    z, state = thirds(), states()
    nodes = step(z, state, one=2.0 if kind == "another constant" else 1.0)
    _, keep, kept, rest, candidate, lost, following, _ = nodes
    if kind == "a constant of more dimensions":
        rest.replace_input_with(0, constant("ones", np.ones((1, 1, 1, 1))))
    elif kind == "turned difference":
        one = rest.inputs[0]
        rest.replace_input_with(0, keep.outputs[0])
        rest.replace_input_with(1, one)
    elif kind == "another function":
        nodes[4] = node("Sigmoid", candidate.inputs, ("sigmoid", [1, T, E]))
        lost.replace_input_with(1, nodes[4].outputs[0])
    elif kind == "no mixture":
        following.replace_input_with(1, kept.outputs[0])
        nodes.append(node("Neg", lost.outputs, ("negated", [1, T, E])))
    outputs = [nodes[6].outputs[0], nodes[7].outputs[0], *(value for each in nodes[8:] for value in each.outputs)]
    check_left([z, state], nodes, outputs)


def test_the_last_step_of_a_walk_stays() -> None:
    """Nobody asks for its state, so that only the output's tangent is left of it."""
    z = thirds()
    split, *_, out = step(z, states())
    check_left([z], [split, out], out.outputs)


@pytest.mark.parametrize("walk", ["greedy", "sampled"])
def test_the_walks_of_a_recurrent_drafter(walk: str) -> None:
    """As they are traced: every step but the last."""
    parts = pair(agree=False, head="rnn").parts
    model = (parts.drafter.greedy if walk == "greedy" else parts.drafter.sampled).clone()
    assert apply(model) == parts.draft_len - 1
    assert op_types(model).count("Tanh") == 1
    assert "Sigmoid" not in op_types(model)
