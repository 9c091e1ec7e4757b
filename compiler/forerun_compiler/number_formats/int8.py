"""INT8, symmetric: one float32 scale per output channel of a weight, or per row of activations.

A number is `code * scale`, codes in [-127, 127]. Without -128 the range is symmetric: the code of -x is the negated
code of x, and the sum of two products fits in 16 bits.
"""

from __future__ import annotations

import numpy as np

from forerun_compiler.number_formats.checks import Array, by_slices, checked, positive
from forerun_compiler.number_formats.scaled_rows import ScaledRows

LARGEST = np.float32(127)


def encode(weight: Array, where: str = "weight") -> ScaledRows:
    """Encode a weight [N,K] row by row; an all-zero row gets the scale 1.

    Raises:
        PassError: the weight is no matrix or not finite; `where` names it.
    """
    return ScaledRows(*by_slices(checked(weight, where), round_rows))


def round_rows(x: Array) -> tuple[Array, Array]:
    """Return codes int8 [...,K] and scales float32 [...,1] of finite x [...,K], each row for itself.

    scale = max|row| / 127 (1 where that is 0), code = round(x / scale), halves to even, all in float32.
    """
    scale = positive(np.abs(x).max(axis=-1, keepdims=True).astype(np.float32) / LARGEST)
    return round_to(x, scale), scale


def round_to(x: Array, scale: Array | np.float32) -> Array:
    """Return the codes int8 of x by given scales, float32 that broadcast to x; what is out of range saturates."""
    codes: Array = np.clip(np.rint(x / scale), -LARGEST, LARGEST).astype(np.int8)
    return codes
