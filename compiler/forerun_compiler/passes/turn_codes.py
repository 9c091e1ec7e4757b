"""Codes of a product's weight are stored [N,K] and turned by a Transpose behind their DequantizeLinear.

For one row TensorRT multiplies eight-bit codes in this form, and for the many rows of prefill in either: an engine for
both held the codes of the demo twice, [K,N] and [N,K], 33 MB instead of 25.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import add_initializer, constant_array, find_nodes, integer, producer
from forerun_compiler.passes.emitter import Emitter, operands


def turn_codes(model: ir.Model) -> int:
    """Turn the weight of every MatMul whose codes have one scale for each of their columns; return how many.

    Codes that several products read are stored once, as they were.
    """
    turned: dict[ir.Value, ir.Value] = {}
    count = 0
    for graph in model.graphs():
        for node in find_nodes(graph, "MatMul"):
            decoded = producer(node.inputs[1], "DequantizeLinear")
            if decoded is None or integer(decoded, "axis", 1) != 1 or integer(decoded, "block_size"):
                continue
            codes, *scales = operands(decoded, len(decoded.inputs))
            array = constant_array(codes)
            if array is None or array.ndim != 2 or len(decoded.outputs[0].uses()) != 1:
                continue
            if codes not in turned:
                turned[codes] = add_initializer(model.graph, f"{codes.name}.N", np.ascontiguousarray(array.T))
            emit = Emitter(graph, f"{decoded.name}.turned.", constants=model.graph, before=node)
            rows = emit("DequantizeLinear", turned[codes], *scales, axis=0)
            node.replace_input_with(1, emit("Transpose", rows, perm=[1, 0]))
            # Each scale is read once: TensorRT's compiler crashes on one that two nodes read.
            assert isinstance(decoded.graph, ir.Graph)
            decoded.graph.remove(decoded, safe=True)
            count += 1
    return count
