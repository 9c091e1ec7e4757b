"""The operator LinearInt8 in numpy, bit for bit: int8 rows times an int8 weight, summed exactly.

The same words as in runtime/src/kernels/linear_int8.h, whose kernels are tested against it.
"""

from __future__ import annotations

import numpy as np

from forerun_compiler.number_formats.checks import Array

LARGEST = np.float32(127)
TINY = np.float32(2.0**-100)
"""A row whose largest magnitude is smaller counts as zero: 127 / that would come near to overflow."""


def round_rows(x: Array) -> tuple[Array, Array]:
    """Return codes int8 [...,K] and scales float32 [...,1] of x float32 [...,K], each row for itself.

    scale = max|row| / 127, code = row * (127 / max|row|) to the nearest, halves to even, all in float32: one division
    a row and none a number. A row of zeros has the scale 0; one that holds a NaN or an infinity has the scale NaN and
    codes of 0, so that all its outputs are NaN.
    """
    x = np.asarray(x, np.float32)
    peak = np.abs(x).max(axis=-1, keepdims=True)
    finite, counted = np.isfinite(peak), np.isfinite(peak) & (peak >= TINY)
    safe = np.where(counted, peak, np.float32(1))
    codes = np.where(counted, np.rint(np.where(counted, x, np.float32(0)) * (LARGEST / safe)), np.float32(0))
    scale = np.where(counted, safe / LARGEST, np.where(finite, np.float32(0), np.float32(np.nan)))
    return codes.astype(np.int8), scale.astype(np.float32)


def linear_int8(x: Array, codes: Array, scale: Array) -> Array:
    """Return y float32 [...,N] of x float32 [...,K], the weight's codes int8 [N,K] and its scales float32 [N]."""
    rows, row_scale = round_rows(x)
    # float64 holds every sum of these products exactly, in any order.
    sums = rows.astype(np.float64) @ codes.astype(np.float64).T
    y: Array = sums.astype(np.float32) * (row_scale * scale.astype(np.float32))
    return y
