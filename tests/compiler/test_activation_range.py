"""Histograms against a plain count, ranges against known distributions and an exhaustive search."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import ml_dtypes
import numpy as np
import pytest

from forerun_compiler.activation_range import (
    BINS,
    EDGES,
    LEAST_RANGE,
    METHODS,
    Calibration,
    LayerStatistics,
    count,
    percentile,
    x_max,
)
from forerun_compiler.errors import CalibrationError
from forerun_compiler.schemes import SCHEMES

RNG = np.random.default_rng(7)
NORMAL = RNG.standard_normal(400_000).astype(np.float32)
UNIFORM = RNG.uniform(-3.0, 3.0, 400_000).astype(np.float32)
LAPLACE = RNG.laplace(size=400_000).astype(np.float32)


def statistics(x: np.ndarray) -> LayerStatistics:
    return LayerStatistics(x.size, float(np.abs(x).max()), count(x), np.array([np.mean(np.square(x, dtype=float))]))


def test_bins_are_those_of_the_edges() -> None:
    exponents = RNG.uniform(-30.0, 34.0, 20_000)
    x = np.concatenate([RNG.choice([-1.0, 1.0], 20_000) * 2.0**exponents, EDGES, -EDGES, [0.0, -0.0]]).astype(
        np.float32
    )
    expected = np.bincount(np.minimum(np.searchsorted(EDGES, np.abs(x), "right"), BINS - 1), minlength=BINS)
    assert np.array_equal(count(x), expected)
    assert len(EDGES) == BINS
    assert np.all(EDGES[1:] / EDGES[:-1] <= 1.0 + 1.0 / 64.0)


def test_counts_add_up() -> None:
    assert np.array_equal(count(NORMAL[:1000]) + count(NORMAL[1000:5000]), count(NORMAL[:5000]))


@pytest.mark.parametrize(
    ("x", "percent", "expected"),
    [(NORMAL, 99.0, 2.5758), (NORMAL, 50.0, 0.6745), (UNIFORM, 99.9, 2.997), (UNIFORM, 25.0, 0.75)],
)
def test_percentiles_of_known_distributions(x: np.ndarray, percent: float, expected: float) -> None:
    assert percentile(statistics(x), percent) == pytest.approx(expected, rel=0.02)  # a bin is up to 1.6 % wide


def test_percentile_counts_zeros_and_is_at_most_absmax() -> None:
    x = np.concatenate([np.zeros(9_000), np.full(1_000, 5.0)]).astype(np.float32)
    assert percentile(statistics(x), 89.9) == EDGES[0]
    assert percentile(statistics(x), 90.1) == 5.0


def test_the_percentile_method_cuts_one_value_in_ten_thousand() -> None:
    x = np.ones(20_000, np.float32)
    x[:2] = 100.0
    assert x_max(statistics(x), "percentile", "fp8") == pytest.approx(1.0, rel=0.02)
    x[:3] = 100.0
    assert x_max(statistics(x), "percentile", "fp8") == 100.0


def test_absmax_is_the_largest_magnitude() -> None:
    assert x_max(statistics(np.array([1.0, -7.25, 3.0], np.float32)), "absmax", "int8-static") == 7.25


def quantize_int8(x: np.ndarray, range_: float) -> np.ndarray:
    return np.clip(np.rint(x / (range_ / 127.0)), -127, 127) * (range_ / 127.0)


def quantize_e4m3(x: np.ndarray, range_: float) -> np.ndarray:
    scaled = np.clip(x / (range_ / 448.0), -448.0, 448.0)
    return scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * (range_ / 448.0)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_e4m3])
@pytest.mark.parametrize("x", [NORMAL, UNIFORM, LAPLACE], ids=["normal", "uniform", "laplace"])
def test_mse_is_as_good_as_an_exhaustive_search(
    x: np.ndarray, quantize: Callable[[np.ndarray, float], np.ndarray]
) -> None:
    scheme = "int8-static" if quantize is quantize_int8 else "fp8"
    x = x[:100_000].astype(np.float64)
    found = statistics(x.astype(np.float32))

    def error(range_: float) -> float:
        return float(np.mean(np.square(quantize(x, range_) - x)))

    best = min(error(range_) for range_ in np.geomspace(found.absmax / 4.0, found.absmax, 120))
    assert error(x_max(found, "mse", scheme)) <= 1.01 * best


def test_mse_clips_outliers_for_int8_as_the_optimal_uniform_quantizer_does() -> None:
    def error(c: float) -> float:
        """Of a normal variable: step^2 / 12 inside, and twice the integral of (x - c)^2 from c on."""
        above, density = NormalDist().cdf(-c), NormalDist().pdf(c)
        return (c / 127.0) ** 2 / 12.0 + 2.0 * ((1.0 + c * c) * above - c * density)

    best = min(np.arange(2.0, 6.0, 0.01), key=error)  # 3.92
    assert x_max(statistics(NORMAL), "mse", "int8-static") == pytest.approx(best, rel=0.03)
    assert x_max(statistics(UNIFORM), "mse", "int8-static") == pytest.approx(3.0, rel=0.01)


def test_one_huge_outlier_is_clipped_only_where_that_pays() -> None:
    x = NORMAL.copy()
    x[0] = 20.0
    assert x_max(statistics(x), "mse", "int8-static") < 8.0
    assert x_max(statistics(x), "mse", "fp8") > 16.0  # the precision of E4M3 hardly depends on the range


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_every_calibrated_scheme_a_range(method: str) -> None:
    for scheme in [each.name for each in SCHEMES.values() if each.calibrated]:
        for x in (NORMAL[:1000], np.full(10, 1e12, np.float32), np.full(10, 1e-9, np.float32)):
            found = x_max(statistics(x), method, scheme)  # type: ignore[arg-type]
            assert LEAST_RANGE <= found <= max(float(np.abs(x).max()), LEAST_RANGE)


@pytest.mark.parametrize("method", METHODS)
def test_an_input_of_zeros_has_a_positive_range(method: str) -> None:
    assert x_max(statistics(np.zeros(16, np.float32)), method, "nvfp4") == LEAST_RANGE  # type: ignore[arg-type]


def test_what_has_no_range_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"expected one of absmax, percentile, mse; found 'entropy'"):
        x_max(statistics(NORMAL), "entropy", "fp8")  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match=r"scheme 'int8' has no static range; those that have: int8-static, fp8"):
        x_max(statistics(NORMAL), "mse", "int8")


@pytest.mark.parametrize(("absmax", "moment"), [(np.inf, 1.0), (np.nan, 1.0), (1.0, np.nan)])
def test_statistics_that_are_no_numbers_are_refused(absmax: float, moment: float) -> None:
    wrong = LayerStatistics(1, absmax, np.zeros(BINS, np.int64), np.array([moment]))
    with pytest.raises(CalibrationError, match=r"calibration of target\.lm_head: expected finite statistics"):
        Calibration({"target.lm_head": wrong}, (), 1)
