"""Equal constants are stored once; unequal ones, of whatever likeness, are not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.share_weights import share_weights
from hand_graphs import FLOAT, constant, make_model, node, run


def sum_of(values: list[ir.Value]) -> ir.Model:
    x = ir.val("x", FLOAT, [2, 2])
    nodes = []
    for number, value in enumerate(values):
        before = nodes[-1].outputs[0] if nodes else x
        nodes.append(node("Add", [before, value], (f"sum.{number}", [2, 2])))
    return make_model([x], nodes, nodes[-1].outputs)


def test_equal_weights_are_stored_once() -> None:
    one = np.arange(4.0).reshape(2, 2)
    model = sum_of([constant("a", one), constant("b", one + 1), constant("c", one.copy()), constant("d", one)])
    before = run(model, {"x": np.ones((2, 2), np.float32)})
    assert share_weights(model) == 2
    assert list(model.graph.initializers) == ["a", "b"]
    np.testing.assert_array_equal(run(model, {"x": np.ones((2, 2), np.float32)})["sum.3"], before["sum.3"])


def test_the_same_bytes_in_another_shape_or_type_stay_apart() -> None:
    values = [constant("a", np.zeros((2, 2))), constant("b", np.zeros((1, 2))), constant("c", np.zeros(()))]
    model = sum_of([*values, constant("d", [[0.0, -0.0], [0.0, 0.0]])])
    assert share_weights(model) == 0
    assert len(model.graph.initializers) == 4


def test_branches_share_too() -> None:
    graph = ir.Graph([ir.val("x", FLOAT, [1])], [], nodes=[], opset_imports={"": 24}, name="main")
    x = graph.inputs[0]
    emit = Emitter(graph, "")
    hot = emit("Greater", x, emit.constant([0.0], np.float32))
    (out,) = emit.either(
        hot,
        lambda branch: [branch("Add", x, branch.constant([3.0], np.float32))],
        lambda branch: [branch("Sub", x, branch.constant([3.0], np.float32))],
    )
    out.name, out.type, out.shape = "out", ir.TensorType(FLOAT), ir.Shape([1])
    graph.outputs.append(out)
    model = ir.Model(graph, ir_version=10)
    assert share_weights(model) == 1
    assert [run(model, {"x": np.array([v], np.float32)})["out"][0] for v in (1.0, -1.0)] == [4.0, -4.0]
