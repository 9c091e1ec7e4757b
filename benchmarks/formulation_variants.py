"""The formulations that `lower_ort` does not use, so that its choices can be measured against them again."""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import (
    add_initializer,
    constant_array,
    find_nodes,
    new_node,
    producer,
    remove_unused,
    replace_node,
)
from forerun_compiler.passes.emitter import Emitter, operands

MICROSOFT = "com.microsoft"


def outer_rotations(model: ir.Model) -> int:
    """Keep rotations out of the attention: a second reader of each is enough for the lowering to leave it alone."""
    nodes = find_nodes(model.graph, "RotaryEmbedding")
    for number, node in enumerate(nodes):
        Emitter(model.graph, f"outer.{number}.")("Identity", node.outputs[0])
    return len(nodes)


def attention_op(model: ir.Model) -> int:
    """Every attention as TensorScatter, a Slice to the rows in use, and the standard Attention with a mask."""
    graph, masks = model.graph, dict[tuple[ir.Value, str], tuple[ir.Value, ir.Value]]()
    nodes = find_nodes(graph, "CachedAttention", dialect.DOMAIN)
    for number, node in enumerate(nodes):
        attributes = dialect.CachedAttention.from_node(node)
        q, k, v, k_cache, v_cache, position = operands(node, 6)
        emit = Emitter(graph, f"attention.{number}.", before=node)
        written = [emit("TensorScatter", cache, new, position, axis=2) for cache, new in ((k_cache, k), (v_cache, v))]
        key = (position, attributes.mask)
        if key not in masks:
            masks[key] = _mask(Emitter(graph, f"mask.{number}.", before=node), k, position, attributes.mask)
        total, mask = masks[key]
        bounds = (emit.constant([0]), total, emit.constant([2]))
        seen = [emit("Slice", cache, *bounds) for cache in written]
        out = emit("Attention", q, *seen, mask, scale=attributes.scale)
        replace_node(node, [], [out, *written])
    for number, node in enumerate(find_nodes(graph, "CacheWrite", dialect.DOMAIN)):
        k, v, k_cache, v_cache, position = operands(node, 5)
        emit = Emitter(graph, f"write.{number}.", before=node)
        written = [emit("TensorScatter", cache, new, position, axis=2) for cache, new in ((k_cache, k), (v_cache, v))]
        replace_node(node, [], written)
    return len(nodes)


def _mask(emit: Emitter, k: ir.Value, position: ir.Value, mask: str) -> tuple[ir.Value, ir.Value]:
    """Number of rows in use, int64 [1], and bool [T, total]: which of them each query sees."""
    rows = emit("Shape", k, start=2, end=3)
    total = emit("Add", position, rows)
    key = emit(
        "Unsqueeze", emit("Range", emit.constant(0), emit("Squeeze", total), emit.constant(1)), emit.constant([0])
    )
    index = emit("Range", emit.constant(0), emit("Squeeze", rows), emit.constant(1))
    last = emit("Add", index, position) if mask == dialect.CAUSAL else emit("Expand", total, rows)
    return total, emit("LessOrEqual", key, emit("Unsqueeze", last, emit.constant([1])))


def chained_writes(model: ir.Model) -> int:
    """Part the drafter's context write from its block: an Identity between them is enough."""
    nodes = find_nodes(model.graph, "CacheWrite", dialect.DOMAIN)
    for number, node in enumerate(nodes):
        for index, value in enumerate(list(node.outputs)):
            use = next(iter(value.uses()))
            emit = Emitter(model.graph, f"chain.{number}.{index}.", before=use.node)
            between = emit("Identity", value)
            between.type, between.shape = value.type, value.shape
            use.node.replace_input_with(use.idx, between)
    return len(nodes)


def transposed_heads(model: ir.Model) -> int:
    """Give each LM head its own transposed copy: the embedding gets one of its own, which nothing ties."""
    fired = 0
    for node in find_nodes(model.graph, "Transpose"):
        weight = node.inputs[0]
        if weight is None or weight.const_value is None or not any(u.node.op_type == "Gather" for u in weight.uses()):
            continue
        array = constant_array(weight)
        assert array is not None
        node.replace_input_with(0, add_initializer(model.graph, f"{weight.name}.copy.{fired}", array.copy()))
        fired += 1
    return fired


def fused_norms(model: ir.Model) -> int:
    """A residual sum and the norm that reads it become one SkipSimplifiedLayerNormalization."""
    graph, fired = model.graph, 0
    for norm in find_nodes(graph, "RMSNormalization"):
        total = producer(norm.inputs[0], "Add")
        shapes = [value.shape for value in total.inputs if value is not None] if total else []
        if total is None or len(shapes[0] or ()) != 3 or shapes[0] != shapes[1]:
            continue
        stem, attributes = str(norm.outputs[0].name), {"epsilon": norm.attributes["epsilon"].as_float()}
        outputs = [f"{stem}.{name}" for name in ("fused", "mean", "deviation", "sum")]
        inputs = [*total.inputs, norm.inputs[1]]
        fused = new_node("SkipSimplifiedLayerNormalization", inputs, outputs, attributes, domain=MICROSOFT)
        replace_node(total, [fused], [fused.outputs[3]])
        replace_node(norm, [], [fused.outputs[0]])
        fired += 1
    return fired


def both_branches(model: ir.Model) -> int:
    """Compute both branches of every If and choose by Where."""
    graph = model.graph
    nodes = find_nodes(graph, "If")
    for number, node in enumerate(nodes):
        emit = Emitter(graph, f"both.{number}.", before=node)
        results = []
        for name in ("then_branch", "else_branch"):
            branch = node.attributes[name].as_graph()
            results.append(list(branch.outputs))
            branch.outputs.clear()
            inner = list(branch)
            branch.remove(inner)
            for each in inner:
                emit.add(each)
        condition = operands(node, 1)[0]
        replace_node(node, [], [emit("Where", condition, hot, cold) for hot, cold in zip(*results, strict=True)])
    remove_unused(model)
    return len(nodes)
