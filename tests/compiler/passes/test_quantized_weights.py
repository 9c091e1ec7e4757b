"""What the quantizing passes share, seen through one of them: chains, schemes side by side, refusals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import float8, int4
from forerun_compiler.passes.quantize_fp8 import quantize_fp8
from forerun_compiler.passes.quantize_int4 import quantize_int4
from forerun_compiler.passes.quantized_weights import weights_of
from hand_graphs import FLOAT, constant, make_model, node, op_types
from linear_graphs import close, expected, linear, random_inputs, random_weight

TOLERANCE = 1e-6


def test_a_product_of_a_product_of_the_same_scheme() -> None:
    first, second, x = random_weight(96, 64), random_weight(24, 96), random_inputs()["b"]
    a = ir.val("a", FLOAT, [1, "T", 64])
    inner = linear(a, constant("w1", first), "inner", "int4-group32")
    outer = linear(inner.outputs[0], constant("w2", second), "outer", "int4-group32")
    model = make_model([a], [inner, outer], outer.outputs)
    assert quantize_int4(model, "standard") == 2
    between = expected(x, int4.encode(first, 32).decode())
    wanted = expected(between, int4.encode(second, 32).decode())
    close(dialect.evaluate(model, {"a": x}), {"outer": wanted}, TOLERANCE)


def test_one_weight_in_two_schemes_is_stored_for_each() -> None:
    weight, feeds = random_weight(), random_inputs()
    a, b = (ir.val(name, FLOAT, [1, "T", 64]) for name in "ab")
    w = constant("w", weight)
    nodes = [linear(a, w, "p", "int4-group32"), linear(b, w, "q", "fp8", 448.0)]
    model = make_model([a, b], nodes, [each.outputs[0] for each in nodes])
    assert quantize_int4(model, "standard") == 1
    assert op_types(model) == ["DequantizeLinear", "Linear", "MatMul"]
    assert quantize_fp8(model) == 1
    assert {"w.int4-group32", "w.fp8"} <= set(model.graph.initializers)
    found = dialect.evaluate(model, feeds)
    close(found, {"p": expected(feeds["a"], int4.encode(weight, 32).decode())}, TOLERANCE)
    rounded = float8.round_to(feeds["b"], np.float32(1))
    close(found, {"q": expected(rounded, float8.encode(weight).decode())}, TOLERANCE)


def test_layers_after_stacking_are_all_named() -> None:
    weight = random_weight()
    weight[0, 0] = float("nan")
    x = ir.val("x", FLOAT, [1, "T", 64])
    stacked = linear(x, constant("w", weight), "qkv", "int4-group32")
    stacked.attributes["layer"] = ir.AttrString("layer", "target.0.q_proj,target.0.k_proj")
    model = make_model([x], [stacked], stacked.outputs)
    with pytest.raises(PassError, match=r"layer target\.0\.q_proj,target\.0\.k_proj \(int4-group32\): .*not finite"):
        quantize_int4(model, "onnxruntime")


def test_a_computed_weight_is_refused() -> None:
    x, raw = ir.val("x", FLOAT, [1, "T", 64]), ir.val("raw", FLOAT, [24, 64])
    weight = node("Neg", [raw], ("weight", [24, 64]))
    attributes = Linear("target.q_proj", "fp8", 1.0).attributes()
    product = node("Linear", [x, weight.outputs[0]], ("y", [1, "T", 24]), domain=DOMAIN, **attributes)
    model = make_model([x, raw], [weight, product], product.outputs)
    with pytest.raises(
        PassError, match=r"layer target\.q_proj: expected a constant weight, found the computed 'weight"
    ):
        weights_of(model, "fp8")
