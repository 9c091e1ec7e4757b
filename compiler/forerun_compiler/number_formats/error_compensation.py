"""INT4 whose rounding errors make up for each other in the layer's output, for inputs like those of calibration.

Rounding to the nearest makes each number's error small. What counts is the output's, for all inputs x together
tr(D H D^T) with D = decoded - weight [N,K] and H [K,K] the mean of x x^T: channels of x are correlated, so the errors
of earlier columns of a row can be undone in part by how later ones are rounded. Every row is a problem of its own.

1. One column after the other, each to the nearest of what is best for it given the errors so far: Frantar et al., GPTQ
   (2023), section 3, from Hassibi and Stork, Optimal Brain Surgeon (1993). It is written here with H = R R^T, R upper
   triangular: the error is the sum over columns j of (R_jj e_j + sum_{i<j} R_ij e_i)^2, so column j aims at
   w_j + sum_{i<j} R_ij / R_jj e_i, with e = weight - decoded, and no inverse is needed.
2. Each group's scale is chosen where the group begins: every divisor is tried on the group's columns to their end, and
   each row takes the one with the smallest sum of those squares.
3. Sweeps of coordinate descent: a code changes where that lowers the error, all others as they are (Behdin et al.,
   QuantEase, 2023, algorithm 1). GPTQ never looks back at a column, this does.

A row whose error under H is not smaller so than that of rounding to the nearest keeps the nearest codes and scales.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import int4
from forerun_compiler.number_formats.checks import Array, checked, positive

DAMPING = 0.01
"""Of H's mean diagonal, added to it (GPTQ, section 3.3, step 2): text of fewer rows than channels leaves H singular."""
SWEEPS = 2
_ROWS = 2048
"""Rows of a weight at once: their transposed copies stay small beside H."""
_BLOCK = 32
"""Columns between two matrix products; within a block every column updates the later ones by itself."""


@dataclass(frozen=True)
class _Problem:
    """What all rows share, float32: `moment` [K,K] damped, `steps` [K,K] R_ij / R_jj and `shares` [K] R_jj^2."""

    moment: Array
    steps: Array
    shares: Array


def encode_compensated(weight: Array, moment: Array, group: int, where: str = "weight") -> int4.Int4Weight:
    """Encode a weight [N,K] in groups of `group` for inputs of the second moments `moment` [K,K], of any factor.

    No row has a larger error under `moment` than `int4.encode` gives it, but for the rounding of float32 sums. Inputs
    that were 0 throughout are rounded to the nearest.

    Raises:
        PassError: the weight is no matrix or not finite, or the moments are not finite or not [K,K]; `where` names it.
    """
    matrix = checked(weight, where)
    nearest = int4.encode(matrix, group, where)
    columns = matrix.shape[1]
    if moment.shape != (columns, columns) or not np.isfinite(moment).all():
        raise PassError(
            f"{where}: expected finite second moments [{columns}, {columns}] of its input, found "
            f"{'numbers that are not finite' if moment.shape == (columns, columns) else list(moment.shape)}; "
            "calibrate the layer again, or choose calibration.rounding: nearest"
        )
    problem = _problem(moment)
    if problem is None:
        return nearest
    codes, scale = nearest.rows().astype(np.float32), nearest.scale.astype(np.float32)
    for start in range(0, len(matrix), _ROWS):
        part = slice(start, start + _ROWS)
        ours = _encode(np.ascontiguousarray(matrix[part].T), problem, group)
        better = _errors(matrix[part], *ours, moment, group) < _errors(
            matrix[part], codes[part], scale[part], moment, group
        )
        for kept, found in zip((codes[part], scale[part]), ours, strict=True):
            kept[better] = found[better]
    padded = np.pad(codes, ((0, 0), (0, -columns % group))).reshape(len(codes), -1, group)
    return int4.Int4Weight(padded.astype(ml_dtypes.int4), scale.astype(ml_dtypes.bfloat16), columns)


