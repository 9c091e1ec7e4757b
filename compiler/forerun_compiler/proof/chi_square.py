"""The chi-square test of counts against probabilities, without a statistics library."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LEAST_EXPECTED = 5.0


@dataclass(frozen=True)
class ChiSquare:
    """A statistic and its degrees of freedom, and the p-value of the outcomes too rare for it; tests add up."""

    statistic: float = 0.0
    freedom: int = 0
    rare_p: float = 1.0
    rare_tests: int = 0

    def __add__(self, other: ChiSquare) -> ChiSquare:
        return ChiSquare(
            self.statistic + other.statistic,
            self.freedom + other.freedom,
            min(self.rare_p, other.rare_p),
            self.rare_tests + other.rare_tests,
        )

    @property
    def p(self) -> float:
        """Probability of counts at least this far off if they follow the probabilities; 1 if nothing was tested.

        The smaller of the chi-square test's and that of the rare outcomes, the latter times the number of its tests.
        """
        common = upper_gamma(self.freedom / 2, self.statistic / 2) if self.freedom else 1.0
        return min(common, self.rare_p * self.rare_tests if self.rare_tests else 1.0)


def goodness_of_fit(counts: Mapping[int, int], probabilities: npt.NDArray[np.float64]) -> ChiSquare:
    """Compare counts by outcome with `probabilities` [V]; outcomes expected fewer than five times share one bin.

    Where that bin is expected fewer than five times as well, it joins the rarest other bin, and its own count is
    tested against a Poisson law: outcomes that hardly ever happen must not hide in a bin that nearly always does.
    """
    total = sum(counts.values())
    expected = probabilities * (total / float(probabilities.sum()))
    common = [int(index) for index in (expected >= LEAST_EXPECTED).nonzero()[0]]
    bins = [(float(counts.get(index, 0)), float(expected[index])) for index in common]
    rest = (total - sum(found for found, _ in bins), float(expected[expected < LEAST_EXPECTED].sum()))
    rare_p, rare_tests = 1.0, 0
    if rest[1] >= LEAST_EXPECTED or not bins:
        bins.append(rest)
    else:
        smallest = min(range(len(bins)), key=lambda index: bins[index][1])
        bins[smallest] = (bins[smallest][0] + rest[0], bins[smallest][1] + rest[1])
        # P(Poisson(mean) >= found) is the lower incomplete gamma function (DLMF 8.4.10).
        rare_p, rare_tests = (1 - upper_gamma(rest[0], rest[1]) if rest[0] else 1.0), 1
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in bins)
    return ChiSquare(statistic, len(bins) - 1, rare_p, rare_tests)


def upper_gamma(shape: float, x: float) -> float:
    """The regularized upper incomplete gamma function Q(shape, x), DLMF 8.2.4; relative error below 1e-10.

    Below shape + 1 the power series (DLMF 8.11.4), above it the continued fraction (DLMF 8.9.2, by Lentz's method).
    """
    if x <= 0:
        return 1.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        step = shape
        while term > total * 1e-16:
            step += 1
            term *= x / step
            total += term
        return max(0.0, 1 - total * scale)
    b = x + 1 - shape
    c, d = 1e300, 1 / b
    value = d
    for i in range(1, 100_000):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value * scale
