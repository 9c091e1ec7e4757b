"""MatMul(x, Transpose(w)) of the traced form becomes a product with a weight that is stored ready for use.

A weight that only products read is stored transposed, [in, out]. One that an embedding reads too (a tied LM head) stays
as it is, [out, in], and the product becomes Gemm with transB: so the bundle, and the memory, hold it once.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import constant_array, find_nodes, remove_unused, replace_node
from forerun_compiler.passes.emitter import Emitter


def lower_linear(model: ir.Model) -> int:
    """Rewrite every product with a transposed weight; return how many weights were rewritten.

    Raises:
        PassError: a transposed weight has a user that is not a product.
    """
    fired = 0
    for graph in model.graphs():
        for node in find_nodes(graph, "Transpose"):
            weight = node.inputs[0]
            if weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
                continue
            if any(use.node.op_type == "Gather" for use in weight.uses()):
                _read_as_stored(graph, node, weight)
            else:
                _store_transposed(model.graph, node, weight)
            fired += 1
    remove_unused(model)
    return fired


def _store_transposed(home: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    """Put the transposed constant in the place of the Transpose; the first user of a weight makes it for all."""
    name = f"{weight.name}.T"
    stored = home.initializers.get(name)
    if stored is None:
        array = constant_array(weight)
        assert array is not None
        tensor = ir.tensor(np.ascontiguousarray(array.T), name=name)
        stored = ir.val(name, const_value=tensor)
        home.register_initializer(stored)
    node.outputs[0].replace_all_uses_with(stored)
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)


def _read_as_stored(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    """x [1,R,E] MatMul w.T [E,V] becomes Gemm(x [R,E], w, transB) with the batch put back."""
    for use in list(node.outputs[0].uses()):
        product = use.node
        x = product.inputs[0]
        if product.op_type != "MatMul" or use.idx != 1 or x is None or x.shape is None or len(x.shape) not in (2, 3):
            raise PassError(f"node {product.name!r}: a transposed weight that is no plain product: cannot be lowered")
        emit = Emitter(graph, f"{product.outputs[0].name}.", before=product)
        flat = x if len(x.shape) == 2 else emit("Squeeze", x, emit.constant([0]))
        out = emit("Gemm", flat, weight, transB=1)
        replace_node(product, [], [out if len(x.shape) == 2 else emit("Unsqueeze", out, emit.constant([0]))])
