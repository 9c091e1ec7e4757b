"""FP8 on ONNX Runtime's CPU provider: the numbers are the format's, bit for bit, before the product."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import float8
from forerun_compiler.passes.emulate_fp8 import emulate_fp8
from hand_graphs import FLOAT, constant, make_model, op_types, run
from linear_graphs import (
    close,
    dense,
    expected,
    linear,
    product_in_a_branch,
    random_inputs,
    random_weight,
    shared_scales,
    two_products,
)

X_MAX = 2.0
SCALE = np.float32(X_MAX) / np.float32(448)
TOLERANCE = 1e-6


def test_numbers_are_those_of_the_scheme() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, "fp8", X_MAX)
    assert emulate_fp8(model) == 2
    assert op_types(model) == ["DequantizeLinear"] * 2 + ["Linear"] * 2 + ["QuantizeLinear"] * 2
    assert [node.attributes["layer"].value for node in model.graph if node.op_type == "Linear"] == [
        "target.p",
        "target.q",
    ]
    assert shared_scales(model) == []
    decoded = float8.encode(weight).decode()
    np.testing.assert_array_equal(model.graph.initializers["w.fp8.decoded"].const_value.numpy(), decoded)
    wanted = {name: expected(float8.round_to(x, SCALE), decoded) for name, x in zip("pq", feeds.values(), strict=True)}
    close(run(dense(model), feeds), wanted, TOLERANCE)


def test_every_code_and_tie_is_rounded_as_the_format_says() -> None:
    table = np.arange(127, dtype=np.uint8).view(float8.saturating_cast(np.zeros(1)).dtype).astype(np.float32)
    middle = (table[1:] + table[:-1]) / 2
    rows = [table, middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(999)), [449, 464, 1e9]]
    numbers = np.concatenate([sign * np.asarray(row, np.float32) for row in rows for sign in (1, -1)])
    x = ir.val("x", FLOAT, [1, "T", 1])
    # A weight of 1 hands the rounded activations out as they are.
    product = linear(x, constant("one", np.ones((1, 1))), "y", "fp8", 448.0)
    model = make_model([x], [product], product.outputs)
    assert emulate_fp8(model) == 1
    found = run(dense(model), {"x": numbers[None, :, None]})["y"].reshape(-1)
    np.testing.assert_array_equal(found, float8.round_to(numbers, np.float32(1)))


def test_products_in_branches() -> None:
    weight, x = random_weight(), np.abs(random_inputs()["b"])
    model = product_in_a_branch(weight, "fp8", X_MAX)
    assert emulate_fp8(model) == 1
    wanted = expected(float8.round_to(x, SCALE), float8.encode(weight).decode())
    close(run(dense(model), {"x": x}), {"y": wanted}, TOLERANCE)


def test_other_schemes_are_left_alone() -> None:
    assert emulate_fp8(two_products(random_weight(), "nvfp4", X_MAX)) == 0


def test_layers_that_were_not_calibrated_are_refused() -> None:
    with pytest.raises(PassError, match=r"layer target\.p: .* fp8 .* x_max is 0: it was not calibrated"):
        emulate_fp8(two_products(random_weight(), "fp8"))
