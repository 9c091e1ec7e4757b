"""A weight as codes of one byte with one float32 scale per output channel: INT8 and E4M3 differ in their codes only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forerun_compiler.number_formats.checks import Array


@dataclass(frozen=True)
class ScaledRows:
    """`codes` int8 or float8_e4m3fn [N,K], `scale` float32 [N,1]."""

    codes: Array
    scale: Array

    def decode(self) -> Array:
        """Return the weight that the codes stand for, float32 [N,K]."""
        decoded: Array = self.codes.astype(np.float32) * self.scale
        return decoded

    @property
    def nbytes(self) -> int:
        """Return the bytes of codes and scales."""
        return stored_bytes(*self.codes.shape)


def stored_bytes(n: int, k: int) -> int:
    """Return the bytes of an encoded weight [n,k]."""
    return n * k + 4 * n
