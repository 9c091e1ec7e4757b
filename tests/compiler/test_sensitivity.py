"""The estimate against outputs that are computed, on inputs with independent channels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forerun_compiler.errors import CalibrationError
from forerun_compiler.sensitivity import Sensitivity, output_error, sensitivity

RNG = np.random.default_rng(3)
N, K, ROWS = 700, 48, 20_000  # more weight rows than one step takes


def rounded(weight: np.ndarray) -> np.ndarray:
    """A coarse uniform quantizer."""
    step = np.abs(weight).max(axis=1, keepdims=True) / 7.0
    return (np.rint(weight / step) * step).astype(np.float32)


def test_it_is_the_error_of_the_output_when_channels_are_independent() -> None:
    spread = 10.0 ** RNG.uniform(-2.0, 1.0, K)
    weight = (RNG.standard_normal((N, K)) / spread).astype(np.float32)  # loud channels have small weights
    x = RNG.standard_normal((ROWS, K)) * spread
    decoded = rounded(weight)
    direct = math.sqrt(np.square(x @ (decoded - weight).T).sum() / np.square(x @ weight.T).sum())
    found = sensitivity(weight, decoded, np.square(x).mean(axis=0))
    assert found.of == "output"
    # Left out: products of different channels, which average out as 1 / sqrt(rows).
    assert found.error == pytest.approx(direct, rel=0.01)
    assert found.error != pytest.approx(sensitivity(weight, decoded, None).error, rel=0.01)


def test_without_second_moments_it_is_the_error_of_the_weight() -> None:
    weight = RNG.standard_normal((N, K)).astype(np.float32)
    decoded = rounded(weight)
    expected = np.linalg.norm(decoded.astype(float) - weight) / np.linalg.norm(weight.astype(float))
    found = sensitivity(weight, decoded, None)
    assert found.of == "weight"
    assert found.error == pytest.approx(expected, rel=1e-6)


def test_a_channel_that_is_always_zero_does_not_count() -> None:
    weight = np.ones((2, 2), np.float32)
    decoded = np.array([[1.0, 9.0], [1.0, -9.0]], np.float32)
    assert sensitivity(weight, decoded, np.array([1.0, 0.0])) == Sensitivity(0.0, "output")


def test_a_weight_of_zeros() -> None:
    zeros = np.zeros((2, 2), np.float32)
    assert sensitivity(zeros, zeros, None) == Sensitivity(0.0, "weight")
    assert sensitivity(zeros, zeros + 1.0, None).error == math.inf


def test_wrong_shapes_and_values_are_refused() -> None:
    weight = np.ones((2, 3), np.float32)
    with pytest.raises(CalibrationError, match=r"expected a decoded weight \(2, 3\) and second moments \(3,\), found"):
        sensitivity(weight, weight.T, None)
    with pytest.raises(CalibrationError, match=r"found \(2, 3\) and \(2,\)"):
        sensitivity(weight, weight, np.ones(2))
    with pytest.raises(CalibrationError, match=r"expected finite weights and second moments, found inf or nan"):
        sensitivity(weight, weight * np.float32(np.nan), None)


def test_with_all_moments_it_is_the_error_of_the_output_whatever_the_inputs() -> None:
    weight = RNG.standard_normal((N, K)).astype(np.float32)
    x = RNG.standard_normal((200, 9)) @ RNG.standard_normal((9, K))
    decoded = rounded(weight)
    direct = math.sqrt(np.square(x @ (decoded - weight).T).sum() / np.square(x @ weight.T).sum())
    assert output_error(weight, decoded, (x.T @ x).astype(np.float32)) == pytest.approx(direct, rel=1e-4)
    assert output_error(weight, weight, np.eye(K, dtype=np.float32)) == 0.0
    assert output_error(weight, decoded, np.zeros((K, K), np.float32)) == 0.0
