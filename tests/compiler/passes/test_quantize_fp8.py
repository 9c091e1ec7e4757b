"""FP8 products: standard Q/DQ in E4M3, its numbers in ONNX's reference, refusals."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import remove_unused
from forerun_compiler.number_formats import float8
from forerun_compiler.passes.quantize_fp8 import quantize_fp8
from hand_graphs import op_types
from linear_graphs import (
    close,
    expected,
    product_in_a_branch,
    random_inputs,
    random_weight,
    shared_scales,
    two_products,
)

SCHEME = "fp8"
X_MAX = 2.0
SCALE = np.float32(X_MAX) / np.float32(448)
TOLERANCE = 1e-6


def test_both_sides_are_rounded() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, SCHEME, X_MAX)
    assert quantize_fp8(model) == 2
    remove_unused(model)
    onnx.checker.check_model(ir.to_proto(model))
    assert op_types(model) == ["DequantizeLinear"] * 4 + ["MatMul"] * 2 + ["QuantizeLinear"] * 2
    assert [name for name in model.graph.initializers if name.startswith("w")] == ["w.fp8"]
    assert model.graph.initializers["w.fp8"].dtype == ir.DataType.FLOAT8E4M3FN
    assert shared_scales(model) == []
    decoded = float8.encode(weight).decode()
    assert max(np.abs(x).max() for x in feeds.values()) > X_MAX  # so that saturation is seen
    wanted = {name: expected(float8.round_to(x, SCALE), decoded) for name, x in zip("pq", feeds.values(), strict=True)}
    close(dialect.evaluate(model, feeds), wanted, TOLERANCE)


def test_products_in_branches() -> None:
    weight, x = random_weight(), np.abs(random_inputs()["b"])
    model = product_in_a_branch(weight, SCHEME, X_MAX)
    assert quantize_fp8(model) == 1
    remove_unused(model)
    wanted = expected(float8.round_to(x, SCALE), float8.encode(weight).decode())
    close(dialect.evaluate(model, {"x": x}), {"y": wanted}, TOLERANCE)
    assert not dialect.evaluate(model, {"x": -x})["y"].any()


def test_other_schemes_are_left_alone() -> None:
    model = two_products(random_weight(), "int8")
    assert quantize_fp8(model) == 0
    assert op_types(model) == ["Linear"] * 2


@pytest.mark.parametrize("x_max", [0.0, 1e-45])
def test_layers_that_were_not_calibrated_are_refused(x_max: float) -> None:
    with pytest.raises(PassError, match=r"layer target\.p: .* fp8 .* x_max is .*: it was not calibrated"):
        quantize_fp8(two_products(random_weight(), SCHEME, x_max))


@pytest.mark.parametrize("x_max", [math.inf, math.nan])
def test_ranges_that_are_not_finite_are_refused(x_max: float) -> None:
    model = two_products(random_weight(), SCHEME, 1.0)
    model.graph.node(0).attributes["x_max"] = ir.AttrFloat32("x_max", x_max)
    with pytest.raises(PassError, match=r"Linear 'target\.p': .* finite x_max"):
        quantize_fp8(model)


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = random_weight()
    weight[5, 7] = np.inf
    with pytest.raises(PassError, match=r"layer target\.p, target\.q \(fp8\): .* inf at \[5, 7\]"):
        quantize_fp8(two_products(weight, SCHEME, X_MAX))
