"""ArgMax becomes a maximum and the first place that holds it.

TensorRT has a sort for it (TopK), which promises nothing for equal numbers, and half precision makes many; the first is
what every other lowering takes. It costs fewer kernels too: both steps fuse with what makes the numbers.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import find_nodes, integer, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


def first_largest(model: ir.Model) -> int:
    """Replace every ArgMax over the last axis, of known size N, of x [...,N]; return how many were replaced.

    Raises:
        PassError: an ArgMax over another axis or of unknown size, or one that takes the last of equal numbers.
    """
    nodes = find_nodes(model.graph, "ArgMax")
    for number, node in enumerate(nodes):
        x, size = operands(node, 1)[0], _size(node)
        emit = Emitter(model.graph, f"largest.{number}.", before=node)
        last = emit.constant([-1])
        largest = emit("ReduceMax", x, last, keepdims=1)
        # NaN equals nothing: the last place then, which is one of the vocabulary.
        places = emit.constant(np.arange(size), np.int32), emit.constant(size - 1, np.int32)
        place = emit("Where", emit("Equal", x, largest), *places)
        first = emit("ReduceMin", place, last, keepdims=integer(node, "keepdims", 1))
        replace_node(node, [], [emit("Cast", first, to=int(ir.DataType.INT64))])
    return len(nodes)


def _size(node: ir.Node) -> int:
    shape, axis = operands(node, 1)[0].shape, integer(node, "axis")
    size = shape[-1] if shape is not None else None
    if not isinstance(size, int) or shape is None or axis not in (-1, len(shape) - 1):
        raise PassError(
            f"node {node.name!r}: expected ArgMax over a last axis of known size, found axis {axis} of {shape}"
        )
    if integer(node, "select_last_index"):
        raise PassError(f"node {node.name!r}: expected ArgMax to take the first of equal numbers, found the last")
    return size
