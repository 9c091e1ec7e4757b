"""Products of one input with several constant weights become one product and a Split: Q, K, V; gate and up.

A narrow product of a few rows is mostly overhead, and one wide product reads its input once.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler.graph import add_initializer, constant_array, find_nodes, replace_node
from forerun_compiler.passes.emitter import Emitter, operands


def fuse_products(model: ir.Model, largest: int = 1 << 30) -> int:
    """Fuse MatMuls that share their input and have constant weights [in, out]; return how many groups were fused.

    `largest` bounds the total width, beyond which a product has no overhead worth saving.
    """
    graph = model.graph
    groups: dict[ir.Value, list[ir.Node]] = {}
    for node in find_nodes(graph, "MatMul"):
        x, weight = operands(node, 2)
        if weight.const_value is not None and len(weight.const_value.shape) == 2:
            groups.setdefault(x, []).append(node)
    fired = 0
    for x, nodes in groups.items():
        if len(nodes) > 1 and sum(int(_weight(node).shape[1]) for node in nodes) <= largest:
            _fuse(graph, x, nodes)
            fired += 1
    return fired


def _weight(node: ir.Node) -> np.ndarray:
    array = constant_array(node.inputs[1])
    assert array is not None
    return array


def _fuse(graph: ir.Graph, x: ir.Value, nodes: list[ir.Node]) -> None:
    weights = [_weight(node) for node in nodes]
    stem = str(nodes[0].outputs[0].name)
    stacked = add_initializer(graph, f"{operands(nodes[0], 2)[1].name}.stacked", np.concatenate(weights, axis=1))
    emit = Emitter(graph, f"{stem}.stacked/", before=nodes[0])
    product = emit("MatMul", x, stacked)
    sizes = emit.constant([weight.shape[1] for weight in weights])
    parts = emit.many("Split", len(nodes), product, sizes, axis=-1)
    for node, part in zip(nodes, parts, strict=True):
        replace_node(node, [], [part])
