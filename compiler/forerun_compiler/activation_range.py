"""What calibration keeps of a layer's input x, and the range of |x| that a scheme with static scales quantizes.

|x| is counted in fixed bins, 64 in every octave from 2^-24 to 2^32: counts of several runs add up, one pass over the
text is enough, and equal activations give equal counts on any machine. A bin is the exponent and the first six bits of
the mantissa of a float32, so it is 0.8 to 1.6 % wide and no logarithm is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import ml_dtypes
import numpy as np
import numpy.typing as npt

from forerun_compiler.errors import CalibrationError
from forerun_compiler.schemes import RangeMethod

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

METHODS: tuple[RangeMethod, ...] = get_args(RangeMethod)
PERCENTILE = 99.99
"""Percent of the values that the method `percentile` keeps inside the range."""

_LOWEST, _OCTAVES, _BITS = -24, 56, 6
_MANTISSA, _BIAS = 23, 127
BINS = (_OCTAVES << _BITS) + 1
"""Bin 0 counts |x| < 2^-24, bin i the values EDGES[i-1] <= |x| < EDGES[i], the last one everything above as well."""

_STEPS = np.arange(1 << _BITS) / (1 << _BITS)
EDGES: Floats = np.append(
    np.concatenate([2.0**octave * (1.0 + _STEPS) for octave in range(_LOWEST, _LOWEST + _OCTAVES)]),
    2.0 ** (_LOWEST + _OCTAVES),
)
LEAST_RANGE = float(EDGES[0])
"""The range of a layer whose input was zero throughout: any positive one is right, and none is not a scale."""


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """What a layer read on the calibration text: `rows` rows x of K channels.

    `absmax` is the largest |x|; `histogram` int64 [BINS] counts |x|, see BINS; `second_moment` float64 [K] is the mean
    of x^2 over the rows.
    """

    rows: int
    absmax: float
    histogram: Counts
    second_moment: Floats


@dataclass(frozen=True, eq=False)
class Calibration:
    """Statistics by layer name, from `tokens` tokens of text, and the layers that no statistics could be had of.

    Those are `missing` that run token by token inside a branch of the graph. A layer that reads two inputs (a drafter's
    keys, of its context and of its block) has the statistics of both together.
    """

    layers: Mapping[str, LayerStatistics]
    missing: tuple[str, ...]
    tokens: int

    def __post_init__(self) -> None:
        """Refuse a range that is no number.

        Raises:
            CalibrationError: naming the layer.
        """
        for layer, found in self.layers.items():
            if not math.isfinite(found.absmax) or not np.isfinite(found.second_moment).all():
                raise CalibrationError(
                    f"calibration of {layer}: expected finite statistics of its input, found the largest |x| "
                    f"{found.absmax}; delete the cached calibration, or calibrate on other text"
                )


def count(x: Array) -> Counts:
    """The histogram int64 [BINS] of |x|; x is float32 of any shape, finite."""
    bits = np.ascontiguousarray(x, np.float32).reshape(-1).view(np.uint32) & np.uint32(0x7FFFFFFF)
    index = (bits >> np.uint32(_MANTISSA - _BITS)).astype(np.int64) - ((_BIAS + _LOWEST) << _BITS) + 1
    return np.bincount(np.clip(index, 0, BINS - 1), minlength=BINS).astype(np.int64)


def x_max(statistics: LayerStatistics, method: RangeMethod, scheme: str) -> float:
    """The range of |x| that `scheme` quantizes; larger values are clipped to it. Positive and at most `absmax`.

    `absmax` clips nothing; `percentile` clips the largest 0.01 % of the values; `mse` takes the range with the least
    mean squared error of quantizing the values of the histogram, see `_least_error`.

    Raises:
        CalibrationError: the method is unknown, or the scheme has no static range.
    """
    if method not in METHODS:
        raise CalibrationError(f"range method: expected one of {', '.join(METHODS)}; found {method!r}")
    if scheme not in _ROUNDINGS:
        raise CalibrationError(f"scheme {scheme!r} has no static range; those that have: {', '.join(_ROUNDINGS)}")
    if method == "absmax":
        found = statistics.absmax
    elif method == "percentile":
        found = percentile(statistics, PERCENTILE)
    else:
        found = _least_error(statistics, _ROUNDINGS[scheme])
    return max(min(found, statistics.absmax), LEAST_RANGE)


def percentile(statistics: LayerStatistics, percent: float) -> float:
    """The upper edge of the bin that `percent` of all |x|, zeros included, lie in or below: at most 1.6 % too high."""
    cumulated = np.cumsum(statistics.histogram)
    index = int(np.searchsorted(cumulated, percent / 100.0 * cumulated[-1]))
    return min(float(EDGES[min(index, BINS - 1)]), statistics.absmax)


Rounding = Callable[[Floats], Floats]
"""Values in [0, 1], the whole range being 1, to the nearest that a format holds, in the same unit."""


def _round_int8(values: Floats) -> Floats:
    return np.rint(values * 127.0) / 127.0


def _round_e4m3(values: Floats) -> Floats:
    return (values * 448.0).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) / 448.0


# What a static range decides in nvfp4 is how each block's scale, its largest |x| / 6, is rounded to E4M3; so the search
# takes every |x| as the largest of a block of its own. The E2M1 rounding within a block does not depend on the range.
_ROUNDINGS: Mapping[str, Rounding] = {"int8-static": _round_int8, "fp8": _round_e4m3, "nvfp4": _round_e4m3}

_POINTS = 4
"""Points of a bin at which the error is taken: int8's step is as wide as the top bins, one point would alias."""
_SEARCHED_OCTAVES = 8
_SEARCHES = 4096
"""Remembered ones: more than a large pair has layers."""


@lru_cache(maxsize=_SEARCHES)  # both graphs ask, and schemes that round alike
def _least_error(statistics: LayerStatistics, rounding: Rounding) -> float:
    """Try `absmax` and every bin edge down to absmax / 256; the largest of equally good ranges is taken.

    Minimises sum over |x| of (|x| - r * rounding(min(|x|, r) / r))^2, the values of a bin spread evenly over it. Steps
    of int8 grow with the range, so clipping a few outliers pays; the relative precision of E4M3 hardly depends on the
    range, so there the search finds little more than `absmax` (or that most values lie below E4M3's smallest steps).
    """
    points, weights = _points(statistics)
    best, least = statistics.absmax, math.inf
    lowest = statistics.absmax / 2.0**_SEARCHED_OCTAVES
    inside = EDGES[np.searchsorted(EDGES, lowest) : np.searchsorted(EDGES, statistics.absmax)]
    for candidate in (statistics.absmax, *inside[::-1].tolist()):
        if candidate <= 0.0:
            break
        rounded = rounding(np.minimum(points / candidate, 1.0)) * candidate
        error = float(np.dot(weights, np.square(points - rounded)))
        if error < least:
            best, least = candidate, error
    return best


def _points(statistics: LayerStatistics) -> tuple[Floats, Floats]:
    """Values that stand for the histogram, without those of bin 0, and how many x each stands for."""
    filled = np.flatnonzero(statistics.histogram[1:])
    low, high = EDGES[filled], np.minimum(EDGES[filled + 1], statistics.absmax)
    high[-1:] = statistics.absmax  # the last bin reaches beyond its edge
    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    points = low[:, None] + (high - low)[:, None] * shares
    weights = np.repeat(statistics.histogram[filled + 1] / _POINTS, _POINTS)
    return points.reshape(-1), weights
