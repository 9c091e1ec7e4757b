"""NVFP4: E2M1 numbers (0, 0.5, 1, 1.5, 2, 3, 4, 6) in blocks of 16, an E4M3 scale a block, one float32 global scale.

A number is `code * (block_scale * global_scale)`. The global scale brings the largest block scale to 448, the top of
E4M3. Codes are made with the block scale as it is stored, after its rounding to E4M3: with the exact one every code
would be off by up to 6 % (2^-4), and the largest of a block could fall out of range.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import float8
from forerun_compiler.number_formats.checks import Array, checked, positive

BLOCK = 16
LARGEST = np.float32(6)


@dataclass(frozen=True)
class Nvfp4Weight:
    """`codes` float4_e2m1fn [N,K], `block_scale` float8_e4m3fn [N,K/16], `global_scale` float32 (a scalar)."""

    codes: Array
    block_scale: Array
    global_scale: np.float32

    def scale(self) -> Array:
        """Return what a block's codes are multiplied with: float32 [N,K/16]."""
        scale: Array = self.block_scale.astype(np.float32) * self.global_scale
        return scale

    def decode(self) -> Array:
        """Return the weight that the codes stand for, float32 [N,K]."""
        decoded: Array = self.codes.astype(np.float32) * np.repeat(self.scale(), BLOCK, axis=1)
        return decoded

    @property
    def nbytes(self) -> int:
        """Return the bytes of codes (two in a byte) and scales."""
        return stored_bytes(*self.codes.shape)


def encode(weight: Array, where: str = "weight") -> Nvfp4Weight:
    """Encode a weight [N,K] with the global scale max|w| / (6 * 448).

    Raises:
        PassError: the weight is no matrix, not finite, or K is no multiple of 16; `where` names it.
    """
    matrix = checked(weight, where)
    if matrix.shape[1] % BLOCK:
        raise PassError(
            f"{where}: NVFP4 needs an input width that is a multiple of {BLOCK}; found the weight "
            f"{list(matrix.shape)}. Give this layer another scheme in precision.overrides"
        )
    scale = global_scale(float(np.abs(matrix).max()))
    codes, block_scale = round_blocks(matrix, scale)
    return Nvfp4Weight(codes, block_scale, scale)


def global_scale(largest: float) -> np.float32:
    """Return the global scale for numbers up to `largest`: the largest block scale becomes 448."""
    return np.float32(positive(np.asarray(largest, np.float32) / (LARGEST * float8.LARGEST)))


def round_blocks(x: Array, scale: np.float32) -> tuple[Array, Array]:
    """Return codes float4_e2m1fn [...,K] and block scales float8_e4m3fn [...,K/16] of x by a given global scale.

    The block scale is max|block| / 6 / scale in E4M3, at least its smallest number 2^-9: so no block divides by zero,
    an all-zero one has codes of 0, and a tiny one is rounded by a step that is too large rather than lost.
    """
    blocks = x.reshape(*x.shape[:-1], -1, BLOCK)
    exact = np.abs(blocks).max(axis=-1, keepdims=True).astype(np.float32) / LARGEST / scale
    block_scale = float8.saturating_cast(np.maximum(exact, float8.SMALLEST))
    codes = saturating_cast(blocks / (block_scale.astype(np.float32) * scale))
    return codes.reshape(x.shape), block_scale[..., 0]


def saturating_cast(x: Array) -> Array:
    """Return float32 numbers as float4_e2m1fn, ties to even, beyond 6 saturated."""
    cast: Array = np.clip(x, -LARGEST, LARGEST).astype(ml_dtypes.float4_e2m1fn)
    return cast


def round_to(x: Array, scale: np.float32) -> Array:
    """Return x [...,K] rounded to NVFP4 by a given global scale, float32: what a dynamic activation becomes."""
    codes, block_scale = round_blocks(x, scale)
    rounded: Array = codes.astype(np.float32) * np.repeat(block_scale.astype(np.float32) * scale, BLOCK, axis=-1)
    return rounded


def stored_bytes(n: int, k: int) -> int:
    """Return the bytes of an encoded weight [n,k], k a multiple of 16."""
    return n * k // 2 + n * k // BLOCK + 4
