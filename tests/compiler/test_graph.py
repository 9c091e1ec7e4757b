"""The graph helpers: each does what its line says, and refuses what would leave a broken graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect, graph
from forerun_compiler.errors import PassError

FLOAT = ir.DataType.FLOAT


def small_model() -> ir.Model:
    """y = (x + w) * w, with an unused node."""
    x = ir.val("x", FLOAT, [2])
    g = ir.Graph([x], [], nodes=[], opset_imports={"": dialect.OPSET}, name="small")
    w = graph.add_initializer(g, "w", np.array([1, 2], np.float32))
    add = graph.new_node("Add", [x, w], [ir.val("sum", FLOAT, [2])])
    mul = graph.new_node("Mul", [add.outputs[0], w], [ir.val("y", FLOAT, [2])])
    g.extend([add, mul, graph.new_node("Neg", [x], ["unused"])])
    g.outputs.append(mul.outputs[0])
    return ir.Model(g, ir_version=11)


def run(model: ir.Model, x: list[float], **feeds: np.ndarray) -> dict[str, list[float]]:
    found = dialect.evaluate(model, {"x": np.array(x, np.float32), **feeds})
    return {name: array.tolist() for name, array in found.items()}


def test_find_and_producer() -> None:
    g = small_model().graph
    (mul,) = graph.find_nodes(g, "Mul")
    assert graph.producer(mul.inputs[0], "Add") is g.node(0)
    assert graph.producer(mul.inputs[0], "Sub") is None
    assert graph.producer(mul.inputs[1], "Add") is None
    assert graph.producer(None, "Add") is None
    assert graph.find_nodes(g, "Mul", "forerun") == []


def test_ends_by_name() -> None:
    g = small_model().graph
    assert graph.input_named(g, "x") is g.inputs[0]
    assert graph.output_named(g, "y") is g.outputs[0]
    with pytest.raises(PassError, match="the graph has no output 'z'; it has y"):
        graph.output_named(g, "z")


def test_initializers_get_fresh_names() -> None:
    g = small_model().graph
    names = [graph.add_initializer(g, "w", np.zeros(1, np.float32)).name for _ in range(2)]
    assert names == ["w.1", "w.2"]
    assert graph.fresh_name(g, "sum") == "sum.1"
    assert graph.fresh_name(g, "other") == "other"


def test_constants() -> None:
    g = small_model().graph
    assert graph.add_initializer(g, "zero", np.array(0, np.int64)).const_value.shape.numpy() == ()
    scalar = graph.add_initializer(g, "s", np.array([3], np.int64))
    assert graph.constant_scalar(scalar) == 3
    assert graph.constant_scalar(g.initializers["w"]) is None
    np.testing.assert_array_equal(graph.constant_array(g.initializers["w"]), [1, 2])
    assert graph.constant_array(g.inputs[0]) is None
    assert graph.constant_array(None) is None


def test_replaced_node_keeps_output_name_and_users() -> None:
    model = small_model()
    add, mul = model.graph.node(0), model.graph.node(1)
    for old, op in ((add, "Sub"), (mul, "Div")):
        new = graph.new_node(op, old.inputs, ["fresh"])
        graph.replace_node(old, [new], new.outputs)
    graph.check_graph(model, "test")
    assert run(model, [5.0, 8.0]) == {"y": [4.0, 3.0]}


def test_replacement_must_be_one_for_one() -> None:
    add = small_model().graph.node(0)
    with pytest.raises(PassError, match="expected 1 replacements within a graph, got 0"):
        graph.replace_node(add, [], [])


def test_rename_swaps_and_refuses() -> None:
    model = small_model()
    graph.rename_values(model.graph, {"x": "y", "y": "x"})
    assert [model.graph.inputs[0].name, model.graph.outputs[0].name] == ["y", "x"]
    graph.rename_values(model.graph, {"w": "weight"})
    assert "weight" in model.graph.initializers
    with pytest.raises(PassError, match="cannot rename nothing: the graph has no such value"):
        graph.rename_values(model.graph, {"nothing": "z"})
    with pytest.raises(PassError, match="cannot rename a value to 'sum': the graph has one of that name"):
        graph.rename_values(model.graph, {"x": "sum"})


def test_inline_twice_shares_nothing() -> None:
    part = small_model()
    x = ir.val("x", FLOAT, [2])
    g = ir.Graph([x], [], nodes=[], opset_imports={"": dialect.OPSET}, name="outer")
    first = graph.inline(g, part, {"x": x}, "a.")
    second = graph.inline(g, part, {"x": first["y"]}, "b.")
    g.outputs.append(second["y"])
    model = ir.Model(g, ir_version=11)
    graph.check_graph(model, "test")
    assert sorted(g.initializers) == ["a.w", "b.w"]
    assert run(model, [0.0, 1.0]) == {"b.y": [2.0, 16.0]}
    assert run(part, [0.0, 1.0]) == {"y": [1.0, 6.0]}, "the part itself must be left alone"


def test_inline_refuses_unbound_inputs_and_other_opsets() -> None:
    g = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="outer")
    with pytest.raises(PassError, match=r"inlining 'a\.': the inputs x are not bound one for one"):
        graph.inline(g, small_model(), {}, "a.")
    with pytest.raises(PassError, match=r"opset '' is version 24, not 23"):
        graph.inline(g, small_model(), {"x": ir.val("x", FLOAT, [2])}, "a.")


def test_remove_unused_and_sort() -> None:
    model = small_model()
    add = model.graph.node(0)
    model.graph.remove(add)
    model.graph.append(add)
    with pytest.raises(PassError, match="test: node 'y/Mul' reads 'sum' before anything makes it"):
        graph.check_graph(model, "test")
    graph.sort_topologically(model.graph)
    graph.remove_unused(model)
    graph.check_graph(model, "test")
    assert sorted(node.op_type for node in model.graph) == ["Add", "Mul"]


def broken(change) -> ir.Model:
    model = small_model()
    change(model.graph)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: setattr(g.node(0).outputs[0], "name", "x"), "s: more than one value is named x"),
        (lambda g: g.append(ir.node("CacheWrite", [], domain="forerun", name="n")), "'n' uses the domain 'forerun'"),
        (lambda g: g.outputs.append(ir.val("z", FLOAT, [1])), "s: nothing makes the output 'z'"),
        (lambda g: g.outputs.append(g.node(2).outputs[0]), "'unused' has no dtype or shape"),
        (lambda g: g.inputs.append(ir.val("idle", FLOAT, [1])), "s: nothing reads the input 'idle'"),
    ],
)
def test_check_names_what_is_wrong(change, message: str) -> None:
    with pytest.raises(PassError, match=message):
        graph.check_graph(broken(change), "s")
