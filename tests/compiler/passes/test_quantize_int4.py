"""INT4 products in all three forms: ops, one copy of the codes, numbers, padding and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.engines.onnxruntime import write_graphs
from forerun_compiler.errors import PassError
from forerun_compiler.graph import remove_unused
from forerun_compiler.number_formats import int4
from forerun_compiler.number_formats.linear_int4 import linear_int4
from forerun_compiler.passes.quantize_int4 import Form, RoundedLayer, packed, quantize_int4
from forerun_compiler.schemes import INT4_GROUPS
from hand_graphs import FLOAT, Array, constant, make_model, op_types, run
from linear_graphs import (
    close,
    expected,
    linear,
    product_in_a_branch,
    random_inputs,
    random_weight,
    shared_scales,
    two_products,
)

EXACT = 1e-6
# The library rounds activations to int8, so one number is off by up to 1/254 of its group's largest.
LIBRARY = 2e-2


def reference(x: Array, weight: Array, group: int) -> Array:
    encoded = int4.encode(weight, group)
    return linear_int4(x, encoded.rows(), encoded.scale, group)


@pytest.mark.parametrize("scheme", INT4_GROUPS)
@pytest.mark.parametrize("columns", [72, 256])
def test_the_own_operator_gives_the_references_bits(scheme: str, columns: int) -> None:
    weight, feeds, group = random_weight(k=columns), random_inputs(k=columns), INT4_GROUPS[scheme]
    model = two_products(weight, scheme)
    assert quantize_int4(model) == 2
    remove_unused(model)
    assert op_types(model) == ["LinearInt4"] * 2
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert {name: each.shape.numpy() for name, each in stored.items() if each is not None} == {
        f"w.{scheme}": (2, -(-columns // 64), 512),
        f"w.{scheme}.scale": (2, -(-columns // group), 16),
    }
    found = run(model, feeds)
    np.testing.assert_array_equal(found["p"], reference(feeds["a"], weight, group))
    np.testing.assert_array_equal(found["q"], reference(feeds["b"], weight, group))


@pytest.mark.parametrize("scheme", INT4_GROUPS)
def test_the_librarys_op_reads_the_codes(scheme: str) -> None:
    weight, feeds = random_weight(k=256), random_inputs(k=256)
    model = two_products(weight, scheme)
    assert quantize_int4(model, "onnxruntime") == 2
    remove_unused(model)
    assert op_types(model) == ["MatMulNBits"] * 2
    assert sorted(model.graph.initializers) == [f"w.{scheme}", f"w.{scheme}.scale"]
    decoded = int4.encode(weight, INT4_GROUPS[scheme]).decode()
    close(run(model, feeds), {"p": expected(feeds["a"], decoded), "q": expected(feeds["b"], decoded)}, LIBRARY)
    for each in model.graph:  # the same with float activations: nothing but the codes is left to differ
        each.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", 0)
    close(run(model, feeds), {"p": expected(feeds["a"], decoded), "q": expected(feeds["b"], decoded)}, EXACT)


@pytest.mark.parametrize("columns", [16, 40, 72])
def test_the_librarys_op_takes_blocks_that_are_not_full(columns: int) -> None:
    weight, feeds = random_weight(k=columns), random_inputs(k=columns)
    model = two_products(weight, "int4-group32")
    assert quantize_int4(model, "onnxruntime") == 2
    decoded = int4.encode(weight, 32).decode()
    close(run(model, feeds), {"p": expected(feeds["a"], decoded)}, LIBRARY)


@pytest.mark.parametrize("form", ["forerun", "onnxruntime"])
def test_a_rows_result_does_not_depend_on_the_others(form: Form) -> None:
    model, feeds = two_products(random_weight(k=256), "int4"), random_inputs(k=256)
    quantize_int4(model, form)
    before = run(model, feeds)["p"]
    feeds["a"][0, 1:] *= 100
    np.testing.assert_array_equal(run(model, feeds)["p"][0, 0], before[0, 0])


def test_codes_are_packed_with_the_even_ones_low() -> None:
    codes = np.array([[[-8, 7, 0, -1]]], np.int8)
    assert packed(codes).tolist() == [[[0xF0, 0x78]]]


@pytest.mark.parametrize("scheme", INT4_GROUPS)
def test_standard_operators_decode_the_same_numbers(scheme: str) -> None:
    weight, feeds = random_weight(k=256), random_inputs(k=256)
    model = two_products(weight, scheme)
    assert quantize_int4(model, "standard") == 2
    remove_unused(model)
    assert op_types(model) == ["DequantizeLinear"] * 2 + ["MatMul"] * 2
    assert [name for name in model.graph.initializers if name.startswith("w")] == [f"w.{scheme}"]
    assert model.graph.initializers[f"w.{scheme}"].dtype == ir.DataType.INT4
    assert shared_scales(model) == []
    decoded = int4.encode(weight, INT4_GROUPS[scheme]).decode()
    wanted = {"p": expected(feeds["a"], decoded), "q": expected(feeds["b"], decoded)}
    close(dialect.evaluate(model, feeds), wanted, EXACT)
    close(run(model, feeds), wanted, EXACT)


def test_four_bit_codes_come_back_from_the_weights_file(tmp_path: Path) -> None:
    weight = random_weight(n=64, k=256)
    model = two_products(weight, "int4-group32")
    quantize_int4(model, "standard")
    remove_unused(model)
    stored = model.graph.initializers["w.int4-group32"].const_value
    assert stored is not None
    write_graphs({"round": model}, tmp_path)
    onnx.checker.check_model(str(tmp_path / "round.onnx"))
    read = ir.load(tmp_path / "round.onnx").graph.initializers["w.int4-group32"].const_value
    assert isinstance(read, ir.ExternalTensor)
    assert read.nbytes == 64 * 256 // 2
    np.testing.assert_array_equal(read.numpy().astype(np.int8), stored.numpy().astype(np.int8))


@pytest.mark.parametrize("form", ["forerun", "onnxruntime", "standard"])
def test_products_in_branches(form: Form) -> None:
    weight, x = random_weight(), np.abs(random_inputs()["b"])
    model = product_in_a_branch(weight, "int4-group32")
    assert quantize_int4(model, form) == 1
    remove_unused(model)
    decoded = int4.encode(weight, 32).decode()
    # ONNX Runtime cannot open the standard form in a branch: its own fusion does not find the weight around it.
    evaluate = dialect.evaluate if form == "standard" else run
    close(evaluate(model, {"x": x}), {"y": expected(x, decoded)}, LIBRARY)
    assert not evaluate(model, {"x": -x})["y"].any()


def test_other_schemes_are_left_alone() -> None:
    model = two_products(random_weight(), "int8")
    assert quantize_int4(model, "standard") == 0
    assert op_types(model) == ["Linear"] * 2


def test_blocks_that_are_not_full_are_refused_in_standard_operators() -> None:
    model = two_products(random_weight(k=72), "int4-group32")
    with pytest.raises(
        PassError, match=r"layer target\.p, target\.q \(int4-group32\): groups of 32 .* found the weight \[24, 72"
    ):
        quantize_int4(model, "standard")


def test_weights_that_are_not_finite_are_refused() -> None:
    weight = random_weight()
    weight[5, 7] = np.nan
    with pytest.raises(PassError, match=r"layer target\.p, target\.q \(int4-group32\): .* nan at \[5, 7\]"):
        quantize_int4(two_products(weight, "int4-group32"), "onnxruntime")


def test_codes_that_are_chosen_already_are_stored() -> None:
    weight, feeds = random_weight(k=72), random_inputs(k=72)
    chosen = int4.encode(weight + np.float32(0.5), 32)
    model = two_products(weight, "int4-group32")
    layers = dict.fromkeys([("int4-group32", "target.p"), ("int4-group32", "target.q")], RoundedLayer(chosen, 0.1))
    assert quantize_int4(model, rounded=layers) == 2
    found = run(model, feeds)
    np.testing.assert_array_equal(found["p"], linear_int4(feeds["a"], chosen.rows(), chosen.scale, 32))


def test_a_stack_takes_the_codes_of_its_layers_or_none() -> None:
    upper, lower = random_weight(k=72), random_weight(k=72) * np.float32(2)
    chosen = [int4.encode(weight + np.float32(0.5), 32) for weight in (upper, lower)]
    layers = ["target.up", "target.gate"]
    rounded = {("int4-group32", name): RoundedLayer(each, 0.1) for name, each in zip(layers, chosen, strict=True)}
    feeds = {"x": random_inputs(k=72)["a"]}
    for given in (rounded, {("int4-group32", "target.up"): rounded["int4-group32", "target.up"]}):
        x = ir.val("x", FLOAT, [1, "T", 72])
        product = linear(x, constant("w", np.concatenate([upper, lower])), "y", "int4-group32")
        product.attributes["layer"] = ir.AttrString("layer", ",".join(layers))
        model = make_model([x], [product], list(product.outputs))
        assert quantize_int4(model, rounded=given) == 1
        parts = chosen if given is rounded else [int4.encode(np.concatenate([upper, lower]), 32)]
        codes, scale = np.concatenate([p.rows() for p in parts]), np.concatenate([p.scale for p in parts])
        np.testing.assert_array_equal(run(model, feeds)["y"], linear_int4(feeds["x"], codes, scale, 32))
