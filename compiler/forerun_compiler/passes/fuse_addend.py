"""What is added to a product of the project's own, a residual stream or a bias, goes into the product.

That saves a meeting of the threads. The product then stands where the Add stood, because the other operand may be made
after the product.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.graph import constant_array, replace_node
from forerun_compiler.passes.emitter import operands
from forerun_compiler.passes.own_products import ADDEND, outputs_of, plain_product


def fuse_addend(model: ir.Model) -> int:
    """Fuse every Add of a product that nothing else reads and of rows of its shape, or a bias; return how many."""
    return sum(_fuse(node) for node in list(model.graph.all_nodes()) if node.op_type == "Add" and not node.domain)


def _fuse(add: ir.Node) -> bool:
    a, b = operands(add, 2)
    for sum_, addend in ((a, b), (b, a)):
        product = plain_product(sum_)
        if product is not None and _is_free(product, add) and _suits(addend, product):
            _move(product, addend, add)
            return True
    return False


def _is_free(product: ir.Node, add: ir.Node) -> bool:
    """Whether the product has no addend yet and its output goes nowhere but into this Add of the same graph."""
    (out,) = product.outputs
    used_once = len(out.uses()) == 1 and not out.is_graph_output()
    return used_once and product.graph is add.graph and len(product.inputs) <= ADDEND


def _suits(addend: ir.Value, product: ir.Node) -> bool:
    """Whether it has exactly the shape of the product's output [...,N], or is a constant [...,1,N] of N numbers."""
    (x,) = operands(product, 1)
    if addend.shape is None or x.shape is None:
        return False
    shape, found = [*x.shape[:-1], outputs_of(product)], list(addend.shape)
    if constant_array(addend) is not None:
        # A constant of more dimensions would give the sum more of them.
        is_bias = len(found) <= len(shape) and found[-1:] == shape[-1:] and all(size == 1 for size in found[:-1])
        return is_bias or found == shape
    return found == shape and all(_is_known(size) for size in found)


def _is_known(size: int | ir.SymbolicDim) -> bool:
    return isinstance(size, int) or size.value is not None


def _move(product: ir.Node, addend: ir.Value, add: ir.Node) -> None:
    graph = add.graph
    assert isinstance(graph, ir.Graph)
    product.resize_inputs(ADDEND + 1)
    product.replace_input_with(ADDEND, addend)
    graph.remove(product)
    replace_node(add, [product], product.outputs)
