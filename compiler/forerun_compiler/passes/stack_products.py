"""Products of one input with several weights become one product and a Split: Q, K and V; gate and up.

Every product that runs on several threads begins and ends with a meeting of the threads. On two threads that sleep
while they wait stacking saves 7 % of a round and 11 % of a plain step, on two that spin 1 to 3 %, on one thread nothing
(`benchmarks/formulations.py`, demo pair; tables in `benchmarks/results/`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import add_initializer, constant_array, find_nodes, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


def stack_products(model: ir.Model) -> int:
    """Stack MatMuls of one input with constant weights [in, out]; return how many stacks were made.

    A weight that stands in two stacks is stored in both: the drafter's keys and values, of its context and of its
    block, 1.5 % of the demo's weights.
    """
    graph = model.graph
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in find_nodes(graph, "MatMul"):
        x, weight = operands(node, 2)
        if weight.const_value is not None and len(weight.const_value.shape) == 2:
            groups.setdefault(x, []).append(node)
    stacks = [(x, nodes) for x, nodes in groups.items() if len(nodes) > 1]
    for number, (x, nodes) in enumerate(stacks):
        weights = [array for node in nodes if (array := constant_array(node.inputs[1])) is not None]
        stacked = add_initializer(graph, f"stack.{number}.weight", np.concatenate(weights, axis=1))
        emit = Emitter(graph, f"stack.{number}.", before=nodes[0])
        sizes = emit.constant([weight.shape[1] for weight in weights])
        parts = emit.many("Split", len(nodes), emit("MatMul", x, stacked), sizes, axis=-1)
        for node, part in zip(nodes, parts, strict=True):
            replace_node(node, [], [part])
    return len(stacks)
