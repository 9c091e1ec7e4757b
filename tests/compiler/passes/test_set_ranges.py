"""Ranges come to the linear layers whose scheme needs one, wherever they stand."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.activation_range import Calibration, LayerStatistics, count, x_max
from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.errors import CalibrationError
from forerun_compiler.passes.name_products import products
from forerun_compiler.passes.set_ranges import set_ranges
from hand_graphs import FLOAT, constant, make_model, node

X = np.random.default_rng(0).standard_normal((4000, 4)).astype(np.float32)
Y = 3.0 * X


def of(x: np.ndarray) -> LayerStatistics:
    return LayerStatistics(len(x), float(np.abs(x).max()), count(x), np.square(x, dtype=float).mean(axis=0))


CALIBRATION = Calibration({"a": of(X), "b": of(X), "d": of(Y)}, ("walk",), 4000)


def chain(**schemes: str) -> ir.Model:
    """A chain of layers of the given names and schemes, [T,4] to [T,4]; "walk" stands in a branch."""
    x, hot = ir.val("x", FLOAT, ["T", 4]), ir.val("hot", ir.DataType.BOOL, [1])
    value, nodes = x, []
    for name, scheme in schemes.items():
        weight = constant(f"{name}.weight", np.eye(4))
        made = node("Linear", [value, weight], (name, ["T", 4]), domain=DOMAIN, **Linear(name, scheme).attributes())
        nodes.append(made)
        value = made.outputs[0]
    if "walk" in schemes:
        walk = nodes.pop()
        before = walk.inputs[0]
        assert before is not None
        branch = ir.Graph([], walk.outputs, nodes=[walk], opset_imports={"": 24, DOMAIN: 1}, name="then")
        same = node("Identity", [before], ("same", ["T", 4]))
        other = ir.Graph([], same.outputs, nodes=[same], opset_imports={"": 24, DOMAIN: 1}, name="else")
        nodes.append(node("If", [hot], ("y", ["T", 4]), then_branch=branch, else_branch=other))
        value = nodes[-1].outputs[0]
        model = make_model([x, hot], nodes, [value])
        model.graph.register_initializer(walk.inputs[1])  # type: ignore[arg-type]
        return model
    return make_model([x], nodes, [value])


def ranges(model: ir.Model) -> dict[str, float]:
    return {linear.layer: linear.x_max for linear in map(Linear.from_node, products(model))}


@pytest.mark.parametrize("method", ["absmax", "percentile", "mse"])
def test_calibrated_schemes_get_their_range_and_no_others(method: str) -> None:
    model = chain(a="int8-static", b="int8", c="float32", d="nvfp4")
    assert set_ranges(model, CALIBRATION, method) == 2  # type: ignore[arg-type]
    found = ranges(model)
    assert (found["b"], found["c"]) == (0.0, 0.0)
    for layer, scheme in (("a", "int8-static"), ("d", "nvfp4")):
        expected = x_max(CALIBRATION.layers[layer], method, scheme)  # type: ignore[arg-type]
        assert found[layer] == pytest.approx(expected, rel=1e-6)  # the attribute is a float32
    assert found["d"] == pytest.approx(3.0 * found["a"], rel=0.1)


def test_nothing_to_set_is_no_error() -> None:
    assert set_ranges(chain(a="int8", c="float32"), CALIBRATION, "mse") == 0


def test_a_layer_in_a_branch_has_no_range() -> None:
    with pytest.raises(
        CalibrationError, match=r"layer walk: the scheme fp8 needs .* run token by token inside a branch; give"
    ):
        set_ranges(chain(a="fp8", walk="fp8"), CALIBRATION, "mse")


def test_a_calibration_of_another_graph_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"layer c: the scheme fp8 needs .* has 3 other layers: it was made of"):
        set_ranges(chain(c="fp8"), CALIBRATION, "mse")
