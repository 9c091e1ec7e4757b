"""forerun::Linear at fp8 becomes one at float32 that computes with the same numbers, for engines without FP8.

The weight is encoded and decoded here; the activations are rounded by Q/DQ in E4M3, which ONNX Runtime's CPU provider
does bit for bit as the format says.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.number_formats import float8
from forerun_compiler.passes.quantize_fp8 import SCHEME, rounded_activations
from forerun_compiler.passes.quantized_weights import weights_of


def emulate_fp8(model: ir.Model) -> int:
    """Rewrite every Linear of the scheme fp8; return how many there were.

    Raises:
        PassError: a weight is not finite or not a constant, or a layer was not calibrated.
    """
    count = 0
    for weight in weights_of(model, SCHEME):
        decoded = weight.store(f"{SCHEME}.decoded", float8.encode(weight.array, weight.where).decode())
        for product in weight.products:
            product.compute_dense(rounded_activations(product), decoded)
            count += 1
    return count
