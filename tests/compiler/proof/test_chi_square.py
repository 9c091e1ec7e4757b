"""The chi-square test against closed forms, and on counts that are right and wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forerun_compiler.proof.chi_square import ChiSquare, goodness_of_fit, upper_gamma


@pytest.mark.parametrize("n", [1, 2, 5, 40])
@pytest.mark.parametrize("x", [0.01, 0.5, 1.0, 4.9, 40.0, 90.0])
def test_upper_gamma_of_whole_shapes(n: int, x: float) -> None:
    """Q(n, x) = exp(-x) * sum of x^i / i! for i < n (DLMF 8.4.10); relative tolerance 1e-10."""
    exact = math.exp(-x) * math.fsum(x**i / math.factorial(i) for i in range(n))
    assert upper_gamma(n, x) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("x", [0.001, 0.3, 1.0, 2.0, 30.0])
def test_upper_gamma_of_one_half(x: float) -> None:
    """Q(1/2, x) = erfc(sqrt(x)) (DLMF 8.4.6); relative tolerance 1e-10."""
    assert upper_gamma(0.5, x) == pytest.approx(math.erfc(math.sqrt(x)), rel=1e-10)


def test_a_known_quantile() -> None:
    """The 95 % quantile of 3 degrees of freedom is 7.814728 (any table); tolerance 1e-6."""
    assert ChiSquare(7.814728, 3).p == pytest.approx(0.05, abs=1e-6)


def test_by_hand() -> None:
    found = goodness_of_fit({0: 60, 1: 40}, np.array([0.5, 0.5]))
    assert found == ChiSquare(statistic=4.0, freedom=1, rare_p=1.0, rare_tests=1)
    assert found.p == pytest.approx(math.erfc(math.sqrt(2.0)), rel=1e-12)


def test_rare_outcomes_share_a_bin() -> None:
    probabilities = np.array([0.5, 0.44, 0.03, 0.03])
    found = goodness_of_fit({0: 50, 1: 44, 2: 6}, probabilities)
    assert (found.freedom, found.statistic) == (2, 0.0)


def test_an_impossible_outcome_is_found() -> None:
    """Five of a thousand samples where the probability is zero: nothing a chi-square bin would show."""
    probabilities = np.array([1.0, 0.0])
    assert goodness_of_fit({0: 1000}, probabilities).p == 1.0
    assert goodness_of_fit({0: 995, 1: 5}, probabilities).p == 0.0
    assert goodness_of_fit({0: 995, 1: 5}, np.array([1 - 1e-6, 1e-6])).p < 1e-9


def test_p_is_uniform_under_the_law_and_tiny_off_it() -> None:
    chance = np.random.default_rng(7)
    law = chance.dirichlet(np.full(60, 0.3))
    wrong = 0.8 * law + 0.2 * np.roll(law, 1)
    p_values = []
    for _ in range(300):
        counts = dict(enumerate(chance.multinomial(400, law).tolist()))
        p_values.append(goodness_of_fit(counts, law).p)
    assert 0.02 <= np.mean(np.array(p_values) < 0.1) <= 0.2
    assert min(p_values) > 1e-4
    counts = dict(enumerate(chance.multinomial(400, wrong).tolist()))
    assert goodness_of_fit(counts, law).p < 1e-4


def test_tests_add_up() -> None:
    both = ChiSquare(2.0, 3, 0.5, 1) + ChiSquare(1.0, 2, 0.25, 1)
    assert both == ChiSquare(3.0, 5, 0.25, 2)
