"""On TensorRT a round asks for as many rows of logits as the widest decoding run has, however many tokens a run has.

Known, they are a fixed size in the engine; computed, the host would have to hand it to the device in every run. A
narrower run repeats its last row (link_round), which costs a GPU next to nothing: the weights of the LM head are read
once for all rows.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.graph import constant_scalar, find_nodes, input_named, integer
from forerun_compiler.passes.emitter import operands


def least_width(model: ir.Model, width: int) -> int:
    """Replace Min(T, c) of the input `tokens` [1,T] by c wherever c is at most `width`; return how many."""
    tokens, count = input_named(model.graph, "tokens"), 0
    for node in find_nodes(model.graph, "Min"):
        first, second = operands(node, 2)
        bound = constant_scalar(second)
        if not _is_width(first, tokens) or bound is None or bound > width:
            continue
        node.outputs[0].replace_all_uses_with(second)
        count += 1
    return count


def _is_width(value: ir.Value, tokens: ir.Value) -> bool:
    node = value.producer()
    return (
        node is not None
        and (node.op_type, node.domain) == ("Shape", "")
        and node.inputs[0] is tokens
        and (integer(node, "start"), integer(node, "end", 2)) == (1, 2)
    )
