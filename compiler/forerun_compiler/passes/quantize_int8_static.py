"""forerun::Linear at int8-static becomes a product of two Q/DQ pairs in INT8.

Activations have one static scale, x_max / 127; weights one for each output channel. TensorRT makes an INT8 GEMM of it
and ONNX Runtime MatMulIntegerToFloat, which needs the zero points to be there.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.number_formats import int8
from forerun_compiler.passes.quantized_weights import Product, weights_of

SCHEME = "int8-static"


def quantize_int8_static(model: ir.Model) -> int:
    """Lower every Linear of the scheme int8-static; return how many there were.

    Raises:
        PassError: a weight is not finite or not a constant, or a layer was not calibrated.
    """
    count = 0
    for weight in weights_of(model, SCHEME):
        encoded = int8.encode(weight.array, weight.where)
        codes = weight.store(SCHEME, encoded.codes.T)
        for product in weight.products:
            scale = product.own("weight_scale", encoded.scale[:, 0])
            zero = product.own("weight_zero", np.zeros(len(encoded.codes), np.int8))
            dense = product.emit("DequantizeLinear", codes, scale, zero, axis=1)
            product.replace(product.emit("MatMul", _rounded_activations(product), dense))
            count += 1
    return count


def _rounded_activations(product: Product) -> ir.Value:
    """Emit QuantizeLinear and DequantizeLinear of a product's input; beyond -x_max one code more is there, -128."""
    scale = product.static_scale(int8.LARGEST)

    def pair() -> tuple[ir.Value, ir.Value]:
        return product.own("x_scale", scale), product.own("x_zero", np.int8(0))

    codes = product.emit("QuantizeLinear", product.x, *pair())
    return product.emit("DequantizeLinear", codes, *pair())
