"""A residual sum and the norm that reads it become one SkipSimplifiedLayerNormalization, which gives both."""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.graph import find_nodes, new_node, producer, replace_node

MICROSOFT = "com.microsoft"


def fuse_norms(model: ir.Model) -> int:
    """Fuse RMSNormalization(Add(a, b), scale) over the last axis where a and b have one shape; return how many."""
    graph = model.graph
    fired = 0
    for norm in find_nodes(graph, "RMSNormalization"):
        total = producer(norm.inputs[0], "Add")
        if total is None or not _same_rows(total) or not _over_last_axis(norm):
            continue
        a, b = total.inputs
        # The sum moves to where the norm stands or before; a user in between would read it too early only if the
        # norm came later than that user, so the fused node takes the sum's place, where a and b exist.
        stem = str(norm.outputs[0].name)
        epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
        outputs = [f"{stem}.fused", f"{stem}.mean", f"{stem}.deviation", f"{stem}.sum"]
        fused = new_node(
            "SkipSimplifiedLayerNormalization",
            [a, b, norm.inputs[1]],
            outputs,
            {"epsilon": epsilon},
            domain=MICROSOFT,
        )
        replace_node(total, [fused], [fused.outputs[3]])
        replace_node(norm, [], [fused.outputs[0]])
        fired += 1
    if fired:
        graph.opset_imports.setdefault(MICROSOFT, 1)
    return fired


def _same_rows(total: ir.Node) -> bool:
    a, b = total.inputs
    if a is None or b is None or a.shape is None or b.shape is None or len(a.shape) != 3:
        return False
    return a.shape == b.shape and a.const_value is None and b.const_value is None


def _over_last_axis(norm: ir.Node) -> bool:
    axis = norm.attributes["axis"].as_int() if "axis" in norm.attributes else -1
    shape = norm.inputs[0].shape if norm.inputs[0] is not None else None
    return shape is not None and axis in (-1, len(shape) - 1)
