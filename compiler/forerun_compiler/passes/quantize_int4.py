"""forerun::Linear at int4 becomes the project's own operator LinearInt4, or what other kernels of four bits read.

The own operator rounds each row of the input to int8, as LinearInt8 does, and sums each group of inputs exactly
(`number_formats/linear_int4.py` is what it computes, bit for bit): a row's result does not depend on the other rows of
the run. The form of ONNX Runtime, for sessions without the operator, rounds activations to int8 by row and group and is
slower from a few rows on. Standard operators leave activations as they are: TensorRT fuses a blocked DequantizeLinear
into its GEMM (32 or 128 inputs, on compute capability 8.0 and above), and refuses groups that K does not fill.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import Array
from forerun_compiler.number_formats import int4
from forerun_compiler.number_formats.linear_int4 import LINEAR
from forerun_compiler.number_formats.packing import pack_nibbles, pack_scales
from forerun_compiler.passes.quantize_int8 import CONTRIB, OPERATORS
from forerun_compiler.passes.quantized_weights import Weight, weights_of
from forerun_compiler.schemes import INT4_GROUPS

Form = Literal["forerun", "onnxruntime", "standard"]


@dataclass(frozen=True)
class RoundedLayer:
    """A layer's codes and scales, and the relative error of its output on the text that they were chosen for."""

    encoded: int4.Int4Weight
    error: float


Rounded = Mapping[tuple[str, str], RoundedLayer]
"""By scheme and layer."""
NEAREST: Rounded = MappingProxyType({})
"""All layers to the nearest."""

INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level: activations in int8, quantized by row and block, sums in int32."""


def quantize_int4(model: ir.Model, form: Form = "forerun", rounded: Rounded = NEAREST) -> int:
    """Lower every Linear of the int4 schemes; return how many there were.

    Layers in `rounded` have its codes and scales, all others are rounded to the nearest.

    Raises:
        PassError: a weight is not finite or not a constant, or the standard form has a group that K does not fill.
    """
    lower = {"forerun": _as_own_operator, "onnxruntime": _as_contrib_op, "standard": _as_standard_ops}[form]
    count = 0
    for scheme, group in INT4_GROUPS.items():
        for weight in weights_of(model, scheme):
            lower(weight, _encode(weight, group, rounded), group)
            count += len(weight.products)
    domain = {"forerun": OPERATORS, "onnxruntime": CONTRIB}.get(form)
    if count and domain is not None:
        model.graph.opset_imports.setdefault(domain, 1)
    return count


def _encode(weight: Weight, group: int, rounded: Rounded) -> int4.Int4Weight:
    """Return the codes and scales that all forms store."""
    linear = weight.products[0].linear
    # A stacked product carries the names of its layers.
    parts = [rounded.get((linear.scheme, layer)) for layer in linear.layer.split(",")]
    chosen = [part.encoded for part in parts if part is not None]
    if len(chosen) < len(parts):
        return int4.encode(weight.array, group, weight.where)
    return int4.Int4Weight(
        np.concatenate([part.codes for part in chosen]),
        np.concatenate([part.scale for part in chosen]),
        chosen[0].columns,
    )


def _as_own_operator(weight: Weight, encoded: int4.Int4Weight, group: int) -> None:
    scheme = weight.products[0].linear.scheme
    codes = weight.store(scheme, pack_nibbles(encoded.rows()))
    scale = weight.store(f"{scheme}.scale", pack_scales(encoded.scale))
    outputs = len(encoded.codes)
    for product in weight.products:
        out = product.emit(LINEAR, product.x, codes, scale, domain=OPERATORS, group_size=group, outputs=outputs)
        product.replace(out)


def _as_contrib_op(weight: Weight, encoded: int4.Int4Weight, group: int) -> None:
    scheme = weight.products[0].linear.scheme
    codes = weight.store(scheme, packed(encoded.codes))
    scale = weight.store(f"{scheme}.scale", encoded.scale.astype(np.float32))
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
            block_size=group,
            accuracy_level=INT8_ACTIVATIONS,
        )
        product.replace(out)


def packed(codes: Array) -> Array:
    """Return codes [...,group] as MatMulNBits reads them: uint8 [...,group/2], 0..15 for -8..7, the even ones low."""
    raised = (codes.astype(np.int8) + 8).astype(np.uint8)
    pairs: Array = raised[..., 0::2] | raised[..., 1::2] << 4
    return pairs


def _as_standard_ops(weight: Weight, encoded: int4.Int4Weight, group: int) -> None:
    rows, columns = weight.array.shape
    if columns % group:
        raise PassError(
            f"{weight.where}: groups of {group} must fill the input width in this engine; found the weight "
            f"[{rows}, {columns}]. Give this layer another scheme in precision.overrides"
        )
    codes = weight.store(weight.products[0].linear.scheme, encoded.rows().T)
    for product in weight.products:
        # In the dtype that the product has, or TensorRT decodes the whole weight first.
        dtype = product.x.dtype.numpy() if product.x.dtype is not None else np.float32
        scale = product.own("weight_scale", encoded.scale.T.astype(dtype))
        dense = product.emit("DequantizeLinear", codes, scale, axis=0, block_size=group)
        product.replace(product.emit("MatMul", product.x, dense))