def _problem(moment: Array) -> _Problem | None:
    """Damp H until it has a Cholesky factor; None where all inputs were 0."""
    wide = moment.astype(np.float64)
    mean = float(np.diagonal(wide).mean())
    if not mean > 0:
        return None
    wide /= mean
    damping = DAMPING
    while True:
        damped = wide + damping * np.eye(len(wide))
        try:
            # Of the reversed matrix, so that the factor's first column is the last to be rounded.
            upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
            break
        except np.linalg.LinAlgError:
            damping *= 10
    diagonal = np.diagonal(upper)
    return _Problem(
        damped.astype(np.float32), (upper / diagonal).astype(np.float32), np.square(diagonal).astype(np.float32)
    )


def _encode(weight: Array, problem: _Problem, group: int) -> tuple[Array, Array]:
    """Return codes [n,K] and scales [n,groups], both as float32, of rows that come as weight [K,n]."""
    codes, error = np.empty_like(weight), np.empty_like(weight)
    scales = np.empty((-(-len(weight) // group), weight.shape[1]), np.float32)
    for number, start in enumerate(range(0, len(weight), group)):
        part = slice(start, min(start + group, len(weight)))
        owed = problem.steps[:start, part].T @ error[:start]
        codes[part], scales[number] = _group(weight[part], owed, problem.steps[part, part], problem.shares[part])
        error[part] = weight[part] - codes[part] * scales[number]
    for _ in range(SWEEPS):
        _sweep(weight, codes, error, scales, problem.moment, group)
    return codes.T, scales.T


def _group(weight: Array, owed: Array, steps: Array, shares: Array) -> tuple[Array, Array]:
    """Return codes [g,n] and scales [n] of a group of columns, weight [g,n]: for each row those of its best divisor.

    `owed` [g,n] is what the errors of all earlier groups ask of each column, the sum over i of R_ij / R_jj e_i.
    """
    count, rows = len(int4.DIVISORS), weight.shape[1]
    aims = weight + owed
    largest = np.take_along_axis(aims, np.abs(aims).argmax(axis=0)[None], axis=0)[0]
    # All candidates side by side: [candidates * n].
    scale = np.concatenate(
        [positive((largest / np.float32(-divisor)).astype(ml_dtypes.bfloat16)) for divisor in int4.DIVISORS]
    )
    weight, aims = np.tile(weight, (1, count)), np.tile(aims, (1, count))
    codes, error = np.empty_like(aims), np.empty_like(aims)
    loss = np.zeros_like(scale)
    for start in range(0, len(aims), _BLOCK):
        end = min(start + _BLOCK, len(aims))
        aims[start:end] += steps[:start, start:end].T @ error[:start]
        for column in range(start, end):
            codes[column] = np.clip(np.rint(aims[column] / scale), int4.LOWEST, int4.HIGHEST)
            decoded = codes[column] * scale
            loss += shares[column] * np.square(aims[column] - decoded)
            error[column] = weight[column] - decoded
            aims[column + 1 : end] += steps[column, column + 1 : end, None] * error[column]
    best, row = loss.reshape(count, rows).argmin(axis=0), np.arange(rows)
    return codes.reshape(-1, count, rows)[:, best, row], scale.reshape(count, rows)[best, row]


def _sweep(weight: Array, codes: Array, error: Array, scales: Array, moment: Array, group: int) -> None:
    """Give each code of [K,n] in turn the best value, the others as they are; `codes` and `error` change in place."""
    diagonal = np.diagonal(moment)
    for start in range(0, len(weight), _BLOCK):
        end = min(start + _BLOCK, len(weight))  # a block lies in one group, whose size it divides
        scale = scales[start // group]
        gradient = moment[start:end] @ error
        for column in range(start, end):
            aim = weight[column] - error[column] + gradient[column - start] / diagonal[column]
            codes[column] = np.clip(np.rint(aim / scale), int4.LOWEST, int4.HIGHEST)
            changed = weight[column] - codes[column] * scale - error[column]
            error[column] += changed
            gradient[column - start + 1 :] += moment[column + 1 : end, column, None] * changed


def _errors(weight: Array, codes: Array, scale: Array, moment: Array, group: int) -> Array:
    """The error of each row [n] under the moments; codes [n,K] and scales [n,groups]."""
    difference = weight - codes * np.repeat(scale, group, axis=1)[:, : weight.shape[1]]
    errors: Array = np.einsum("nk,nk->n", difference @ moment, difference, dtype=np.float64)
    return errors
