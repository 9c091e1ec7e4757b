"""Products of one input are stacked, others are left alone, and the numbers stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.passes.stack_products import stack_products
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types

TOLERANCE = 1e-6
RNG = np.random.default_rng(0)


def linear(x: ir.Value, weight: ir.Value, name: str, scheme: str = "float32", x_max: float = 0.0) -> ir.Node:
    assert weight.const_value is not None
    width, _ = weight.const_value.shape.numpy()  # type: ignore[attr-defined]
    attributes = dialect.Linear(f"target.{name}", scheme, x_max).attributes()
    return node("Linear", [x, weight], (name, [1, "T", width]), domain=dialect.DOMAIN, **attributes)


def random(name: str, width: int) -> ir.Value:
    return constant(name, RNG.standard_normal((width, 4)))


def test_products_of_one_input_are_stacked() -> None:
    x, y = (ir.val(name, FLOAT, [1, "T", 4]) for name in "xy")
    nodes = [linear(x, random(f"w{width}", width), f"out{width}", x_max=float(width)) for width in (6, 2, 3)]
    alone = linear(y, random("w5", 5), "alone")
    model = make_model([x, y], [*nodes, alone], [*(each.outputs[0] for each in nodes), alone.outputs[0]])
    feeds = {name: RNG.standard_normal((1, 3, 4), np.float32) for name in "xy"}
    before = dialect.evaluate(model, feeds)
    assert stack_products(model) == 1
    assert op_types(model) == ["Linear", "Linear", "Split"]
    stacked = next(dialect.Linear.from_node(each) for each in model.graph if each.op_type == "Linear")
    assert stacked == dialect.Linear("target.out6,target.out2,target.out3", "float32", 6.0)
    after = dialect.evaluate(model, feeds)
    assert list(after) == list(before)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=TOLERANCE)


def test_weights_of_two_stacks_stand_in_both() -> None:
    x, y = (ir.val(name, FLOAT, [1, "T", 4]) for name in "xy")
    weights = [random(name, 3) for name in "kv"]
    nodes = [linear(source, weight, f"{source.name}{weight.name}") for source in (x, y) for weight in weights]
    model = make_model([x, y], nodes, [each.outputs[0] for each in nodes])
    feeds = {name: RNG.standard_normal((1, 2, 4), np.float32) for name in "xy"}
    before = dialect.evaluate(model, feeds)
    assert stack_products(model) == 2
    after = dialect.evaluate(model, feeds)
    for name, array in before.items():
        np.testing.assert_allclose(after[name], array, rtol=0, atol=TOLERANCE)


def test_schemes_do_not_mix_and_embeddings_stay() -> None:
    x, ids = ir.val("x", FLOAT, [1, "T", 4]), ir.val("ids", INT, [1, "T"])
    tied = random("tied", 3)
    look = node("Gather", [tied, ids], ("rows", [1, "T", 4]))
    nodes = [linear(x, random("wa", 3), "a"), linear(x, random("wb", 3), "b", "int8"), linear(x, tied, "c")]
    model = make_model([x, ids], [look, *nodes], [look.outputs[0], *(each.outputs[0] for each in nodes)])
    assert stack_products(model) == 0
