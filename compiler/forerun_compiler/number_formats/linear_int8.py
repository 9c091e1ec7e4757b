"""The operators LinearInt8 and GatedLinearInt8 in numpy: int8 rows times an int8 weight, summed exactly.

All is bit for bit what the kernels compute, but for the sigmoid. The same words as in
runtime/src/kernels/linear.h, whose kernels are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun_compiler.number_formats.checks import Array
from forerun_compiler.number_formats.packing import OUTPUTS

LINEAR, GATED = "LinearInt8", "GatedLinearInt8"
"""Their names."""
LARGEST = np.float32(127)
TINY = np.float32(2.0**-100)
"""A row whose largest magnitude is smaller counts as zero: 127 / that would come near to overflow."""
PARTS = 16
"""Of the sum of a row's squares, so that one vector register, or two or four smaller ones, hold them all."""


@dataclass(frozen=True)
class Norm:
    """An RMS norm of each row before it is rounded: `weight` float32 [K]."""

    weight: Array
    epsilon: float


def normalize_rows(x: Array, norm: Norm) -> Array:
    """Return each row of x float32 [...,K] over its root mean square, times the weight, float32 [...,K].

    Every step is rounded to float32, none is fused with the next. Square i is added to part i % 16, in the order of i;
    the parts are four vectors A0 to A3 of four: S = (A0 + A2) + (A1 + A3), total = (S0 + S2) + (S1 + S3).
    """
    x = np.asarray(x, np.float32)
    count = x.shape[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.zeros((*x.shape[:-1], -(-count // PARTS) * PARTS), np.float32)
        squares[..., :count] = x * x
        # An accumulation adds in order, unlike a sum.
        parts = np.add.accumulate(squares.reshape(*x.shape[:-1], -1, PARTS), axis=-2)[..., -1, :]
        a0, a1, a2, a3 = np.split(parts, 4, axis=-1)
        s0, s1, s2, s3 = np.split((a0 + a2) + (a1 + a3), 4, axis=-1)
        mean = ((s0 + s2) + (s1 + s3)) / np.float32(count)
        inverse = np.float32(1) / np.sqrt(mean + np.float32(norm.epsilon))
        normed: Array = (x * inverse) * norm.weight.astype(np.float32)
    return normed


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


def linear_int8(x: Array, codes: Array, scale: Array, norm: Norm | None = None, addend: Array | None = None) -> Array:
    """Return y float32 [...,N] of x float32 [...,K], the weight's codes int8 [N,K] and its scales float32 [N].

    `norm` is of the rows of x, `addend` float32, as many numbers as y or N of them, is added to the scaled sums.
    """
    rows, row_scale = round_rows(x if norm is None else normalize_rows(x, norm))
    # float64 holds every sum of these products exactly, in any order.
    sums = rows.astype(np.float64) @ codes.astype(np.float64).T
    y: Array = sums.astype(np.float32) * (row_scale * scale.astype(np.float32))
    return add_rows(y, addend)


def add_rows(y: Array, addend: Array | None) -> Array:
    """Return y [...,N] plus an addend of as many numbers, or of N; as it is where there is none."""
    return y if addend is None else y + addend.reshape(y.shape if addend.size == y.size else -1)


def gated_linear_int8(x: Array, codes: Array, scale: Array, norm: Norm | None = None) -> Array:
    """Return y float32 [...,N/2]: the product's outputs are gates and values by turns; see `gate_values`."""
    return gate_values(linear_int8(x, codes, scale, norm))


def gate_values(both: Array) -> Array:
    """Return gate * sigmoid(gate) * value, float32 [...,N/2], of gates and values by turns, 16 of each, [...,N].

    The sigmoid is that of float64; a kernel's may differ from it by 1e-6 of itself.
    """
    gate, value = np.moveaxis(both.reshape(*both.shape[:-1], -1, 2, OUTPUTS), -2, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        sigmoid = (1 / (1 + np.exp(-gate.astype(np.float64)))).astype(np.float32)
        y: Array = (gate * sigmoid * value).reshape(*both.shape[:-1], -1)
    return y


def alternate_halves(blocks: Array, gate_first: bool) -> Array:
    """Return [2n,...] with its halves by turns, a gate first: the order of outputs that the gated operator reads.

    `gate_first` says whether the gates are the first half of `blocks`.
    """
    halves = blocks.reshape(2, -1, *blocks.shape[1:])
    by_turns: Array = np.ascontiguousarray(np.swapaxes(halves if gate_first else halves[::-1], 0, 1))
    return by_turns.reshape(blocks.shape)
