"""INT8 by row: known codes, ONNX's reference, and rows that do not see each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import int8
from onnx_oracle import dequantize, quantize

RNG = np.random.default_rng(0)
ROWS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)


def test_known_codes() -> None:
    row = np.array([[127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49]], np.float32)
    found = int8.encode(row)
    assert found.scale.tolist() == [[1.0]]
    assert found.codes.tolist() == [[127, -127, 0, 2, 2, 0, -2, 0]]  # halves to even
    assert found.decode().tolist() == [[127.0, -127.0, 0.0, 2.0, 2.0, 0.0, -2.0, 0.0]]


def test_rows_of_zeros_decode_to_zeros() -> None:
    found = int8.encode(np.array([[0.0, -0.0], [1e-45, -1e-45], [3.0, 0.0]], np.float32))
    assert found.scale.tolist()[:2] == [[1.0], [1.0]]
    assert found.decode().tolist() == [[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]]


@settings(deadline=None)
@given(ROWS)
def test_codes_and_numbers_are_those_of_onnx(weight: np.ndarray) -> None:
    found = int8.encode(weight)
    expected = quantize(weight, found.scale[:, 0], np.int8, axis=0)
    # ONNX would use -128 where a subnormal scale is rounded down; we saturate at -127.
    np.testing.assert_array_equal(found.codes, np.maximum(expected, -127))
    np.testing.assert_array_equal(found.decode(), dequantize(found.codes, found.scale[:, 0], axis=0))
    assert np.abs(found.codes.astype(int)).max() <= 127


def test_a_row_does_not_depend_on_the_others() -> None:
    x = RNG.standard_normal((2, 5, 33)).astype(np.float32)
    codes, scale = int8.round_rows(x)
    assert codes.shape == (2, 5, 33)
    assert scale.shape == (2, 5, 1)
    other = x.copy()
    other[:, 1:] *= 1e6
    codes_of_other, scale_of_other = int8.round_rows(other)
    np.testing.assert_array_equal(codes_of_other[:, 0], codes[:, 0])
    np.testing.assert_array_equal(scale_of_other[:, 0], scale[:, 0])


def test_given_scales_saturate() -> None:
    assert int8.round_to(np.array([1.0, 200.0, -200.0], np.float32), np.float32(1)).tolist() == [1, 127, -127]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    weight = np.ones((3, 4), np.float32)
    weight[1, 2], weight[2, 0] = bad, bad
    with pytest.raises(PassError, match=r"lm_head: .* 2 numbers .* not finite, the first is -?(inf|nan) at \[1, 2\]"):
        int8.encode(weight, "lm_head")


@pytest.mark.parametrize("shape", [(4,), (2, 2, 2), (0, 3)])
def test_what_is_no_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PassError, match=r"lm_head: .* must be a matrix \[N,K\]; found the shape"):
        int8.encode(np.ones(shape, np.float32), "lm_head")
