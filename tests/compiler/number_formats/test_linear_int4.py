"""The references of LinearInt4 and GatedLinearInt4: each step of the sum, odd rows, short groups, size of errors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from forerun_compiler.number_formats import int4
from forerun_compiler.number_formats.linear_int4 import gated_linear_int4, linear_int4
from forerun_compiler.number_formats.linear_int8 import Norm, normalize_rows, round_rows

RNG = np.random.default_rng(0)


def scales(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.02, 0.02, shape).astype(ml_dtypes.bfloat16)


def summed_step_by_step(row: np.ndarray, codes: np.ndarray, scale: np.ndarray, group: int) -> np.float32:
    """The words of the operator as a loop over float32 scalars; the sums are Python's, of any size."""
    rounded, row_scale = round_rows(row)
    total = np.float32(0)
    for number, start in enumerate(range(0, len(row), group)):
        pairs = zip(rounded[start : start + group], codes[start : start + group], strict=True)
        total = total + np.float32(sum(int(a) * int(b) for a, b in pairs)) * np.float32(scale[number])
    return np.float32(total * row_scale[0])


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("k", [1, 31, 64, 100, 384, 500])
def test_a_product_has_the_bits_of_its_steps(k: int, group: int) -> None:
    x = (RNG.standard_normal((2, 2, k)) * 10.0 ** RNG.integers(-3, 4, (2, 2, 1))).astype(np.float32)
    codes, scale = RNG.integers(-8, 8, (5, k)), scales(5, -(-k // group))
    found = linear_int4(x, codes.astype(ml_dtypes.int4), scale, group)
    assert (found.shape, found.dtype) == ((2, 2, 5), np.float32)
    for row, outputs in zip(x.reshape(-1, k), found.reshape(-1, 5), strict=True):
        assert outputs.tolist() == [summed_step_by_step(row, *each, group) for each in zip(codes, scale, strict=True)]


def test_the_largest_sum_of_a_group_is_exact() -> None:
    """All codes at their ends but one: 127 * -8 * 127 + 126 * -8 has 18 bits."""
    x, codes = np.full((1, 128), 127, np.float32), np.full((1, 128), -8, np.int8)
    x[0, 5] = 126
    assert linear_int4(x, codes, np.ones((1, 1), ml_dtypes.bfloat16), 128).tolist() == [[-(127 * 127 + 126) * 8]]


def test_a_rows_result_does_not_depend_on_the_others() -> None:
    x, codes, scale = RNG.standard_normal((6, 300)).astype(np.float32), RNG.integers(-8, 8, (40, 300)), scales(40, 3)
    whole = linear_int4(x, codes, scale, 128)
    for row, alone in zip(x, whole, strict=True):
        np.testing.assert_array_equal(linear_int4(row, codes, scale, 128), alone)


def test_rows_that_are_not_counted() -> None:
    x = np.array([[0, -0.0], [2.0**-101, 0], [np.inf, 1], [np.nan, 1], [2.0**-100, 0]], np.float32)
    y = linear_int4(x, np.array([[1, 2], [0, 0]]), np.ones((2, 1), ml_dtypes.bfloat16), 32)
    assert not y[:2].any()
    assert np.isnan(y[2:4]).all()
    assert np.isfinite(y[4]).all()


@pytest.mark.parametrize(("group", "error"), [(32, 0.1), (64, 0.11), (128, 0.13)])
def test_the_product_is_near_the_float_one(group: int, error: float) -> None:
    x, weight = (RNG.standard_normal(shape).astype(np.float32) for shape in ((7, 300), (50, 300)))
    encoded = int4.encode(weight, group)
    found = linear_int4(x, encoded.rows(), encoded.scale, group)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64)
    assert error / 2 < np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)) < error


def test_norm_and_addend() -> None:
    x, codes, scale = RNG.standard_normal((1, 3, 70)).astype(np.float32), RNG.integers(-8, 8, (4, 70)), scales(4, 2)
    norm = Norm(RNG.uniform(0.5, 2, 70).astype(np.float32), 0.1)
    plain = linear_int4(normalize_rows(x, norm), codes, scale, 64)
    np.testing.assert_array_equal(linear_int4(x, codes, scale, 64, norm), plain)
    for shape in ((1, 3, 4), (4,)):
        addend = RNG.standard_normal(shape).astype(np.float32)
        np.testing.assert_array_equal(linear_int4(x, codes, scale, 64, norm, addend), plain + addend)


def test_gates_and_values_take_turns() -> None:
    x, codes, scale = RNG.standard_normal((3, 70)).astype(np.float32), RNG.integers(-8, 8, (64, 70)), scales(64, 3)
    norm = Norm(RNG.uniform(0.5, 2, 70).astype(np.float32), 0.1)
    both = linear_int4(x, codes, scale, 32, norm).astype(np.float64)
    gate, value = (np.concatenate([both[:, i : i + 16] for i in starts], axis=1) for starts in ((0, 32), (16, 48)))
    found = gated_linear_int4(x, codes, scale, 32, norm)
    assert (found.shape, found.dtype) == ((3, 32), np.float32)
    np.testing.assert_allclose(found, gate / (1 + np.exp(-gate)) * value, rtol=1e-5, atol=1e-9)
