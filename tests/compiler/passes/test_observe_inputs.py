"""A graph gives back what its linear layers read: by hand, run by the dialect's own evaluator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.dialect import DOMAIN, Linear, evaluate
from forerun_compiler.errors import PassError
from forerun_compiler.graph import check_graph
from forerun_compiler.passes.observe_inputs import Tap, observe_inputs
from hand_graphs import FLOAT, constant, make_model, node, op_types

RNG = np.random.default_rng(1)
ONE, TWO, THREE = (RNG.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (3, 4), (5, 3)))


def linear(layer: str, x: ir.Value, weight: np.ndarray, *, rank: int = 3) -> ir.Node:
    shape = [1, "T", weight.shape[0]][-rank:]
    return node(
        "Linear", [x, constant(f"{layer}.weight", weight)], (layer, shape), domain=DOMAIN, **Linear(layer).attributes()
    )


def graph() -> ir.Model:
    """x -> (one, two); relu(one) -> three; a state that grows; an input that only an output needs."""
    x, state, unread = ir.val("x", FLOAT, [1, "T", 4]), ir.val("s", FLOAT, [1]), ir.val("u", FLOAT, [1])
    one, two = linear("one", x, ONE), linear("two", x, TWO)
    positive = node("Relu", [one.outputs[0]], ("positive", [1, "T", 3]))
    three = linear("three", positive.outputs[0], THREE)
    grown = node("Add", [state, constant("step", [1.0])], ("s.out", [1]))
    negated = node("Neg", [unread], ("negated", [1]))
    nodes = [one, two, positive, three, grown, negated]
    ends = [two.outputs[0], three.outputs[0], grown.outputs[0], negated.outputs[0]]
    return make_model([x, state, unread], nodes, ends)


def test_it_gives_back_inputs_and_states_and_nothing_else() -> None:
    model = graph()
    assert observe_inputs(model) == (Tap("observed.0", ("one", "two"), 4), Tap("observed.1", ("three",), 3))
    check_graph(model, "test")
    assert [value.name for value in model.graph.outputs] == ["observed.0", "observed.1", "s.out"]
    assert [value.name for value in model.graph.inputs] == ["x", "s"]
    assert op_types(model) == ["Add", "Linear", "Relu", "Reshape", "Reshape"]


def test_the_values_are_those_that_the_layers_read() -> None:
    model = graph()
    observe_inputs(model)
    x = RNG.standard_normal((1, 6, 4)).astype(np.float32)
    found = evaluate(model, {"x": x, "s": np.zeros(1, np.float32)})
    assert np.array_equal(found["observed.0"], x[0])
    np.testing.assert_allclose(found["observed.1"], np.maximum(x[0] @ ONE.T, 0.0), rtol=1e-5, atol=1e-6)
    assert found["s.out"].tolist() == [1.0]


def test_one_layer_that_reads_two_values_has_two_taps() -> None:
    x, y = ir.val("x", FLOAT, ["T", 4]), ir.val("y", FLOAT, ["S", 4])
    first = linear("keys", x, ONE, rank=2)
    attributes = Linear("keys").attributes()
    nodes = [first, node("Linear", [y, first.inputs[1]], ("again", ["S", 3]), domain=DOMAIN, **attributes)]
    model = make_model([x, y], nodes, [each.outputs[0] for each in nodes])
    assert observe_inputs(model) == (Tap("observed.0", ("keys",), 4), Tap("observed.1", ("keys",), 4))


def test_only_the_layers_that_are_asked_for() -> None:
    model = graph()
    assert observe_inputs(model, {"two"}) == (Tap("observed.0", ("two",), 4),)
    assert op_types(model) == ["Add", "Reshape"]


def test_a_layer_that_reads_chosen_rows_is_observed_at_all_of_them() -> None:
    x, which = ir.val("x", FLOAT, [1, "T", 4]), ir.val("which", ir.DataType.INT64, ["R"])
    chosen = node("Gather", [x, which], ("chosen", [1, "R", 4]), axis=1)
    head = linear("lm_head", chosen.outputs[0], ONE)
    model = make_model([x, which], [chosen, head], [head.outputs[0]])
    assert observe_inputs(model) == (Tap("observed.0", ("lm_head",), 4),)
    rows = RNG.standard_normal((1, 6, 4)).astype(np.float32)
    assert np.array_equal(evaluate(model, {"x": rows})["observed.0"], rows[0])


def test_an_embeddings_rows_are_observed_as_they_are_read() -> None:
    tokens = ir.val("tokens", ir.DataType.INT64, [1, "T"])
    looked_up = node("Gather", [constant("table", ONE), tokens], ("rows", [1, "T", 4]))
    first = linear("first", looked_up.outputs[0], TWO)
    model = make_model([tokens], [looked_up, first], [first.outputs[0]])
    observe_inputs(model)
    assert np.array_equal(evaluate(model, {"tokens": np.array([[2, 0]])})["observed.0"], ONE[[2, 0]])


def test_a_graph_without_linear_layers_is_refused() -> None:
    x = ir.val("x", FLOAT, [1])
    only = node("Neg", [x], ("y", [1]))
    with pytest.raises(PassError, match=r"'hand' has no linear layer outside of branches: nothing can be observed"):
        observe_inputs(make_model([x], [only], [only.outputs[0]]))
