"""Products of one input are stacked, others are left alone, and the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.passes.stack_products import stack_products
from hand_graphs import FLOAT, constant, make_model, node, op_types, run

TOLERANCE = 1e-6
RNG = np.random.default_rng(0)


def test_products_of_one_input_are_stacked() -> None:
    x, y = (ir.val(name, FLOAT, [1, "T", 4]) for name in "xy")
    weights = [constant(f"w{width}", RNG.standard_normal((4, width))) for width in (6, 2, 3)]
    nodes = [
        node("MatMul", [x, weight], (f"out.{weight.name}", [1, "T", int(str(weight.name)[1:])])) for weight in weights
    ]
    alone = node("MatMul", [y, constant("w5", RNG.standard_normal((4, 5)))], ("alone", [1, "T", 5]))
    model = make_model([x, y], [*nodes, alone], [*(each.outputs[0] for each in nodes), alone.outputs[0]])
    feeds = {name: RNG.standard_normal((1, 3, 4), np.float32) for name in "xy"}
    before = run(model, feeds)
    assert stack_products(model) == 1
    assert op_types(model) == ["MatMul", "MatMul", "Split"]
    after = run(model, feeds)
    assert list(after) == list(before)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=TOLERANCE)


def test_weights_of_two_stacks_stand_in_both() -> None:
    x, y = (ir.val(name, FLOAT, [1, "T", 4]) for name in "xy")
    k, v = (constant(name, RNG.standard_normal((4, 3))) for name in "kv")
    nodes = [
        node("MatMul", [source, weight], (f"{source.name}{weight.name}", [1, "T", 3]))
        for source in (x, y)
        for weight in (k, v)
    ]
    model = make_model([x, y], nodes, [each.outputs[0] for each in nodes])
    feeds = {name: RNG.standard_normal((1, 2, 4), np.float32) for name in "xy"}
    before = run(model, feeds)
    assert stack_products(model) == 2
    after = run(model, feeds)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=TOLERANCE)
