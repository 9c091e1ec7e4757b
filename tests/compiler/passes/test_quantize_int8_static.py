"""INT8 with static activations: standard Q/DQ, its numbers in ONNX Runtime and in ONNX's reference, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import remove_unused
from forerun_compiler.number_formats import int8
from forerun_compiler.passes.quantize_int8_static import quantize_int8_static
from hand_graphs import op_types, run
from linear_graphs import (
    close,
    expected,
    product_in_a_branch,
    random_inputs,
    random_weight,
    shared_scales,
    two_products,
)

SCHEME = "int8-static"
X_MAX = 2.0
TOLERANCE = 1e-6


def rounded(x: np.ndarray) -> np.ndarray:
    """What QuantizeLinear to int8 keeps of x; below -x_max its range has one code more than ours."""
    scale = np.float32(X_MAX) / np.float32(127)
    return np.clip(np.rint(x / scale), -128, 127).astype(np.float32) * scale


def test_both_sides_are_rounded() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, SCHEME, X_MAX)
    assert quantize_int8_static(model) == 2
    remove_unused(model)
    assert op_types(model) == ["DequantizeLinear"] * 4 + ["MatMul"] * 2 + ["QuantizeLinear"] * 2
    assert [name for name in model.graph.initializers if name.startswith("w")] == [f"w.{SCHEME}"]
    assert shared_scales(model) == []
    decoded = int8.encode(weight).decode()
    wanted = {"p": expected(rounded(feeds["a"]), decoded), "q": expected(rounded(feeds["b"]), decoded)}
    close(run(model, feeds), wanted, TOLERANCE)
    close(dialect.evaluate(model, feeds), wanted, TOLERANCE)


def test_products_in_branches() -> None:
    weight, x = random_weight(), np.abs(random_inputs()["b"])
    model = product_in_a_branch(weight, SCHEME, X_MAX)
    assert quantize_int8_static(model) == 1
    remove_unused(model)
    close(run(model, {"x": x}), {"y": expected(rounded(x), int8.encode(weight).decode())}, TOLERANCE)
    assert not run(model, {"x": -x})["y"].any()


def test_other_schemes_are_left_alone() -> None:
    model = two_products(random_weight(), "int8")
    assert quantize_int8_static(model) == 0
    assert op_types(model) == ["Linear"] * 2


def test_layers_that_were_not_calibrated_are_refused() -> None:
    with pytest.raises(PassError, match=r"layer target\.p: .* int8-static .* x_max is 0: it was not calibrated"):
        quantize_int8_static(two_products(random_weight(), SCHEME))


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = random_weight()
    weight[5, 7] = np.inf
    with pytest.raises(PassError, match=r"layer target\.p, target\.q \(int8-static\): .* inf at \[5, 7\]"):
        quantize_int8_static(two_products(weight, SCHEME, X_MAX))
