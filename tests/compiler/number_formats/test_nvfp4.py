"""NVFP4: every code and tie of E2M1, scales as they are stored, ONNX's reference on both levels."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import nvfp4
from onnx_oracle import dequantize, quantize

E2M1, E4M3 = ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fn
RNG = np.random.default_rng(0)
POSITIVE = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
"""The numbers of the codes 0..7 (OCP Microscaling specification, table of E2M1)."""


def codes(x: np.ndarray) -> list[int]:
    return nvfp4.saturating_cast(np.asarray(x, np.float32)).view(np.uint8).tolist()


def test_every_number_has_its_code() -> None:
    assert codes(POSITIVE) == list(range(8))
    assert codes(-POSITIVE) == list(range(8, 16))


def test_ties_go_to_the_even_code_and_the_rest_to_the_nearest() -> None:
    middle = (POSITIVE[:-1] + POSITIVE[1:]) / 2
    assert middle.tolist() == [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0]
    assert codes(middle) == [0, 2, 2, 4, 4, 6, 6]
    assert codes(np.nextafter(middle, np.float32(0))) == list(range(7))
    assert codes(np.nextafter(middle, np.float32(9))) == list(range(1, 8))
    assert codes([6.1, 7.0, 1e38, -7.0]) == [7, 7, 7, 15]


def test_the_fast_rounding_gives_the_same_numbers() -> None:
    middle = (POSITIVE[:-1] + POSITIVE[1:]) / 2
    around = [np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(9))]
    x = np.concatenate([POSITIVE, middle, *around, [6.1, 7, 1e38, 1e-45], RNG.uniform(0, 7, 10000)]).astype(np.float32)
    for signed in (x, -x):
        np.testing.assert_array_equal(nvfp4.nearest(signed), nvfp4.saturating_cast(signed).astype(np.float32))


def test_known_weight() -> None:
    # The second block's largest, 6 * 13.2, wants the block scale 13.2; E4M3 has 13, and the codes are made with that.
    first = np.array([*POSITIVE, *-POSITIVE], np.float32) * 448
    exact = 13 * np.array([0.5, 1, 1.5, 3, 4, -0.5, -1, -1.5, -2, -3, -4, 0, 0])
    second = np.array([6 * 13.2, 13 * 2.49, 13 * 2.51, *exact], np.float32)
    found = nvfp4.encode(np.concatenate([first, second])[None])
    assert found.global_scale == 1.0
    assert found.block_scale.astype(np.float32).tolist() == [[448.0, 13.0]]
    assert found.codes.astype(np.float32)[0, 16:19].tolist() == [6.0, 2.0, 3.0]
    np.testing.assert_array_equal(found.decode()[0, :16], first)
    assert found.decode()[0, 16:19].tolist() == [78.0, 26.0, 39.0]
    np.testing.assert_array_equal(found.decode()[0, 19:], exact)


def test_zeros_decode_to_zeros_and_tiny_blocks_are_not_lost() -> None:
    assert not nvfp4.encode(np.zeros((2, 32), np.float32)).decode().any()
    weight = np.zeros((1, 48), np.float32)
    weight[0, 0], weight[0, 16] = 6 * 448, 2.0**-9  # a third of what the smallest block scale can hold at 6
    found = nvfp4.encode(weight)
    assert found.block_scale.astype(np.float32).tolist() == [[448.0, 2.0**-9, 2.0**-9]]
    np.testing.assert_array_equal(found.decode(), weight)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.sampled_from([16, 32, 48])),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-8, 8, width=16),
    )
)
def test_codes_and_numbers_are_those_of_onnx(weight: np.ndarray) -> None:
    found = nvfp4.encode(weight)
    largest = np.abs(weight.reshape(len(weight), -1, 16)).max(axis=-1)
    candidates = [
        np.maximum(quantize(largest / np.float32(divisor), found.global_scale, E4M3).astype(np.float32), 2.0**-9)
        for divisor in nvfp4.DIVISORS
    ]
    assert np.any([found.block_scale.astype(np.float32) == each for each in candidates], axis=0).all()
    scale = dequantize(found.block_scale, found.global_scale)
    expected = quantize(weight, scale, E2M1, axis=1, block_size=16)
    # As numbers: the evaluator adds the zero point, which turns -0 into 0.
    np.testing.assert_array_equal(found.codes.astype(np.float32), expected.astype(np.float32))
    np.testing.assert_array_equal(found.decode(), dequantize(found.codes, scale, axis=1, block_size=16))
    assert np.isfinite(found.decode()).all()


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.sampled_from([16, 32, 48])),
        elements=st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-8, 8, width=16),
    )
)
def test_activations_are_those_of_onnx(x: np.ndarray) -> None:
    scale = nvfp4.global_scale(4.0)
    codes, block_scale = nvfp4.round_blocks(x, scale)
    largest = np.abs(x.reshape(len(x), -1, 16)).max(axis=-1) / np.float32(6)
    expected = np.maximum(quantize(largest, scale, E4M3).astype(np.float32), 2.0**-9)
    np.testing.assert_array_equal(block_scale.astype(np.float32), expected)
    steps = dequantize(block_scale, scale)
    expected_codes = quantize(x, steps, E2M1, axis=1, block_size=16)
    np.testing.assert_array_equal(codes.astype(np.float32), expected_codes.astype(np.float32))
    np.testing.assert_array_equal(nvfp4.round_to(x, scale), dequantize(codes, steps, axis=1, block_size=16))


def test_no_block_is_worse_than_by_six() -> None:
    weight = RNG.standard_t(4, (64, 256)).astype(np.float32)
    error = np.square(nvfp4.encode(weight).decode() - weight).reshape(64, -1, 16).sum(axis=-1)
    scale = nvfp4.global_scale(float(np.abs(weight).max()))
    by_six = np.square(nvfp4.round_to(weight, scale) - weight).reshape(64, -1, 16).sum(axis=-1)
    assert (error <= by_six * (1 + 1e-5)).all()
    assert error.sum() < 0.9 * by_six.sum()


def test_codes_are_made_with_the_rounded_block_scale() -> None:
    x = RNG.standard_normal((64, 256)).astype(np.float32)
    scale = nvfp4.global_scale(float(np.abs(x).max()))
    blocks = x.reshape(64, -1, 16)
    exact = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(6)
    stored = nvfp4.round_blocks(x, scale)[1].astype(np.float32)[..., None] * scale
    by_exact = (nvfp4.saturating_cast(blocks / exact).astype(np.float32) * stored).reshape(x.shape)
    assert np.square(nvfp4.round_to(x, scale) - x).sum() < np.square(by_exact - x).sum()


def test_activations_by_a_given_global_scale() -> None:
    x = RNG.standard_normal((2, 3, 64)).astype(np.float32)
    scale = nvfp4.global_scale(2.0)  # a calibrated range that some of x exceeds
    assert scale == np.float32(2) / np.float32(2688)
    rounded = nvfp4.round_to(x, scale)
    by_block = rounded.reshape(2, 3, 4, 16)
    assert np.abs(by_block).max() == 2.0  # saturated: block scale 448, code 6
    small = np.abs(x.reshape(2, 3, 4, 16)).max(axis=-1) <= 2
    assert small.any()
    np.testing.assert_array_equal(nvfp4.round_to(x[0], scale), rounded[0])
    assert np.abs(rounded - x).reshape(2, 3, 4, 16)[small].max() < 2 / 6


def test_widths_that_blocks_do_not_fill_are_refused() -> None:
    with pytest.raises(PassError, match=r"q_proj: .* multiple of 16; found the weight \[4, 24\]\. .*overrides"):
        nvfp4.encode(np.ones((4, 24), np.float32), "q_proj")


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PassError, match=r"q_proj: .* not finite, the first is inf at \[0, 3\]"):
        nvfp4.encode(np.array([[0, 0, 0, np.inf] * 4], np.float32), "q_proj")
