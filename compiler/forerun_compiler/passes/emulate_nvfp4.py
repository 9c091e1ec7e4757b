"""forerun::Linear at nvfp4 or nvfp4-weight-only becomes one at float32 with the same numbers, for engines without FP4.

The weight is encoded and decoded here. Activations are rounded to E4M3 block scales by Q/DQ, and to E2M1 by arithmetic:
its steps are 0.5 below 2, 1 from 2 to 4, 2 from 4 to 6, and Round takes a tie to the even multiple of the step, which
is E2M1's even code.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.number_formats import nvfp4
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.quantize_nvfp4 import SCHEME, WEIGHT_ONLY, activation_scale, rounded_block_scales
from forerun_compiler.passes.quantized_weights import Product, weights_of


def emulate_nvfp4(model: ir.Model) -> int:
    """Rewrite every Linear of the nvfp4 schemes; return how many there were.

    Raises:
        PassError: a weight is not finite, not a constant or has a K that is no multiple of 16, or a layer was not
            calibrated.
    """
    count = 0
    for scheme in (SCHEME, WEIGHT_ONLY):
        for weight in weights_of(model, scheme):
            decoded = weight.store(f"{scheme}.decoded", nvfp4.encode(weight.array, weight.where).decode())
            for product in weight.products:
                x = product.x if scheme == WEIGHT_ONLY else _rounded(product, activation_scale(product))
                product.compute_dense(x, decoded)
                count += 1
    return count


def _rounded(product: Product, scale: np.float32) -> ir.Value:
    """Emit `nvfp4.round_to` of a product's input [...,K] by its global scale."""
    emit, x = product.emit, product.x
    blocks = emit("Reshape", x, emit.constant([-1, nvfp4.BLOCK]))
    block_scale = rounded_block_scales(product, blocks, scale, keepdims=1)
    rounded = emit("Mul", _to_e2m1(emit, emit("Div", blocks, block_scale)), block_scale)
    return emit("Reshape", rounded, emit("Shape", x))


def _to_e2m1(emit: Emitter, x: ir.Value) -> ir.Value:
    """Emit the nearest E2M1 number of float32 x, ties to the even code, beyond 6 saturated."""

    def number(value: float) -> ir.Value:
        return emit.constant(value, np.float32)

    x = emit("Clip", x, number(-6), number(6))
    size = emit("Abs", x)
    coarse = emit("Where", emit("Less", size, number(4)), number(1), number(2))
    step = emit("Where", emit("Less", size, number(2)), number(0.5), coarse)
    return emit("Mul", emit("Round", emit("Div", x, step)), step)
