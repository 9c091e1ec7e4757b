"""E4M3: every code against the format's definition, every tie, saturation; then ONNX's reference on anything."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forerun_compiler.number_formats import float8
from onnx_oracle import dequantize, quantize

E4M3 = ml_dtypes.float8_e4m3fn
NAN = 0x7F


def value(code: int) -> float:
    """The number of a positive code by the definition: 4 bits of exponent (bias 7), 3 of mantissa, subnormals."""
    exponent, mantissa = code >> 3, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)


POSITIVE = np.array([value(code) for code in range(NAN)], np.float32)


def codes(x: np.ndarray) -> list[int]:
    return float8.saturating_cast(np.asarray(x, np.float32)).view(np.uint8).tolist()


def test_the_table_is_the_formats() -> None:
    assert POSITIVE[[0, 1, 7, 8, 0x38, 0x7E]].tolist() == [0.0, 2.0**-9, 7 * 2.0**-9, 2.0**-6, 1.0, 448.0]
    np.testing.assert_array_equal(np.arange(NAN, dtype=np.uint8).view(E4M3).astype(np.float32), POSITIVE)


def test_every_number_has_its_code() -> None:
    assert codes(POSITIVE) == list(range(NAN))
    assert codes(-POSITIVE) == [code | 0x80 for code in range(NAN)]


def test_ties_go_to_the_even_code_and_the_rest_to_the_nearest() -> None:
    middle = (POSITIVE[:-1] + POSITIVE[1:]) / 2
    lower = np.arange(NAN - 1)
    assert codes(middle) == (lower + lower % 2).tolist()
    assert codes(np.nextafter(middle, np.float32(0))) == lower.tolist()
    assert codes(np.nextafter(middle, np.float32(1e9))) == (lower + 1).tolist()


def test_beyond_the_largest_it_saturates() -> None:
    # ml_dtypes alone gives NaN from 464 on, halfway to what would be the next number.
    assert codes([449.0, 464.0, 465.0, 1e38]) == [0x7E] * 4
    assert codes([-449.0, -465.0]) == [0xFE] * 2


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_codes_and_numbers_are_those_of_onnx(weight: np.ndarray) -> None:
    found = float8.encode(weight)
    expected = quantize(weight, found.scale[:, 0], E4M3, axis=0)
    np.testing.assert_array_equal(found.codes.view(np.uint8), expected.view(np.uint8))
    np.testing.assert_array_equal(found.decode(), dequantize(found.codes, found.scale[:, 0], axis=0))
    assert np.isfinite(found.decode()).all()


def test_each_row_reaches_the_top_of_the_format() -> None:
    weight = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-45, 0.0, -1e-45], [896.0, 0.0, 1.0]], np.float32)
    found = float8.encode(weight)
    assert found.scale[:, 0].tolist() == [np.float32(2) / np.float32(448), 1.0, 1.0, 2.0]
    assert np.abs(found.codes.astype(np.float32)).max(axis=1).tolist() == [448.0, 0.0, 0.0, 448.0]
    assert found.decode()[1:3].tolist() == [[0.0] * 3] * 2


def test_activations_by_a_given_scale() -> None:
    x = np.array([[0.1, 3.0, -1000.0, 0.0]], np.float32)
    scale = np.float32(2)
    expected = dequantize(quantize(x, scale, E4M3), scale)
    np.testing.assert_array_equal(float8.round_to(x, scale), expected)
    assert expected[0, 2] == -896.0
