"""The canonical form of traced graphs: few, named, large ops instead of the arithmetic that models spell out.

Each rule looks for one pattern and replaces it by an op of the same value; what it does not recognise stays as it is,
which is slower but not wrong.

    MatMul(x, Transpose(w)) [+ b]                for a linear layer, w with its own name and layout [out, in]
    RMSNormalization(x, scale)                   for x / sqrt(mean(x^2) + eps) * scale
    RotaryEmbedding(x, cos, sin, position_ids)   for x * cos + rotate_half(x) * sin over tables indexed by position
    Gather(x, rows, axis=1)                      for x[:, rows]
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler import graph as g

TRACE_DOMAIN = "forerun.trace"
"""`Linear(x, w [out, in], b?)` exists only between torch's exporter and `rewrite`, so that the exporter's constant
folding does not transpose small weights and leave large ones."""


def rewrite(model: ir.Model) -> None:
    """Bring a freshly exported model to canonical form, in place."""
    graph = model.graph
    _expand_linear(graph)
    _fuse_rms_norms(graph)
    g.remove_unused(model)
    _fuse_rotations(graph)
    g.remove_unused(model)
    _fuse_partial_rotations(graph)
    _fuse_row_gathers(graph)
    g.remove_unused(model)


def _expand_linear(graph: ir.Graph) -> None:
    transposed: dict[ir.Value, ir.Value] = {}
    for node in g.find_nodes(graph, "Linear", TRACE_DOMAIN):
        x, weight, *bias = node.inputs
        assert weight is not None
        stem, new = str(node.outputs[0].name), []
        if weight not in transposed:
            turn = g.new_node("Transpose", [weight], [f"{weight.name}.T"], {"perm": [1, 0]})
            assert weight.shape is not None
            turn.outputs[0].type, turn.outputs[0].shape = weight.type, ir.Shape([weight.shape[1], weight.shape[0]])
            transposed[weight] = turn.outputs[0]
            new.append(turn)
        new.append(g.new_node("MatMul", [x, transposed[weight]], [f"{stem}.matmul"]))
        if bias:
            product = new[-1].outputs[0]
            product.type, product.shape = node.outputs[0].type, node.outputs[0].shape
            new.append(g.new_node("Add", [product, bias[0]], [f"{stem}.biased"]))
        g.replace_node(node, new, new[-1].outputs)


def _fuse_rms_norms(graph: ir.Graph) -> None:
    """x * (1 / sqrt(mean(x^2, -1) + eps)) * scale, in either order of the products."""
    for node in g.find_nodes(graph, "Mul"):
        for normed, scale in (node.inputs, reversed(node.inputs)):
            found = _match_normed(normed)
            array = g.constant_array(scale)
            if found is None or array is None or scale is None:
                continue
            x, epsilon = found
            if x.shape is None or array.shape != (x.shape[-1],):
                continue
            # stash_type 1: the mean is taken in float32, as the models do.
            new = g.new_node(
                "RMSNormalization", [x, scale], [f"{node.outputs[0].name}.norm"], {"axis": -1, "epsilon": epsilon}
            )
            g.replace_node(node, [new], new.outputs)
            break


def _match_normed(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """Match x * Reciprocal(Sqrt(ReduceMean(Pow(x, 2), -1) + eps)) and return x and eps."""
    product = g.producer(value, "Mul")
    if product is None:
        return None
    for x, inverse in (product.inputs, reversed(product.inputs)):
        reciprocal = g.producer(inverse, "Reciprocal")
        root = g.producer(reciprocal.inputs[0], "Sqrt") if reciprocal else None
        total = g.producer(root.inputs[0], "Add") if root else None
        if x is None or total is None:
            continue
        for mean_value, epsilon_value in (total.inputs, reversed(total.inputs)):
            mean = g.producer(mean_value, "ReduceMean")
            epsilon = g.constant_scalar(epsilon_value)
            if mean is not None and epsilon is not None and _is_mean_square(mean, x):
                return x, float(epsilon)
    return None


def _is_mean_square(mean: ir.Node, x: ir.Value) -> bool:
    power = g.producer(mean.inputs[0], "Pow")
    axes = g.constant_array(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if power is None or axes is None or power.inputs[0] is not x or g.constant_scalar(power.inputs[1]) != 2:
        return False
    keep = mean.attributes["keepdims"].value if "keepdims" in mean.attributes else 1
    return keep == 1 and axes.tolist() in ([-1], [len(x.shape or ()) - 1])


def _fuse_rotations(graph: ir.Graph) -> None:
    """x * cos + concat(-x[half:], x[:half]) * sin, with cos and sin rows of constant tables."""
    halves: dict[ir.Value, ir.Value] = {}
    for node in g.find_nodes(graph, "Add"):
        for direct, turned in (node.inputs, reversed(node.inputs)):
            found = _match_rotation(direct, turned)
            if found is None:
                continue
            x, cos, sin, positions = found
            tables = [_half_table(graph, table, halves) for table in (cos, sin)]
            new = g.new_node("RotaryEmbedding", [x, *tables, positions], [f"{node.outputs[0].name}.rotary"])
            g.replace_node(node, [new], new.outputs)
            break


def _match_rotation(
    direct: ir.Value | None, turned: ir.Value | None
) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value] | None:
    """Return x, the cos table, the sin table and the positions."""
    plain, cross = g.producer(direct, "Mul"), g.producer(turned, "Mul")
    if plain is None or cross is None:
        return None
    for x, cos in (plain.inputs, reversed(plain.inputs)):
        for swapped, sin in (cross.inputs, reversed(cross.inputs)):
            cos_row, sin_row = _match_table_row(cos), _match_table_row(sin)
            if x is None or cos_row is None or sin_row is None or not _is_rotate_half(swapped, x):
                continue
            if cos_row[1] is sin_row[1] and len(x.shape or ()) == 4:
                return x, cos_row[0], sin_row[0], cos_row[1]
    return None


def _match_table_row(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """Match Unsqueeze(Gather(table [C,D], positions [1,T]), 1) with equal halves of D; return table and positions."""
    lifted = g.producer(value, "Unsqueeze")
    gather = g.producer(lifted.inputs[0], "Gather") if lifted else None
    if lifted is None or gather is None or g.constant_scalar(lifted.inputs[1]) != 1:
        return None
    table, positions = gather.inputs
    array = g.constant_array(table)
    axis = gather.attributes["axis"].value if "axis" in gather.attributes else 0
    if table is None or positions is None or array is None or array.ndim != 2 or axis != 0:
        return None
    low, high = np.split(array, 2, axis=1)
    return (table, positions) if np.array_equal(low, high) else None


def _is_rotate_half(value: ir.Value | None, x: ir.Value) -> bool:
    """Match Concat(Neg(x[..., D/2:]), x[..., :D/2])."""
    concat = g.producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or x.shape is None or not isinstance(x.shape[-1], int):
        return False
    negated = g.producer(concat.inputs[0], "Neg")
    half = x.shape[-1] // 2
    return (
        negated is not None
        and _slice_of_last(negated.inputs[0], x) == (half, 2 * half)
        and _slice_of_last(concat.inputs[1], x) == (0, half)
    )


def _slice_of_last(value: ir.Value | None, x: ir.Value) -> tuple[int, int] | None:
    """Return start and end when `value` is x[..., start:end], else None."""
    node = g.producer(value, "Slice")
    if node is None or node.inputs[0] is not x or x.shape is None or not isinstance(x.shape[-1], int):
        return None
    start, end, axis = (g.constant_scalar(operand) for operand in node.inputs[1:4])
    step = g.constant_scalar(node.inputs[4]) if len(node.inputs) > 4 else 1
    if start is None or end is None or step != 1 or axis not in (-1, len(x.shape) - 1):
        return None
    return int(start), min(int(end), x.shape[-1])


def _half_table(graph: ir.Graph, table: ir.Value, halves: dict[ir.Value, ir.Value]) -> ir.Value:
    """Return the table [C, D/2] that RotaryEmbedding reads, made once per table."""
    if table not in halves:
        array = g.constant_array(table)
        assert array is not None
        halves[table] = g.add_initializer(graph, f"{table.name}.half", np.split(array, 2, axis=1)[0].copy())
    return halves[table]


def _fuse_partial_rotations(graph: ir.Graph) -> None:
    """Concat(rotary(x[..., :r]), x[..., r:]) becomes one RotaryEmbedding of the first r dims."""
    for node in g.find_nodes(graph, "Concat"):
        rotary = g.producer(node.inputs[0], "RotaryEmbedding")
        part = g.producer(rotary.inputs[0], "Slice") if rotary else None
        if rotary is None or part is None or len(node.inputs) != 2 or part.inputs[0] is None:
            continue
        x = part.inputs[0]
        first, rest = _slice_of_last(part.outputs[0], x), _slice_of_last(node.inputs[1], x)
        if first is None or rest is None or x.shape is None or first[0] != 0 or rest != (first[1], x.shape[-1]):
            continue
        new = g.new_node(
            "RotaryEmbedding",
            [x, *rotary.inputs[1:]],
            [f"{node.outputs[0].name}.rotary"],
            {"rotary_embedding_dim": first[1]},
        )
        g.replace_node(node, [new], new.outputs)


def _fuse_row_gathers(graph: ir.Graph) -> None:
    """Transpose(GatherND(Transpose(x), rows[:, None])) becomes Gather(x, rows, axis=1)."""
    for node in g.find_nodes(graph, "Transpose"):
        gather = g.producer(node.inputs[0], "GatherND")
        turned = g.producer(gather.inputs[0], "Transpose") if gather else None
        rows = g.producer(gather.inputs[1], "Unsqueeze") if gather else None
        if turned is None or rows is None or not _swap_first(node) or not _swap_first(turned):
            continue
        if g.constant_scalar(rows.inputs[1]) in (-1, 1):
            new = g.new_node(
                "Gather", [turned.inputs[0], rows.inputs[0]], [f"{node.outputs[0].name}.rows"], {"axis": 1}
            )
            g.replace_node(node, [new], new.outputs)


def _swap_first(node: ir.Node) -> bool:
    return list(node.attributes["perm"].value) == [1, 0, 2]
