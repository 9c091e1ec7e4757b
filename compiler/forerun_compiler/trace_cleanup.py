"""Constant folding and general simplifications of a freshly exported graph, before it gets its canonical form.

As torch's `optimize=True` does it, without the rules for convolutions and batch norms, and without the one that joins
slices to a Split: it looks through the whole graph at every node, which took half of the time of a trace.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

_RULES = (
    rules.mul_by_1_rule,
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.no_op_dynamic_scatter_nd_rule,
    rules.no_op_static_scatter_nd_rule,
)
_ROUNDS = 2
"""What one round made constant, the next can fold."""


def clean_up(model: ir.Model) -> None:
    """Simplify an exported model in place; constants become initializers, equal computations one."""
    common.InlinePass()(model)
    rewrite = RewritePass(_RULES)
    for _ in range(_ROUNDS):
        folded = optimizer.fold_constants(model, onnx_shape_inference=True).modified
        rewritten = rewrite(model).modified
        removed = common.RemoveUnusedNodesPass()(model).modified
        if not (folded or rewritten or removed):
            break
    common.RemoveUnusedOpsetsPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.LiftSubgraphInitializersToMainGraphPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.OutputFixPass()(model)
    common.NameFixPass()(model)
