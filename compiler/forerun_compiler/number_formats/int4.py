"""INT4, symmetric: blocks of 32 or 128 numbers along K, each with one float32 scale; codes in [-8, 7].

Two's complement has one code more below zero than above. So a scale carries the sign that brings the largest number of
its block to the side of -8: scale = that number / -d. Of d = 8, 8.5 and 9 each block takes the one with the smallest
squared error (beyond 8 the largest number saturates and all others get a finer step). Relative root mean square
error on the demo's linear layers in blocks of 32 and 128: max|w|/7 9.8 % and 11.9 %, d = 8 8.7 % and 10.5 %, the best
of the three 8.4 % and 9.9 %; more candidates gain less than 0.2 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from forerun_compiler.number_formats.checks import Array, by_slices, checked, positive

LOWEST, HIGHEST = -8, 7
DIVISORS = (8.0, 8.5, 9.0)


@dataclass(frozen=True)
class Int4Weight:
    """`codes` int4 [N,blocks,block], the last block padded with codes of 0; `scale` float32 [N,blocks]; K `columns`."""

    codes: Array
    scale: Array
    columns: int

    def decode(self) -> Array:
        """Return the weight that the codes stand for, float32 [N,K]."""
        numbers = self.codes.astype(np.float32) * self.scale[..., None]
        decoded: Array = numbers.reshape(len(numbers), -1)[:, : self.columns]
        return decoded

    @property
    def nbytes(self) -> int:
        """Return the bytes of codes (two in a byte) and scales."""
        return stored_bytes(len(self.codes), self.columns, self.codes.shape[2])


def encode(weight: Array, block: int, where: str = "weight") -> Int4Weight:
    """Encode a weight [N,K] in blocks of `block`; where K is no multiple of it the last block is padded with zeros.

    Raises:
        PassError: the weight is no matrix or not finite; `where` names it.
    """
    matrix = checked(weight, where)
    columns = matrix.shape[1]
    padding = ((0, 0), (0, -columns % block))
    return Int4Weight(*by_slices(matrix, lambda part: _encode(np.pad(part, padding), block)), columns)


def _encode(matrix: Array, block: int) -> tuple[Array, Array]:
    """Return codes int4 [N,blocks,block] and scales float32 [N,blocks] of full blocks."""
    blocks = matrix.reshape(len(matrix), -1, block)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    best, least = _candidate(blocks, largest, DIVISORS[0])
    for divisor in DIVISORS[1:]:
        scale, error = _candidate(blocks, largest, divisor)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return _round(blocks, best).astype(ml_dtypes.int4), best[..., 0]


def _candidate(blocks: Array, largest: Array, divisor: float) -> tuple[Array, Array]:
    """Return the scales float32 [N,blocks,1] of one divisor and the squared error of each block by them."""
    scale = positive(largest / np.float32(-divisor))
    # The error as a share of the largest number: its square neither overflows nor underflows.
    error = (blocks - _round(blocks, scale) * scale) / positive(largest)
    return scale, np.einsum("nbk,nbk->nb", error, error)[..., None]


def _round(blocks: Array, scale: Array) -> Array:
    codes: Array = np.clip(np.rint(blocks / scale), LOWEST, HIGHEST)
    return codes


def stored_bytes(n: int, k: int, block: int) -> int:
    """Return the bytes of an encoded weight [n,k], the padding of its last block included."""
    blocks = -(-k // block)
    return n * blocks * (block // 2 + 4)
