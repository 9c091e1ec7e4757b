"""Half precision where it pays, float32 between, weights that do not fit refused by name."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.errors import PassError
from forerun_compiler.graph import remove_unused
from forerun_compiler.passes.compute_dtype import compute_dtype
from forerun_compiler.passes.lower_linear import lower_linear
from forerun_compiler.passes.quantize_int4 import quantize_int4
from forerun_compiler.passes.quantize_nvfp4 import quantize_nvfp4
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, run
from linear_graphs import RNG, Array, close, random_inputs, random_weight, two_products

TOLERANCE = {"float16": 2e-3, "bfloat16": 1.5e-2}
"""Of the largest output: three roundings to 11 or 8 bits, sums in float32."""


def attention(weight: Array, layer: str = "target.q_proj") -> ir.Model:
    """tokens [1,2] -> a table's rows -> a product -> rows of a cache, attended over by the product itself."""
    tokens, position = ir.val("tokens", INT, [1, 2]), ir.val("position", INT, [1])
    cache, mask = ir.val("c", FLOAT, [1, 1, 8, 32]), constant("mask", np.ones((1, 1, 1, 8)), np.bool_)
    table, shape = (
        constant("table", np.random.default_rng(1).standard_normal((10, 64))),
        constant("s", [1, 2, 1, 32], np.int64),
    )
    linear = Linear(layer).attributes()
    nodes = [node("Gather", [table, tokens], ("x", [1, 2, 64]))]
    nodes.append(
        node("Linear", [nodes[0].outputs[0], constant("w", weight)], ("q", [1, 2, 32]), domain=DOMAIN, **linear)
    )
    nodes.append(node("Reshape", [nodes[1].outputs[0], shape], ("heads", [1, 2, 1, 32])))
    rows = node("Reshape", [nodes[1].outputs[0], constant("r", [1, 1, 2, 32], np.int64)], ("rows", [1, 1, 2, 32]))
    written = node("TensorScatter", [cache, rows.outputs[0], position], ("c.out", [1, 1, 8, 32]), axis=2)
    out = node(
        "Attention", [nodes[2].outputs[0], *written.outputs, *written.outputs, mask], ("y", [1, 2, 1, 32]), scale=0.2
    )
    return make_model([tokens, position, cache], [*nodes, rows, written, out], [out.outputs[0], written.outputs[0]])


def finished(model: ir.Model) -> ir.Model:
    lower_linear(model)
    model.graph.opset_imports.pop(DOMAIN, None)
    return model


def test_tables_products_caches_and_attention_are_half_and_the_rest_is_float32() -> None:
    weight = random_weight(32, 64)
    model, feeds = attention(weight), {"tokens": np.array([[3, 5]]), "position": np.array([0])}
    states = {"c": np.zeros((1, 1, 8, 32), np.float32)}
    wanted = run(finished(attention(weight)), feeds | states)
    assert compute_dtype(model, "float16") == 4
    found = op_types(finished(model))
    # After the table, around the product, before the cache's rows, around the attention.
    assert found.count("Cast") == 6
    cache = next(value for value in model.graph.inputs if value.name == "c")
    assert [value.dtype for value in (cache, *model.graph.outputs)] == [ir.DataType.FLOAT16, FLOAT, ir.DataType.FLOAT16]
    large = [value for value in model.graph.initializers.values() if value.dtype == FLOAT]
    assert large == []
    close(run(model, feeds | {"c": states["c"].astype(np.float16)}), wanted, TOLERANCE["float16"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_rounded_once_for_all_their_products(dtype: str) -> None:
    weight = random_weight()
    model = two_products(weight, "float32")
    assert compute_dtype(model, dtype) == 2
    finished(model)
    stored = [value for value in model.graph.initializers.values() if value.name and value.name.startswith("w")]
    assert [str(value.name) for value in stored] == [f"w.{dtype}.T"]
    numpy_dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    np.testing.assert_array_equal(stored[0].const_value.numpy(), weight.astype(numpy_dtype).T)  # type: ignore[union-attr]
    assert op_types(model) == sorted(["Cast", "MatMul", "Cast"] * 2)
    if dtype == "float16":  # ONNX Runtime's CPU provider multiplies no bfloat16
        feeds = random_inputs()
        wanted = {"p": feeds["a"] @ weight.T, "q": feeds["b"] @ weight.T}
        close(run(model, feeds), wanted, TOLERANCE[dtype])


def test_experts_multiply_in_the_dtype() -> None:
    weight = RNG.standard_normal((3, 64, 8)).astype(np.float32)
    x = ir.val("x", FLOAT, [1, "T", 64])
    product = node("MatMul", [x, constant("experts", weight)], ("y", [3, "T", 8]))
    model, given = make_model([x], [product], product.outputs), RNG.standard_normal((1, 5, 64)).astype(np.float32)
    assert compute_dtype(model, "float16") == 1
    remove_unused(model)
    assert [value.dtype for value in model.graph.initializers.values()] == [ir.DataType.FLOAT16]
    close(run(model, {"x": given}), {"y": given @ weight}, TOLERANCE["float16"])


def test_float32_changes_nothing() -> None:
    model = two_products(random_weight(), "float32")
    assert compute_dtype(model, "float32") == 0
    assert op_types(model) == ["Linear"] * 2


@pytest.mark.parametrize("scheme", ["fp8", "nvfp4", "int8-static"])
def test_products_of_codes_stay_float32_around_them(scheme: str) -> None:
    model = two_products(random_weight(), scheme, 2.0)
    assert compute_dtype(model, "float16") == 0


@pytest.mark.parametrize("scheme", ["int4-group32", "nvfp4-weight-only"])
def test_weights_of_four_bits_are_decoded_to_the_dtype(scheme: str) -> None:
    model = two_products(random_weight(), scheme)
    assert compute_dtype(model, "float16") == 2
    quantize_int4(model, "standard")
    quantize_nvfp4(model, "standard")
    products = [each for each in model.graph if each.op_type == "MatMul"]
    for product in products:
        decoded = product.inputs[1].producer()  # type: ignore[union-attr]
        assert decoded is not None
        scale = decoded.inputs[1]
        assert scale is not None
        cast = scale.producer()
        dtype = scale.dtype if cast is None else ir.DataType(cast.attributes["to"].as_int())
        assert (decoded.op_type, dtype) == ("DequantizeLinear", ir.DataType.FLOAT16)
    assert len(products) == 2


def test_fc_stays_float32() -> None:
    model = attention(random_weight(32, 64), "drafter.fc")
    compute_dtype(model, "float16")
    (linear,) = [each for each in model.graph if each.op_type == "Linear"]
    assert linear.inputs[1].dtype == FLOAT  # type: ignore[union-attr]


def test_weights_beyond_float16_are_refused_by_layer_and_fit_into_bfloat16() -> None:
    weight = random_weight()
    weight[2, 5] = -7e4
    text = r"layer target\.p: a weight of 70000 does not fit into float16, whose largest number is 65504; .* bfloat16"
    with pytest.raises(PassError, match=text):
        compute_dtype(two_products(weight, "float32"), "float16")
    assert compute_dtype(two_products(weight, "float32"), "bfloat16") == 2
