"""The references of LinearInt8 and GatedLinearInt8: known numbers, each step of the norm, odd rows, size of errors."""

from __future__ import annotations

import numpy as np
import pytest

from forerun_compiler.number_formats import int8
from forerun_compiler.number_formats.linear_int8 import (
    Norm,
    alternate_halves,
    gated_linear_int8,
    linear_int8,
    normalize_rows,
    round_rows,
)

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


def normalized_step_by_step(row: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """The words of the operator as a loop over float32 scalars."""
    parts = [np.float32(0)] * 16
    for i, number in enumerate(row):
        parts[i % 16] = parts[i % 16] + number * number
    s = [(parts[i] + parts[8 + i]) + (parts[4 + i] + parts[12 + i]) for i in range(4)]
    total = (s[0] + s[2]) + (s[1] + s[3])
    inverse = np.float32(1) / np.sqrt(total / np.float32(len(row)) + np.float32(epsilon))
    return np.array([(number * inverse) * w for number, w in zip(row, weight, strict=True)], np.float32)


@pytest.mark.parametrize("k", [1, 15, 16, 17, 100, 1024])
def test_a_norm_has_the_bits_of_its_steps(k: int) -> None:
    x = (RNG.standard_normal((2, 3, k)) * 10.0 ** RNG.integers(-3, 4, (2, 3, 1))).astype(np.float32)
    weight = RNG.uniform(0.5, 2, k).astype(np.float32)
    found = normalize_rows(x, Norm(weight, 1e-6))
    assert found.dtype == np.float32
    for row, wanted in zip(found.reshape(-1, k), x.reshape(-1, k), strict=True):
        np.testing.assert_array_equal(row, normalized_step_by_step(wanted, weight, 1e-6))
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=0)


def test_norms_of_rows_that_are_zero_or_overflow() -> None:
    x = np.array([[0, 0], [1e30, 1], [np.nan, 1], [np.inf, 1]], np.float32)
    found = normalize_rows(x, Norm(np.ones(2, np.float32), 1e-6))
    assert not found[:2].any()  # the sum of squares is infinite, its inverse zero
    assert np.isnan(found[2]).all()
    assert np.isnan(found[3, 0])
    codes, scale = np.array([[1, 2]], np.int8), np.ones(1, np.float32)
    y = linear_int8(x, codes, scale, Norm(np.ones(2, np.float32), 1e-6))
    np.testing.assert_array_equal(y[:, 0], np.array([0, 0, np.nan, np.nan], np.float32))


def test_an_addend_is_of_all_rows_or_of_each() -> None:
    x, codes = RNG.standard_normal((1, 3, 8)).astype(np.float32), RNG.integers(-9, 9, (4, 8)).astype(np.int8)
    scale = np.full(4, 0.5, np.float32)
    plain = linear_int8(x, codes, scale)
    for shape in ((1, 3, 4), (3, 4), (4,), (1, 4)):
        addend = RNG.standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(linear_int8(x, codes, scale, addend=addend), plain + addend)


def test_gates_and_values_take_turns() -> None:
    """One row in, so that output i is the product's scale i: gates 0 to 15, values 16 to 31, gates 32 to 47, ..."""
    scale = np.linspace(-3, 3, 64, dtype=np.float32)
    x, codes = np.ones((1, 1), np.float32), np.ones((64, 1), np.int8)
    both = linear_int8(x, codes, scale)[0].astype(np.float64)
    gate, value = np.r_[both[:16], both[32:48]], np.r_[both[16:32], both[48:]]
    found = gated_linear_int8(x, codes, scale)
    assert found.shape == (1, 32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], gate / (1 + np.exp(-gate)) * value, rtol=1e-6, atol=0)


def test_a_gate_far_below_zero_closes() -> None:
    scale = np.r_[np.full(16, -50), np.ones(16)].astype(np.float32)
    assert not gated_linear_int8(np.ones((1, 1), np.float32), np.full((32, 1), 127, np.int8), scale).any()


def test_a_gated_product_of_normed_rows() -> None:
    x, codes = RNG.standard_normal((2, 8)).astype(np.float32), RNG.integers(-9, 9, (32, 8)).astype(np.int8)
    scale, norm = np.full(32, 0.02, np.float32), Norm(RNG.uniform(0.5, 2, 8).astype(np.float32), 0.1)
    np.testing.assert_array_equal(
        gated_linear_int8(x, codes, scale, norm), gated_linear_int8(normalize_rows(x, norm), codes, scale)
    )


@pytest.mark.parametrize("gate_first", [True, False])
def test_halves_by_turns(gate_first: bool) -> None:
    gates, values = np.arange(6).reshape(3, 2), np.arange(10, 16).reshape(3, 2)
    halves = np.concatenate([gates, values] if gate_first else [values, gates])
    wanted = [[0, 1], [10, 11], [2, 3], [12, 13], [4, 5], [14, 15]]
    assert alternate_halves(halves, gate_first).tolist() == wanted
