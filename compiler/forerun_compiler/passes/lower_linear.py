"""forerun::Linear at float32 becomes a product with a weight that is stored ready for use.

A weight that only products read is stored transposed, [K,N]. One that an embedding reads too (a tied LM head) stays as
it is, [N,K], and the product becomes Gemm with transB: so the bundle, and the memory, hold it once.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.dialect import Linear
from forerun_compiler.errors import PassError
from forerun_compiler.graph import Array, constant_array, remove_unused, replace_node
from forerun_compiler.passes.emitter import Emitter, operands
from forerun_compiler.passes.name_products import products
from forerun_compiler.schemes import DENSE

_STRIP = 32
"""Rows that are transposed at once: their lines stay in the first-level cache."""


def lower_linear(model: ir.Model) -> int:
    """Lower every Linear whose scheme is float32; return how many there were.

    Raises:
        PassError: a weight is not a constant, or a tied one multiplies an input that is not of rank 2 or 3.
    """
    dense = _dense(model)
    for node in dense:
        _, weight = operands(node, 2)
        if any(use.node.op_type == "Gather" for use in weight.uses()):
            _read_as_stored(model.graph, node)
        else:
            _store_transposed(model.graph, node)
    remove_unused(model)
    return len(dense)


def lower_linear_as_stored(model: ir.Model) -> int:
    """Lower every Linear whose scheme is float32, each weight left as it is, [N,K]; return how many there were.

    Raises:
        PassError: an input is not of rank 2 or 3.
    """
    dense = _dense(model)
    for node in dense:
        _read_as_stored(model.graph, node)
    remove_unused(model)
    return len(dense)


def _dense(model: ir.Model) -> list[ir.Node]:
    return [node for node in products(model) if Linear.from_node(node).scheme == DENSE]


def _store_transposed(home: ir.Graph, node: ir.Node) -> None:
    """Multiply with the transposed constant; the first user of a weight makes it for all."""
    x, weight = operands(node, 2)
    name = f"{weight.name}.T"
    stored = home.initializers.get(name)
    if stored is None:
        array = constant_array(weight)
        if array is None:
            raise PassError(f"node {node.name!r}: expected a constant weight, found the computed {weight.name!r}")
        tensor = ir.tensor(transposed(array), name=name)
        stored = ir.val(name, tensor.dtype, array.T.shape, const_value=tensor)
        home.register_initializer(stored)
    assert isinstance(node.graph, ir.Graph)
    emit = Emitter(node.graph, f"{node.outputs[0].name}.", constants=home, before=node)
    replace_node(node, [], [emit("MatMul", x, stored)])


def transposed(matrix: Array) -> Array:
    """Return the transposed matrix, contiguous; made a strip at a time, in a fraction of the time of numpy's copy."""
    turned = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, len(matrix), _STRIP):
        turned[:, row : row + _STRIP] = matrix[row : row + _STRIP].T
    return turned


def _read_as_stored(home: ir.Graph, node: ir.Node) -> None:
    """x [1,R,K], w [N,K] becomes Gemm(x [R,K], w, transB) with the batch put back."""
    x, weight = operands(node, 2)
    if x.shape is None or len(x.shape) not in (2, 3):
        raise PassError(f"node {node.name!r}: expected an input of rank 2 or 3 for a weight [N,K], found {x.shape}")
    assert isinstance(node.graph, ir.Graph)
    emit = Emitter(node.graph, f"{node.outputs[0].name}.", constants=home, before=node)
    flat = x if len(x.shape) == 2 else emit("Squeeze", x, emit.constant([0]))
    out = emit("Gemm", flat, weight, transB=1)
    replace_node(node, [], [out if len(x.shape) == 2 else emit("Unsqueeze", out, emit.constant([0]))])
