"""Linear layers of one input and one scheme become one Linear and a Split: Q, K and V; gate and up.

Every product that runs on several threads begins and ends with a meeting of the threads. On two threads that sleep
while they wait stacking saves 7 % of a round and 11 % of a plain step, on two that spin 1 to 3 %, on one thread nothing
(`benchmarks/formulations.py`, demo pair; tables in `benchmarks/results/`). No scheme mixes output channels but for
nvfp4's one global scale, which becomes that of the largest layer.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.dialect import DOMAIN, Linear
from forerun_compiler.graph import add_initializer, constant_array, find_nodes, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


def stack_products(model: ir.Model) -> int:
    """Stack the Linears of one input; return how many stacks were made. Those in branches are left alone.

    A weight that stands in two stacks is stored in both: the drafter's keys and values, of its context and of its
    block, 1.5 % of the demo's weights. One that an embedding reads too is not stacked: it would be stored twice.
    """
    graph = model.graph
    groups: dict[tuple[ir.Value, str], list[ir.Node]] = {}
    for node in find_nodes(graph, Linear.OP_TYPE, DOMAIN):
        x, weight = operands(node, 2)
        if not any(use.node.op_type == "Gather" for use in weight.uses()):
            groups.setdefault((x, Linear.from_node(node).scheme), []).append(node)
    stacks = [(x, scheme, nodes) for (x, scheme), nodes in groups.items() if len(nodes) > 1]
    for number, (x, scheme, nodes) in enumerate(stacks):
        weights = [array for node in nodes if (array := constant_array(node.inputs[1])) is not None]
        stacked = add_initializer(graph, f"stack.{number}.weight", np.concatenate(weights, axis=0))
        emit = Emitter(graph, f"stack.{number}.", before=nodes[0])
        sizes = emit.constant([weight.shape[0] for weight in weights])
        members = [Linear.from_node(node) for node in nodes]
        joined = Linear(",".join(each.layer for each in members), scheme, max(each.x_max for each in members))
        out = emit(Linear.OP_TYPE, x, stacked, domain=DOMAIN, **joined.attributes())
        for node, part in zip(nodes, emit.many("Split", len(nodes), out, sizes, axis=-1), strict=True):
            replace_node(node, [], [part])
    return len(stacks)
