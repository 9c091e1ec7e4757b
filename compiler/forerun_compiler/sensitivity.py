"""How much a layer's output changes when its weight is quantized, without running the model again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from forerun_compiler.errors import CalibrationError

_ROWS = 512
"""Weight rows of one step: the float64 copies of a step stay small beside the weight."""


@dataclass(frozen=True)
class Sensitivity:
    """A relative root mean square error: of the layer's `output` on the calibration text, or else of the `weight`."""

    error: float
    of: Literal["output", "weight"]


def sensitivity(
    weight: npt.NDArray[Any], decoded: npt.NDArray[Any], second_moment: npt.NDArray[np.float64] | None
) -> Sensitivity:
    """The relative error that `decoded` [N,K], a weight after quantization, makes in place of `weight` [N,K].

    With D = decoded - weight, the output's error is E|D x|^2 = sum over n, k, l of D[n,k] D[n,l] E[x_k x_l]. Of the
    moments E[x_k x_l] calibration keeps those with k = l (`second_moment` [K]), which gives

        sqrt(sum_k m_k sum_n D[n,k]^2 / sum_k m_k sum_n W[n,k]^2).

    That is exact when the channels of x are uncorrelated with mean zero, and else an estimate; the errors of rounding
    have random signs, so what is left out averages out in the numerator. Without second moments (None) every m_k is 1:
    the relative error of the weight. A weight of zeros has the error 0, or infinity if `decoded` differs.

    Raises:
        CalibrationError: shapes that do not match, or a value that is not finite.
    """
    n, k = weight.shape
    if decoded.shape != (n, k) or (second_moment is not None and second_moment.shape != (k,)):
        found = None if second_moment is None else second_moment.shape
        raise CalibrationError(
            f"sensitivity: expected a decoded weight {(n, k)} and second moments {(k,)}, "
            f"found {decoded.shape} and {found}"
        )
    changed, whole = np.zeros(k), np.zeros(k)
    for start in range(0, n, _ROWS):
        rows = weight[start : start + _ROWS].astype(np.float64)
        whole += np.square(rows).sum(axis=0)
        changed += np.square(decoded[start : start + _ROWS].astype(np.float64) - rows).sum(axis=0)
    moment = np.ones(k) if second_moment is None else second_moment
    above, below = float(moment @ changed), float(moment @ whole)
    if not math.isfinite(above) or not math.isfinite(below):
        raise CalibrationError("sensitivity: expected finite weights and second moments, found inf or nan")
    of: Literal["output", "weight"] = "weight" if second_moment is None else "output"
    if below == 0.0:
        return Sensitivity(0.0 if above == 0.0 else math.inf, of)
    return Sensitivity(math.sqrt(above / below), of)


def output_error(weight: npt.NDArray[Any], decoded: npt.NDArray[Any], moment: npt.NDArray[Any]) -> float:
    """The relative error of the output of `decoded` [N,K] in place of `weight` for all second moments `moment` [K,K].

    That is sqrt(tr(D H D^T) / tr(W H W^T)), nothing left out: where the errors of a row were chosen to make up for each
    other their signs are not random, and the estimate of `sensitivity` would be far too large.
    """
    above = below = 0.0
    for start in range(0, len(weight), _ROWS):
        rows = weight[start : start + _ROWS]
        changed = decoded[start : start + _ROWS] - rows
        above += float(np.einsum("nk,nk->", changed @ moment, changed, dtype=np.float64))
        below += float(np.einsum("nk,nk->", rows @ moment, rows, dtype=np.float64))
    # A sum of squares that rounding may leave a little below 0.
    return math.sqrt(max(above, 0.0) / below) if below > 0.0 else 0.0
