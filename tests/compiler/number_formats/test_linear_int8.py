"""The reference of LinearInt8: known numbers, rows that are zero, tiny or not finite, and the size of the error."""

from __future__ import annotations

import numpy as np

from forerun_compiler.number_formats import int8
from forerun_compiler.number_formats.linear_int8 import linear_int8, round_rows

RNG = np.random.default_rng(0)


def test_known_codes() -> None:
    codes, scale = round_rows(np.array([[127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49]], np.float32))
    assert codes.tolist() == [[127, -127, 0, 2, 2, 0, -2, 0]]  # halves to even
    assert scale.tolist() == [[1.0]]


def test_rows_that_are_not_counted() -> None:
    x = np.array([[0, -0.0], [2.0**-101, 0], [np.inf, 1], [np.nan, 1], [-np.inf, np.nan], [2.0**-100, 0]], np.float32)
    codes, scale = round_rows(x)
    assert codes.tolist() == [[0, 0]] * 5 + [[127, 0]]
    np.testing.assert_array_equal(scale[:5, 0], np.array([0, 0, np.nan, np.nan, np.nan], np.float32))
    y = linear_int8(x, np.array([[1, 2], [0, 0]], np.int8), np.ones(2, np.float32))
    assert not y[:2].any()
    assert np.isnan(y[2:5]).all()
    assert np.isfinite(y[5]).all()


def test_the_largest_float_stays_in_range() -> None:
    codes, scale = round_rows(np.array([[np.finfo(np.float32).max, -1.0]], np.float32))
    assert codes.tolist() == [[127, 0]]
    assert np.isfinite(scale).all()


def test_the_product_is_near_the_float_one() -> None:
    x, weight = (RNG.standard_normal(shape).astype(np.float32) for shape in ((7, 300), (20, 300)))
    encoded = int8.encode(weight)
    found = linear_int8(x, encoded.codes, encoded.scale[:, 0])
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    # Each factor is off by at most half a step, 1/254 of its row's largest number.
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.02 * np.sqrt(np.mean(exact**2))
