"""What the encoders share: refusing what is no weight, scales that are not 0, and weights in slices of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from forerun_compiler.errors import PassError

Array = npt.NDArray[Any]

SLICE = 1 << 20
"""Numbers of a weight that are encoded at once: what that needs beside the weight stays in the cache."""


def checked(weight: Array, where: str) -> Array:
    """Return the weight as float32 [N,K]; `where` names it in the refusal.

    Raises:
        PassError: it is no matrix, or holds an infinity or NaN, with the first place of one.
    """
    matrix: Array = np.asarray(weight, np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise PassError(f"{where}: a quantized weight must be a matrix [N,K]; found the shape {list(matrix.shape)}")
    finite = np.isfinite(matrix)
    if not finite.all():
        row, column = np.unravel_index(int(np.argmin(finite)), matrix.shape)
        raise PassError(
            f"{where}: the weight holds {matrix.size - int(finite.sum())} numbers that are not finite, the first is "
            f"{matrix[row, column]} at [{row}, {column}]: a scale cannot be chosen for it. Look for a damaged "
            "checkpoint, or one stored in a type that it overflows"
        )
    return matrix


def positive(scale: Array) -> Array:
    """Return float32 scales with 1 in the place of 0.

    A scale is 0 where all its numbers are, or are so small that their largest divided by the codes' range underflows;
    with 1 they become codes of 0, and decode to exactly 0.
    """
    found: Array = np.where(scale == 0, np.float32(1), scale).astype(np.float32)
    return found


def by_slices(matrix: Array, encode: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, Array]:
    """Return codes and scales of a matrix [N,K] whose rows are encoded apart, slice by slice."""
    codes, scale = zip(*(encode(part) for part in in_slices(matrix)), strict=True)
    return np.concatenate(codes), np.concatenate(scale)


def in_slices(matrix: Array) -> Iterator[Array]:
    """Yield a matrix [N,K] in slices of whole rows."""
    rows = max(1, SLICE // matrix.shape[1])
    for start in range(0, len(matrix), rows):
        yield matrix[start : start + rows]
