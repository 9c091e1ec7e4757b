"""forerun::Linear at nvfp4 or nvfp4-weight-only becomes Q/DQ in two levels: E2M1 by E4M3 block scales by one float32.

Weights: DequantizeLinear of the block scales [K/16,N], then with those of the codes [K,N] in blocks along K.
Activations, whose block scales are found at run time by a static global scale, in one of two forms, both an FP4 GEMM
in TensorRT: `standard` operators, or TensorRT's own TRT_FP4DynamicQuantize. Weight-only has no activations to round,
and TensorRT decodes the whole weight each run: it saves memory, not time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import float8, nvfp4
from forerun_compiler.passes.quantized_weights import Product, Weight, weights_of

Form = Literal["standard", "tensorrt"]

SCHEME, WEIGHT_ONLY = "nvfp4", "nvfp4-weight-only"
TRT = "trt"
E4M3, E2M1 = ir.DataType.FLOAT8E4M3FN.value, ir.DataType.FLOAT4E2M1.value


def quantize_nvfp4(model: ir.Model, form: Form) -> int:
    """Lower every Linear of the nvfp4 schemes; return how many there were.

    Raises:
        PassError: a weight is not finite, not a constant or has a K that is no multiple of 16, a layer was not
            calibrated, or its input is of unknown rank.
    """
    rounded = {"standard": _by_standard_ops, "tensorrt": _by_tensorrt_op}[form]
    count = 0
    for scheme in (SCHEME, WEIGHT_ONLY):
        for weight in weights_of(model, scheme):
            dense = _encode(weight)
            for product, decoded in zip(weight.products, dense, strict=True):
                x = product.x if scheme == WEIGHT_ONLY else rounded(product, activation_scale(product))
                product.replace(product.emit("MatMul", x, decoded))
                count += 1
    if form == "tensorrt" and any(node.domain == TRT for node in model.graph.all_nodes()):
        model.graph.opset_imports.setdefault(TRT, 1)
    return count


def activation_scale(product: Product) -> np.float32:
    """Return the global scale of a product's input; PassError when it was not calibrated."""
    return product.static_scale(nvfp4.LARGEST * float8.LARGEST)


def _encode(weight: Weight) -> list[ir.Value]:
    """Store a weight and decode it once for each of its products: a DequantizeLinear shares no scale with another."""
    encoded = nvfp4.encode(weight.array, weight.where)
    scheme = weight.products[0].linear.scheme
    codes = weight.store(scheme, encoded.codes.T)
    blocks = weight.store(f"{scheme}.block_scale", encoded.block_scale.T)
    found = []
    for product in weight.products:
        scale = product.emit("DequantizeLinear", blocks, product.own("weight_scale", encoded.global_scale))
        if scheme == WEIGHT_ONLY and product.x.dtype not in (None, ir.DataType.FLOAT):
            scale = product.emit("Cast", scale, to=int(product.x.dtype))
        found.append(product.emit("DequantizeLinear", codes, scale, axis=0, block_size=nvfp4.BLOCK))
    return found


def _by_standard_ops(product: Product, scale: np.float32) -> ir.Value:
    """Emit the rounding of the input [...,K] by block scales max|block| / 6, as E4M3 multiples of the global scale."""
    emit, x = product.emit, product.x
    if x.shape is None:
        raise PassError(f"layer {product.linear.layer}: expected an input of known rank, found {x.name!r} without")
    leading = [0] * (len(x.shape) - 1)
    blocks = emit("Reshape", x, emit.constant([*leading, -1, nvfp4.BLOCK]))
    block_scale = rounded_block_scales(product, blocks, scale, keepdims=0)
    numbers = emit("QuantizeLinear", x, block_scale, output_dtype=E2M1, axis=-1, block_size=nvfp4.BLOCK)
    return emit("DequantizeLinear", numbers, block_scale, axis=-1, block_size=nvfp4.BLOCK)


def rounded_block_scales(product: Product, blocks: ir.Value, scale: np.float32, *, keepdims: int) -> ir.Value:
    """Emit max|block| / 6 of blocks [...,16], rounded to an E4M3 multiple of the global scale: [...] or [...,1]."""
    emit = product.emit
    largest = emit("ReduceMax", emit("Abs", blocks), emit.constant([-1]), keepdims=keepdims)
    exact = emit("Div", largest, emit.constant(nvfp4.LARGEST, np.float32))
    # A block of zeros must not divide by zero: no block scale is below E4M3's smallest number.
    exact = emit("Max", exact, emit.constant(scale * float8.SMALLEST, np.float32))
    codes = emit("QuantizeLinear", exact, product.own("x_scale", scale), output_dtype=E4M3)
    return emit("DequantizeLinear", codes, product.own("x_scale", scale))


def _by_tensorrt_op(product: Product, scale: np.float32) -> ir.Value:
    """Emit the same by the operator that TensorRT has for it; its block scales come out as E4M3."""
    emit = product.emit
    numbers, codes = emit.many(
        "TRT_FP4DynamicQuantize",
        2,
        product.x,
        product.own("x_scale", scale),
        domain=TRT,
        axis=-1,
        block_size=nvfp4.BLOCK,
        scale_type=E4M3,
    )
    block_scale = emit("DequantizeLinear", codes, product.own("x_scale", scale))
    return emit("DequantizeLinear", numbers, block_scale, axis=-1, block_size=nvfp4.BLOCK)
