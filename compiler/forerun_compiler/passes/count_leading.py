"""ArgMin over a row of bools becomes the sum of a running test, which TensorRT has for a row without a second axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import find_nodes, integer, producer, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


def count_leading(model: ir.Model) -> int:
    """Replace ArgMin(Cast(kept [R])) by the number of entries before the first false one: [1]; return how many.

    `kept` holds a false entry, as the acceptance's does.
    """
    count = 0
    for node in find_nodes(model.graph, "ArgMin"):
        cast = producer(node.inputs[0], "Cast")
        if cast is None or integer(node, "axis") or not integer(node, "keepdims", 1):
            continue
        emit = Emitter(model.graph, f"leading.{count}.", before=node)
        failed = emit("Cast", emit("Not", operands(cast, 1)[0]), to=int(ir.DataType.INT32))
        before = emit("Equal", emit("CumSum", failed, emit.constant(0)), emit.constant(0, np.int32))
        ones = emit("Cast", before, to=int(ir.DataType.INT64))
        replace_node(node, [], [emit("ReduceSum", ones, emit.constant([0]), keepdims=1)])
        count += 1
    return count
