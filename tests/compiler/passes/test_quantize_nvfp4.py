"""NVFP4 products in both forms and weight-only: ops, codes stored once, own scales, numbers, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import remove_unused
from forerun_compiler.number_formats import nvfp4
from forerun_compiler.passes.quantize_nvfp4 import quantize_nvfp4
from hand_graphs import op_types
from linear_graphs import (
    Array,
    close,
    expected,
    product_in_a_branch,
    random_inputs,
    random_weight,
    shared_scales,
    two_products,
)

X_MAX = 2.0
SCALE = nvfp4.global_scale(X_MAX)
TOLERANCE = 1e-6
WEIGHT_OPS = ["DequantizeLinear"] * 2


class TRT_FP4DynamicQuantize(OpRun):
    """TensorRT's operator as its documentation has it, by our reference; the evaluator finds it by this name."""

    op_domain = "trt"

    def _run(self, x: Array, scale: Array, **attributes: Any) -> tuple[Array, Array]:
        assert attributes == {"axis": -1, "block_size": 16, "scale_type": onnx.TensorProto.FLOAT8E4M3FN}
        return nvfp4.round_blocks(x, np.float32(scale))


def numbers(feeds: dict[str, Array], weight: Array) -> dict[str, Array]:
    decoded = nvfp4.encode(weight).decode()
    return {name: expected(nvfp4.round_to(x, SCALE), decoded) for name, x in zip("pq", feeds.values(), strict=True)}


def check_weights(model: ir.Model, scheme: str) -> None:
    """Codes and block scales are stored once, as four and eight bits; other scales are not shared."""
    remove_unused(model)
    assert [name for name in model.graph.initializers if name.startswith("w")] == [
        f"w.{scheme}",
        f"w.{scheme}.block_scale",
    ]
    assert model.graph.initializers[f"w.{scheme}"].dtype == ir.DataType.FLOAT4E2M1
    assert model.graph.initializers[f"w.{scheme}.block_scale"].dtype == ir.DataType.FLOAT8E4M3FN
    assert shared_scales(model) == []


def test_standard_operators() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, "nvfp4", X_MAX)
    assert quantize_nvfp4(model, "standard") == 2
    check_weights(model, "nvfp4")
    onnx.checker.check_model(ir.to_proto(model))
    rounding = ["Abs", "Div", "Max", "ReduceMax", "Reshape", *["QuantizeLinear", "DequantizeLinear"] * 2]
    assert op_types(model) == sorted([*rounding, *WEIGHT_OPS, "MatMul"] * 2)
    assert max(np.abs(x).max() for x in feeds.values()) > X_MAX  # so that saturation is seen
    close(dialect.evaluate(model, feeds), numbers(feeds, weight), TOLERANCE)


def test_tensorrts_operator() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, "nvfp4", X_MAX)
    assert quantize_nvfp4(model, "tensorrt") == 2
    check_weights(model, "nvfp4")
    assert model.graph.opset_imports["trt"] == 1
    rounding = ["TRT_FP4DynamicQuantize", "DequantizeLinear", "DequantizeLinear"]
    assert op_types(model) == sorted([*rounding, *WEIGHT_OPS, "MatMul"] * 2)
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=[TRT_FP4DynamicQuantize])
    found = dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
    close(found, numbers(feeds, weight), TOLERANCE)


@pytest.mark.parametrize("form", ["standard", "tensorrt"])
def test_weight_only_leaves_activations_alone(form: Any) -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, "nvfp4-weight-only")
    assert quantize_nvfp4(model, form) == 2
    check_weights(model, "nvfp4-weight-only")
    assert "trt" not in model.graph.opset_imports
    assert op_types(model) == sorted([*WEIGHT_OPS, "MatMul"] * 2)
    decoded = nvfp4.encode(weight).decode()
    wanted = {"p": expected(feeds["a"], decoded), "q": expected(feeds["b"], decoded)}
    close(dialect.evaluate(model, feeds), wanted, TOLERANCE)


def test_products_in_branches() -> None:
    weight, x = random_weight(), np.abs(random_inputs()["b"])
    model = product_in_a_branch(weight, "nvfp4", X_MAX)
    assert quantize_nvfp4(model, "standard") == 1
    remove_unused(model)
    wanted = expected(nvfp4.round_to(x, SCALE), nvfp4.encode(weight).decode())
    close(dialect.evaluate(model, {"x": x}), {"y": wanted}, TOLERANCE)
    assert not dialect.evaluate(model, {"x": -x})["y"].any()


def test_other_schemes_are_left_alone() -> None:
    model = two_products(random_weight(), "fp8")
    assert quantize_nvfp4(model, "tensorrt") == 0
    assert op_types(model) == ["Linear"] * 2
    assert "trt" not in model.graph.opset_imports


def test_layers_that_were_not_calibrated_are_refused() -> None:
    with pytest.raises(PassError, match=r"layer target\.p: .* nvfp4 .* x_max is 0: it was not calibrated"):
        quantize_nvfp4(two_products(random_weight(), "nvfp4"), "standard")


def test_widths_that_blocks_do_not_fill_are_refused() -> None:
    with pytest.raises(PassError, match=r"layer target\.p, target\.q \(nvfp4\): .* multiple of 16; found .*\[24, 40\]"):
        quantize_nvfp4(two_products(random_weight(k=40), "nvfp4", X_MAX), "standard")


def test_inputs_of_unknown_rank_are_refused() -> None:
    model = two_products(random_weight(), "nvfp4", X_MAX)
    model.graph.inputs[0].shape = None
    with pytest.raises(PassError, match=r"layer target\.p: expected an input of known rank, found 'a'"):
        quantize_nvfp4(model, "standard")
