"""The operators LinearInt4 and GatedLinearInt4 in numpy: int8 rows times an int4 weight, each group summed exactly.

The rows are quantized as LinearInt8's, and norm, addend and gate are the same. A group's sum is at most 127 * 8 * 128:
exact in an int32 as in a float32. All is bit for bit what the kernels compute, but for the sigmoid.
"""

from __future__ import annotations

import numpy as np

from forerun_compiler.number_formats.checks import Array
from forerun_compiler.number_formats.linear_int8 import Norm, add_rows, gate_values, normalize_rows, round_rows

LINEAR, GATED = "LinearInt4", "GatedLinearInt4"
"""Their names."""


def linear_int4(
    x: Array, codes: Array, scale: Array, group: int, norm: Norm | None = None, addend: Array | None = None
) -> Array:
    """Return y float32 [...,N] of x float32 [...,K], the weight's codes [N,K] and its scales bfloat16 [N,groups].

    A group are `group` inputs, the last may have fewer. The groups' sums are scaled and added in their order, each step
    rounded to float32 and none fused with the next; the result is multiplied by the row's scale.
    """
    rows, row_scale = round_rows(x if norm is None else normalize_rows(x, norm))
    rows, codes, scale = (each.astype(np.float32) for each in (rows, codes, scale))
    y = np.zeros((*rows.shape[:-1], len(codes)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, start in enumerate(range(0, rows.shape[-1], group)):
            part = slice(start, start + group)
            y = y + (rows[..., part] @ codes[:, part].T) * scale[:, number]
        y = y * row_scale
    return add_rows(y, addend)


def gated_linear_int4(x: Array, codes: Array, scale: Array, group: int, norm: Norm | None = None) -> Array:
    """Return y float32 [...,N/2]: the product's outputs are gates and values by turns; see `gate_values`."""
    return gate_values(linear_int4(x, codes, scale, group, norm))
