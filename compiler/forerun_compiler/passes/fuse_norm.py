"""An RMS norm that only products of the project's own read goes into them: a row is normalized where it is quantized.

The operator normalizes a row in the same float32 steps whatever the width of a run, so rows still do not see each
other. Two products of one norm both compute it, which costs less than the norm's rows written and read again.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.graph import integer, number
from forerun_compiler.passes.attention_heads import DEFAULT_EPSILON
from forerun_compiler.passes.own_products import NORM, is_own


def fuse_norm(model: ir.Model) -> int:
    """Fuse every RMSNormalization of whole rows whose users are all own products; return how many."""
    nodes = [node for node in model.graph.all_nodes() if node.op_type == "RMSNormalization" and not node.domain]
    return sum(_fuse(node) for node in nodes)


def _fuse(norm: ir.Node) -> bool:
    x, weight = norm.inputs[:2]
    uses = list(norm.outputs[0].uses())
    if x is None or weight is None or not uses or norm.outputs[0].is_graph_output():
        return False
    if not _of_rows(norm, x, weight) or not all(_takes(*use) for use in uses):
        return False
    epsilon = number(norm, "epsilon", DEFAULT_EPSILON)
    for product, _ in uses:
        product.resize_inputs(max(len(product.inputs), NORM + 1))
        product.replace_input_with(0, x)
        product.replace_input_with(NORM, weight)
        product.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)
    assert isinstance(norm.graph, ir.Graph)
    norm.graph.remove(norm, safe=True)
    return True


def _of_rows(norm: ir.Node, x: ir.Value, weight: ir.Value) -> bool:
    """Whether it norms the rows of x [...,K] in float32, by a constant weight [K]."""
    return (
        x.shape is not None
        and integer(norm, "axis", -1) in (-1, len(x.shape) - 1)
        and integer(norm, "stash_type", 1) == int(ir.DataType.FLOAT)
        and weight.const_value is not None
        and weight.dtype == ir.DataType.FLOAT
        and list(weight.const_value.shape) == [x.shape[-1]]
    )


def _takes(user: ir.Node, place: int) -> bool:
    """Whether the user is an own product of it, at that place of its inputs, that has no norm yet."""
    return is_own(user) and place == 0 and (len(user.inputs) <= NORM or user.inputs[NORM] is None)
