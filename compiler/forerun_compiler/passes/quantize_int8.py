"""forerun::Linear at int8 becomes the project's own operator LinearInt8, or the library's own integer product.

Both quantize each row of the input for itself and sum in int32: a row's result does not depend on the other rows of the
run. The project's operator reads a packed weight and does all in one node (`number_formats/linear_int8.py` is what it
computes, bit for bit). The library's form gives the same numbers up to the rounding of its scales, for sessions without
the operator. It is slower, exact only on processors whose int8 products do not saturate (AVX-512 VNNI, AVX VNNI, AMX,
NEON dot product), and undefined for rows that are not finite.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from forerun_compiler.number_formats import int8
from forerun_compiler.number_formats.linear_int8 import LARGEST, LINEAR, TINY
from forerun_compiler.number_formats.packing import pack_blocks
from forerun_compiler.passes.quantized_weights import Product, Weight, weights_of

SCHEME = "int8"
OPERATORS = "forerun.runtime"
"""The domain of the project's own operators."""
CONTRIB = "com.microsoft"

Form = Literal["forerun", "stock"]


def quantize_int8(model: ir.Model, form: Form = "forerun") -> int:
    """Lower every Linear of the scheme int8; return how many there were.

    Raises:
        PassError: a weight is not finite or not a constant, or has more inputs than an exact sum may have.
    """
    weights = weights_of(model, SCHEME)
    if weights:
        model.graph.opset_imports.setdefault(OPERATORS if form == "forerun" else CONTRIB, 1)
    if form == "forerun":
        _as_own_operator(weights)
    else:
        _as_stock_operators(model, weights)
    return sum(len(weight.products) for weight in weights)


def _as_own_operator(weights: list[Weight]) -> None:
    for weight in weights:
        encoded = int8.encode(weight.array, weight.where)
        codes = weight.store(SCHEME, pack_blocks(encoded.codes, weight.where))
        scale = weight.store(f"{SCHEME}.scale", encoded.scale[:, 0])
        for product in weight.products:
            product.replace(product.emit(LINEAR, product.x, codes, scale, domain=OPERATORS))


def _as_stock_operators(model: ir.Model, weights: list[Weight]) -> None:
    """Quantize each input once, before its first product, then multiply."""
    order = {node: number for number, node in enumerate(model.graph.all_nodes())}
    by_input: dict[tuple[ir.Graph, ir.Value], tuple[ir.Value, ir.Value]] = {}
    rows: dict[ir.Node, tuple[ir.Value, ir.Value]] = {}
    for product in sorted((p for weight in weights for p in weight.products), key=lambda p: order[p.node]):
        key = (product.emit.graph, product.x)
        if key not in by_input:
            by_input[key] = _rounded_rows(product)
        rows[product.node] = by_input[key]
    for weight in weights:
        encoded = int8.encode(weight.array, weight.where)
        codes = weight.store(SCHEME, encoded.codes.T)
        scale = weight.store(f"{SCHEME}.scale", encoded.scale[:, 0])
        for product in weight.products:
            emit, (raised, row_scale) = product.emit, rows[product.node]
            one, zero = emit.constant(1.0, np.float32), emit.constant(128, np.uint8)
            sums = emit("MatMulIntegerToFloat", raised, codes, one, scale, zero, domain=CONTRIB)
            product.replace(emit("Mul", sums, row_scale))


def _rounded_rows(product: Product) -> tuple[ir.Value, ir.Value]:
    """Emit the codes of a product's input, uint8 with the zero point 128, and the rows' scales [...,1]."""
    emit = product.emit
    largest = emit.constant(LARGEST, np.float32)
    peak = emit("ReduceMax", emit("Abs", product.x), emit.constant([-1]), keepdims=1)
    peak = emit("Max", peak, emit.constant(TINY, np.float32))
    codes = emit("Round", emit("Mul", product.x, emit("Div", largest, peak)))  # halves to even
    raised = emit("Cast", emit("Add", codes, emit.constant(128.0, np.float32)), to=int(ir.DataType.UINT8))
    return raised, emit("Div", peak, largest)
