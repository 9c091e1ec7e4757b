"""FP8 E4M3 (the "fn" kind: finite, no infinities, largest 448), one float32 scale per output channel or tensor.

Casts saturate to 448, as ONNX QuantizeLinear does by default; ml_dtypes alone would give NaN from 464 on. Ties go to
the even code, and subnormals (steps of 2^-9) are kept.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from forerun_compiler.number_formats.checks import Array, by_slices, checked, positive
from forerun_compiler.number_formats.scaled_rows import ScaledRows

LARGEST = np.float32(448)
SMALLEST = np.float32(2**-9)
"""The smallest positive number, a subnormal."""


def encode(weight: Array, where: str = "weight") -> ScaledRows:
    """Encode a weight [N,K] row by row with scale = max|row| / 448; an all-zero row gets the scale 1.

    Raises:
        PassError: the weight is no matrix or not finite; `where` names it.
    """
    return ScaledRows(*by_slices(checked(weight, where), _encode))


def _encode(matrix: Array) -> tuple[Array, Array]:
    scale = positive(np.abs(matrix).max(axis=-1, keepdims=True) / LARGEST)
    return saturating_cast(matrix / scale), scale


def saturating_cast(x: Array) -> Array:
    """Return finite float32 numbers as float8_e4m3fn, ties to even, beyond 448 saturated."""
    cast: Array = np.clip(x, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return cast


def round_to(x: Array, scale: np.float32) -> Array:
    """Return x rounded to E4M3 by one given scale, float32 of x's shape: what a static activation becomes."""
    rounded: Array = saturating_cast(x / scale).astype(np.float32) * scale
    return rounded
