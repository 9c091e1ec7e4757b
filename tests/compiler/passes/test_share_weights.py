"""Equal constants are stored once; unequal ones, of whatever likeness, are not."""

from __future__ import annotations

import ml_dtypes
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


def test_scales_and_zero_points_stay_apart() -> None:
    x = ir.val("x", FLOAT, [2, 2])
    scale, zero = np.array(0.5, np.float32), np.array(0, np.int8)
    constants = {
        name: constant(name, array, array.dtype)
        for name, array in {"s": scale, "s2": scale, "z": zero, "z2": zero, "half": scale}.items()
    }
    codes = [constant(name, np.ones((2, 2)), np.int8) for name in ("w", "w2")]
    first = node("DequantizeLinear", [codes[0], constants["s"], constants["z"]], ("first", [2, 2]))
    second = node("DequantizeLinear", [codes[1], constants["s2"], constants["z2"]], ("second", [2, 2]))
    sums = node("Add", [first.outputs[0], second.outputs[0]], ("sums", [2, 2]))
    scaled = node("Mul", [sums.outputs[0], constants["half"]], ("scaled", [2, 2]))
    out = node("Add", [x, scaled.outputs[0]], ("out", [2, 2]))
    model = make_model([x], [first, second, sums, scaled, out], out.outputs)
    assert share_weights(model) == 1  # the codes
    assert sorted(model.graph.initializers) == ["half", "s", "s2", "w", "z", "z2"]
    assert run(model, {"x": np.zeros((2, 2), np.float32)})["out"].tolist() == [[0.5, 0.5]] * 2


def test_four_bit_codes_are_shared() -> None:
    x = ir.val("x", FLOAT, [2, 2])
    packed = [constant(name, [[1, 2], [3, -4]], ml_dtypes.int4) for name in ("a", "b")]
    other = constant("c", [[1, 2], [3, 4]], ml_dtypes.int4)
    scales = [constant(f"{value.name}.scale", [1.0, 1.0]) for value in (*packed, other)]
    nodes, total = [], x
    for value, scale in zip((*packed, other), scales, strict=True):
        dense = node("DequantizeLinear", [value, scale], (f"{value.name}.dense", [2, 2]), axis=0)
        nodes += [dense, node("Add", [total, dense.outputs[0]], (f"{value.name}.sum", [2, 2]))]
        total = nodes[-1].outputs[0]
    model = make_model([x], nodes, [total])
    assert share_weights(model) == 1
    assert run(model, {"x": np.zeros((2, 2), np.float32)})["c.sum"].tolist() == [[3.0, 6.0], [9.0, -4.0]]


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
