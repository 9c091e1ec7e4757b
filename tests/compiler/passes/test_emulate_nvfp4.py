"""NVFP4 on ONNX Runtime's CPU provider: the numbers are the format's, bit for bit, before the product."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import nvfp4
from forerun_compiler.passes.emulate_nvfp4 import emulate_nvfp4
from hand_graphs import FLOAT, constant, make_model, op_types, run, session
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
SCALE = nvfp4.global_scale(X_MAX)
TOLERANCE = 1e-6


def test_numbers_are_those_of_the_scheme() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, "nvfp4", X_MAX)
    assert emulate_nvfp4(model) == 2
    assert shared_scales(model) == []
    decoded = nvfp4.encode(weight).decode()
    np.testing.assert_array_equal(model.graph.initializers["w.nvfp4.decoded"].const_value.numpy(), decoded)
    wanted = {name: expected(nvfp4.round_to(x, SCALE), decoded) for name, x in zip("pq", feeds.values(), strict=True)}
    close(run(dense(model), feeds), wanted, TOLERANCE)


def test_weight_only_leaves_activations_alone() -> None:
    weight, feeds = random_weight(), random_inputs()
    model = two_products(weight, "nvfp4-weight-only")
    assert emulate_nvfp4(model) == 2
    assert op_types(model) == ["Linear"] * 2
    decoded = nvfp4.encode(weight).decode()
    wanted = {"p": expected(feeds["a"], decoded), "q": expected(feeds["b"], decoded)}
    close(run(dense(model), feeds), wanted, TOLERANCE)


def rounding_model(x_max: float) -> ir.Model:
    """y is the rounded x [1,T,16]: the weight is a unit matrix, which NVFP4 holds exactly."""
    x = ir.val("x", FLOAT, [1, "T", 16])
    product = linear(x, constant("unit", np.eye(16)), "y", "nvfp4", x_max)
    model = make_model([x], [product], product.outputs)
    assert emulate_nvfp4(model) == 1
    return dense(model)


ROUNDING = session(rounding_model(6 * 448))


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.just(1), st.integers(1, 4), st.just(16)),
        elements=st.floats(-4096, 4096, width=32)
        | st.sampled_from([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25]),
    )
)
def test_activations_are_rounded_as_the_format_says(x: np.ndarray) -> None:
    (found,) = ROUNDING.run(None, {"x": x})
    np.testing.assert_array_equal(found, nvfp4.round_to(x, np.float32(1)))


def test_every_tie_goes_to_the_even_code() -> None:
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], np.float32)
    x = np.array([[[6, *ties, *-ties, 0]]], np.float32)  # the 6 makes the block scale 1
    (found,) = ROUNDING.run(None, {"x": x})
    even = [0, 1, 1, 2, 2, 4, 4]
    assert found.tolist() == [[[6, *even, *(-value for value in even), 0]]]


def test_products_in_branches() -> None:
    weight, x = random_weight(), np.abs(random_inputs()["b"])
    model = product_in_a_branch(weight, "nvfp4", X_MAX)
    assert emulate_nvfp4(model) == 1
    wanted = expected(nvfp4.round_to(x, SCALE), nvfp4.encode(weight).decode())
    close(run(dense(model), {"x": x}), {"y": wanted}, TOLERANCE)


def test_other_schemes_are_left_alone() -> None:
    assert emulate_nvfp4(two_products(random_weight(), "fp8", X_MAX)) == 0


def test_layers_that_were_not_calibrated_are_refused() -> None:
    with pytest.raises(PassError, match=r"layer target\.p: .* nvfp4 .* x_max is 0: it was not calibrated"):
        emulate_nvfp4(two_products(random_weight(), "nvfp4"))


def test_widths_that_blocks_do_not_fill_are_refused() -> None:
    with pytest.raises(PassError, match=r"layer target\.p, target\.q \(nvfp4-weight-only\): .* multiple of 16"):
        emulate_nvfp4(two_products(random_weight(k=40), "nvfp4-weight-only"))
