"""Codes stored [N,K]: the same numbers, stored once, each scale read once."""

from __future__ import annotations

import numpy as np
import pytest

from forerun_compiler import dialect
from forerun_compiler.graph import remove_unused
from forerun_compiler.passes.quantize_fp8 import quantize_fp8
from forerun_compiler.passes.quantize_int4 import quantize_int4
from forerun_compiler.passes.quantize_int8_static import quantize_int8_static
from forerun_compiler.passes.turn_codes import turn_codes
from hand_graphs import op_types
from linear_graphs import product_in_a_branch, random_inputs, random_weight, shared_scales, two_products

QUANTIZE = {"fp8": quantize_fp8, "int8-static": quantize_int8_static}


@pytest.mark.parametrize("scheme", QUANTIZE)
def test_the_numbers_stay_and_the_codes_are_stored_once_as_the_checkpoint_has_them(scheme: str) -> None:
    weight, feeds = random_weight(), random_inputs()
    before, model = (two_products(weight, scheme, 2.0) for _ in range(2))
    for each in (before, model):
        assert QUANTIZE[scheme](each) == 2
    assert turn_codes(model) == 2
    remove_unused(model)
    assert sorted(set(op_types(model)) - set(op_types(before))) == ["Transpose"]
    codes = [value for name, value in model.graph.initializers.items() if name == f"w.{scheme}.N"]
    assert [tuple(value.const_value.shape.numpy()) for value in codes] == [weight.shape]  # type: ignore[union-attr]
    assert f"w.{scheme}" not in model.graph.initializers
    assert shared_scales(model) == []
    wanted = dialect.evaluate(before, feeds)
    for name, array in dialect.evaluate(model, feeds).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_products_in_branches() -> None:
    model = product_in_a_branch(random_weight(), "fp8", 2.0)
    quantize_fp8(model)
    assert turn_codes(model) == 1


def test_blocks_along_k_are_left_alone() -> None:
    model = two_products(random_weight(), "int4-group32")
    quantize_int4(model, "standard")
    assert turn_codes(model) == 0
    assert "Transpose" not in op_types(model)
