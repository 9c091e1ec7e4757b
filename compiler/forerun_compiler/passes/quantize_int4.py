"""forerun::Linear at int4 becomes MatMulNBits of ONNX Runtime, or a product with a blocked DequantizeLinear.

TensorRT fuses the second form into its GEMM (blocks of 32 or 128 along K, on compute capability 8.0 and above); it
refuses blocks that K does not fill. ONNX Runtime's kernel takes those, the last block padded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import Array
from forerun_compiler.number_formats import int4
from forerun_compiler.passes.quantized_weights import Weight, weights_of

Form = Literal["onnxruntime", "standard"]

BLOCKS = {"int4": 32, "int4-block128": 128}
CONTRIB = "com.microsoft"
INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level: activations in int8, quantized by row and block, sums in int32."""


def quantize_int4(model: ir.Model, form: Form) -> int:
    """Lower every Linear of the int4 schemes; return how many there were.

    Raises:
        PassError: a weight is not finite or not a constant, or the standard form has a block that K does not fill.
    """
    lower = {"onnxruntime": _as_contrib_op, "standard": _as_standard_ops}[form]
    count = 0
    for scheme, block in BLOCKS.items():
        for weight in weights_of(model, scheme):
            lower(weight, int4.encode(weight.array, block, weight.where), block)
            count += len(weight.products)
    if count and form == "onnxruntime":
        model.graph.opset_imports.setdefault(CONTRIB, 1)
    return count


def _as_contrib_op(weight: Weight, encoded: int4.Int4Weight, block: int) -> None:
    scheme = weight.products[0].linear.scheme
    codes = weight.store(scheme, packed(encoded.codes))
    scale = weight.store(f"{scheme}.scale", encoded.scale)
    rows, columns = weight.array.shape
    for product in weight.products:
        out = product.emit(
            "MatMulNBits",
            product.x,
            codes,
            scale,
            domain=CONTRIB,
            K=columns,
            N=rows,
            bits=4,
            block_size=block,
            accuracy_level=INT8_ACTIVATIONS,
        )
        product.replace(out)


def packed(codes: Array) -> Array:
    """Return codes [...,block] as MatMulNBits reads them: uint8 [...,block/2], 0..15 for -8..7, the even ones low."""
    raised = (codes.astype(np.int8) + 8).astype(np.uint8)
    pairs: Array = raised[..., 0::2] | raised[..., 1::2] << 4
    return pairs


def _as_standard_ops(weight: Weight, encoded: int4.Int4Weight, block: int) -> None:
    rows, columns = weight.array.shape
    if columns % block:
        raise PassError(
            f"{weight.where}: blocks of {block} must fill the input width in this engine; found the weight "
            f"[{rows}, {columns}]. Give this layer another scheme in precision.overrides"
        )
    codes = weight.store(weight.products[0].linear.scheme, encoded.codes.reshape(rows, columns).T)
    for product in weight.products:
        # In the dtype that the product has, or TensorRT decodes the whole weight first.
        dtype = product.x.dtype.numpy() if product.x.dtype is not None else np.float32
        scale = product.own("weight_scale", encoded.scale.T.astype(dtype))
        dense = product.emit("DequantizeLinear", codes, scale, axis=0, block_size=block)
        product.replace(product.emit("MatMul", product.x, dense))
