"""INT4 whose rounding errors make up for each other in the layer's output, for inputs like those of calibration.

Rounding to the nearest makes each number's error small. What counts is the output's, for all inputs x together
tr(D H D^T) with D = decoded - weight [N,K] and H [K,K] the mean of x x^T: channels of x are correlated, so the errors
of earlier columns of a row can be undone in part by how later ones are rounded. Every row is a problem of its own.

1. Within a group the columns with the largest inputs come first, while few errors are owed: GPTQ's activation order
   (its `act-order`), kept within groups so that their scales stay where they are.
2. One column after the other, each to the nearest of what is best for it given the errors so far: Frantar et al., GPTQ
   (2023), section 3, from Hassibi and Stork, Optimal Brain Surgeon (1993). It is written here with H = R R^T, R upper
   triangular: the error is the sum over columns j of (R_jj e_j + sum_{i<j} R_ij e_i)^2, so column j aims at
   w_j + sum_{i<j} R_ij / R_jj e_i, with e = weight - decoded, and no inverse is needed.
3. Each group's scale is chosen where the group begins: every divisor is tried on the group's columns to their end, and
   each row takes the one with the smallest sum of those squares.
4. Sweeps of coordinate descent: a group's scale becomes the best for its codes (least squares), then a code changes
   where that lowers the error, all others as they are (Behdin et al., QuantEase, 2023, algorithm 1). GPTQ never looks
   back at a column, this does.

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
    order = _order(moment, group)
    matrix, moment = matrix[:, order], moment[np.ix_(order, order)]
    problem = _problem(moment)
    if problem is None:
        return nearest
    codes, scale = nearest.rows().astype(np.float32)[:, order], nearest.scale.astype(np.float32)
    for start in range(0, len(matrix), _ROWS):
        part = slice(start, start + _ROWS)
        ours = _encode(np.ascontiguousarray(matrix[part].T), problem, group)
        better = _errors(matrix[part], *ours, moment, group) < _errors(
            matrix[part], codes[part], scale[part], moment, group
        )
        for kept, found in zip((codes[part], scale[part]), ours, strict=True):
            kept[better] = found[better]
    codes[:, order] = codes.copy()
    padded = np.pad(codes, ((0, 0), (0, -columns % group))).reshape(len(codes), -1, group)
    return int4.Int4Weight(padded.astype(ml_dtypes.int4), scale.astype(ml_dtypes.bfloat16), columns)


def _order(moment: Array, group: int) -> Array:
    """The columns, those of each group by falling mean squares of their inputs."""
    squares = np.diagonal(moment)
    groups = range(0, len(squares), group)
    return np.concatenate([start + np.argsort(-squares[start : start + group], kind="stable") for start in groups])


def _problem(moment: Array) -> _Problem | None:
    """Damp H until it has a Cholesky factor; None where all inputs were 0."""
    mean = float(np.diagonal(moment).mean(dtype=np.float64))
    if not mean > 0:
        return None
    # Reversed, so that the factor's first column is the last to be rounded.
    wide = moment[::-1, ::-1].astype(np.float64)
    wide /= mean
    diagonal = np.einsum("kk->k", wide)  # a view
    undamped, damping = diagonal.copy(), DAMPING
    while True:
        diagonal[:] = undamped + damping
        try:
            upper = np.linalg.cholesky(wide)[::-1, ::-1].astype(np.float32)
            break
        except np.linalg.LinAlgError:
            damping *= 10
    damped = wide[::-1, ::-1].astype(np.float32)
    shares = np.diagonal(upper).copy()
    upper /= shares
    return _Problem(damped, upper, np.square(shares))


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
    """Give each scale, then each code of its group in turn, the best value, all others as they are.

    `codes` and `error` [K,n] and `scales` [groups,n] change in place.
    """
    diagonal = np.diagonal(moment)
    for number, first in enumerate(range(0, len(weight), group)):
        part = slice(first, min(first + group, len(weight)))
        gradient = moment[part] @ error
        _fit_scale(codes[part], error[part], scales[number], gradient, moment[part, part])
        scale = scales[number]
        for start in range(part.start, part.stop, _BLOCK):
            end = min(start + _BLOCK, part.stop)
            changes = error[start:end].copy()
            for column in range(start, end):
                slope = gradient[column - first]
                aim = weight[column] - error[column] + slope / diagonal[column]
                codes[column] = np.clip(np.rint(aim / scale), int4.LOWEST, int4.HIGHEST)
                changed = weight[column] - codes[column] * scale - error[column]
                error[column] += changed
                gradient[column - first + 1 : end - first] += moment[column + 1 : end, column, None] * changed
            changes = error[start:end] - changes
            gradient[end - first :] += moment[end : part.stop, start:end] @ changes


def _fit_scale(codes: Array, error: Array, scale: Array, gradient: Array, moment: Array) -> None:
    """Move the scales [n] of one group to the least error for its codes [g,n]; `error` and `gradient` [g,n] follow."""
    pull = moment @ codes
    above, below = np.einsum("gn,gn->n", codes, gradient), np.einsum("gn,gn->n", codes, pull)
    # Without codes, or with inputs of 0 throughout, any scale is as good.
    best = scale + np.divide(above, below, out=np.zeros_like(scale), where=below > 0)
    best = best.astype(ml_dtypes.bfloat16).astype(np.float32)
    change = np.where(np.isfinite(best) & (best != 0), best, scale) - scale
    scale += change
    error -= codes * change
    gradient -= pull * change


def _errors(weight: Array, codes: Array, scale: Array, moment: Array, group: int) -> Array:
    """The error of each row [n] under the moments; codes [n,K] and scales [n,groups]."""
    difference = weight - codes * np.repeat(scale, group, axis=1)[:, : weight.shape[1]]
    errors: Array = np.einsum("nk,nk->n", difference @ moment, difference, dtype=np.float64)
    return errors
