"""INT8 products in both forms: ops, one copy of the codes, the numbers, and rows that do not see each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.graph import remove_unused
from forerun_compiler.number_formats import int8
from forerun_compiler.number_formats.linear_int8 import linear_int8
from forerun_compiler.number_formats.packing import MOST_INPUTS
from forerun_compiler.passes.quantize_int8 import SCHEME, Form, quantize_int8
from hand_graphs import FLOAT, constant, make_model, node, op_types, run
from linear_graphs import close, linear, product_in_a_branch, random_inputs, random_weight, two_products

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)
FORMS: tuple[Form, ...] = ("forerun", "stock")
ROUNDING = 1e-6
"""Of the stock form: two products of scales are rounded in another order."""


def reference(x: Array, weight: Array) -> Array:
    encoded = int8.encode(weight)
    return linear_int8(x, encoded.codes, encoded.scale[:, 0])


def test_the_own_operator_gives_the_references_bits() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, SCHEME)
    assert quantize_int8(model) == 2
    remove_unused(model)
    assert op_types(model) == ["LinearInt8"] * 2
    assert sorted(model.graph.initializers) == ["w.int8", "w.int8.scale"]
    found = run(model, feeds)
    np.testing.assert_array_equal(found["p"], reference(feeds["a"], weight))
    np.testing.assert_array_equal(found["q"], reference(feeds["b"], weight))


def test_the_stock_form_agrees_with_the_reference() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, SCHEME)
    assert quantize_int8(model, "stock") == 2
    remove_unused(model)
    assert op_types(model).count("MatMulIntegerToFloat") == 2
    assert {"w.int8", "w.int8.scale"} < set(model.graph.initializers)
    wanted = {"p": reference(feeds["a"], weight), "q": reference(feeds["b"], weight)}
    close(run(model, feeds), wanted, ROUNDING)


def test_the_stock_form_quantizes_an_input_once() -> None:
    x = ir.val("x", FLOAT, [1, "T", 64])
    first, second = random_weight(), random_weight(n=7)
    shared = constant("w", first)
    # The second layer's weight is met first by the one that reads another input.
    nodes = [linear(x, constant("v", second), "p", SCHEME), linear(x, shared, "q", SCHEME)]
    model = make_model([x], nodes, [each.outputs[0] for each in nodes])
    assert quantize_int8(model, "stock") == 2
    assert op_types(model).count("ReduceMax") == op_types(model).count("Round") == 1
    feeds = {"x": random_inputs()["a"]}
    close(run(model, feeds), {"p": reference(feeds["x"], second), "q": reference(feeds["x"], first)}, ROUNDING)


def test_the_input_is_quantized_before_its_first_reader_whatever_the_order_of_the_weights() -> None:
    x, y = (ir.val(name, FLOAT, [1, "T", 64]) for name in "xy")
    w, v = constant("w", random_weight()), constant("v", random_weight(n=7))
    # By weight: w (y, then x), v (x). In the graph: w(y), v(x), w(x).
    nodes = [linear(y, w, "p", SCHEME), linear(x, v, "q", SCHEME), linear(x, w, "r", SCHEME)]
    model = make_model([x, y], nodes, [each.outputs[0] for each in nodes])
    assert quantize_int8(model, "stock") == 3
    feeds = {"x": random_inputs()["a"], "y": random_inputs()["b"]}
    assert set(run(model, feeds)) == {"p", "q", "r"}


@pytest.mark.parametrize("form", FORMS)
def test_a_product_of_a_product(form: Form) -> None:
    x = ir.val("x", FLOAT, [1, "T", 64])
    inner, outer = random_weight(), random_weight(n=5, k=24)
    first = linear(x, constant("w", inner), "p", SCHEME)
    second = linear(first.outputs[0], constant("v", outer), "q", SCHEME)
    model = make_model([x], [first, second], second.outputs)
    assert quantize_int8(model, form) == 2
    feeds = {"x": random_inputs()["a"]}
    close(run(model, feeds), {"q": reference(reference(feeds["x"], inner), outer)}, ROUNDING)


@pytest.mark.parametrize("form", FORMS)
def test_products_in_branches(form: Form) -> None:
    weight = random_weight()
    model = product_in_a_branch(weight, SCHEME)
    assert quantize_int8(model, form) == 1
    x = np.abs(random_inputs()["a"])
    close(run(model, {"x": x}), {"y": reference(x, weight)}, ROUNDING)


@pytest.mark.parametrize("form", FORMS)
def test_a_rows_result_does_not_depend_on_the_others(form: Form) -> None:
    model, feeds = two_products(random_weight(), SCHEME), random_inputs()
    quantize_int8(model, form)
    before = run(model, feeds)["p"]
    feeds["a"][0, 1:] = 1000 * RNG.standard_normal(feeds["a"][0, 1:].shape)
    after = run(model, feeds)["p"]
    np.testing.assert_array_equal(after[0, 0], before[0, 0])
    assert not np.array_equal(after[0, 1], before[0, 1])


def test_other_schemes_are_left_alone() -> None:
    model = two_products(random_weight(), "fp8")
    assert quantize_int8(model) == 0
    assert op_types(model) == ["Linear", "Linear"]


def test_a_sum_that_could_overflow_is_refused() -> None:
    model = two_products(np.ones((2, MOST_INPUTS + 1), np.float32), SCHEME)
    with pytest.raises(PassError, match=r"target\.p, target\.q \(int8\): expected at most 131072 inputs"):
        quantize_int8(model)


def test_a_computed_weight_is_refused() -> None:
    w = ir.val("w", FLOAT, [24, 64])
    negated = node("Neg", [w], ("n", [24, 64]))
    x = ir.val("x", FLOAT, [1, "T", 64])
    product = node(
        "Linear", [x, negated.outputs[0]], ("p", [1, "T", 24]), domain="forerun", layer="l", scheme=SCHEME, x_max=0.0
    )
    model = make_model([x, w], [negated, product], product.outputs)
    with pytest.raises(PassError, match="layer l: expected a constant weight"):
        quantize_int8(model)
