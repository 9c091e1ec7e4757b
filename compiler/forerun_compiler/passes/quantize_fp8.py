"""forerun::Linear at fp8 becomes a product of two Q/DQ pairs in E4M3, which TensorRT makes an FP8 GEMM of.

Activations have one static scale, x_max / 448; weights one for each output channel. ONNX Runtime 1.31 refuses the form
(it fuses it to MatMulIntegerToFloat, which has no FP8): `emulate_fp8` is for that.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.number_formats import float8
from forerun_compiler.passes.quantized_weights import Product, weights_of

SCHEME = "fp8"


def quantize_fp8(model: ir.Model) -> int:
    """Lower every Linear of the scheme fp8; return how many there were.

    Raises:
        PassError: a weight is not finite or not a constant, or a layer was not calibrated.
    """
    count = 0
    for weight in weights_of(model, SCHEME):
        encoded = float8.encode(weight.array, weight.where)
        codes = weight.store(SCHEME, encoded.codes.T)
        for product in weight.products:
            scale = product.own("weight_scale", encoded.scale[:, 0])
            dense = product.emit("DequantizeLinear", codes, scale, axis=1)
            product.replace(product.emit("MatMul", rounded_activations(product), dense))
            count += 1
    return count


def rounded_activations(product: Product) -> ir.Value:
    """Emit QuantizeLinear and DequantizeLinear of a product's input; the result is float32."""
    scale = product.static_scale(float8.LARGEST)
    e4m3 = ir.DataType.FLOAT8E4M3FN.value
    codes = product.emit("QuantizeLinear", product.x, product.own("x_scale", scale), output_dtype=e4m3)
    return product.emit("DequantizeLinear", codes, product.own("x_scale", scale))
