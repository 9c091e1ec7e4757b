"""Trees of rows in standard operators: the depths and the numbers of the dialect's reference."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import find_nodes, remove_unused
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.own_attention import own_attention
from forerun_compiler.passes.quantize_int8 import OPERATORS
from forerun_compiler.passes.spell_out_trees import lower_tree_depth
from forerun_compiler.passes.tensorrt_attention import tensorrt_attention
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, run

H, G, D, C = 4, 2, 16, 40
TOLERANCE = 3e-6
"""Of outputs near 1: float32 against the reference's float64."""
TREES = ([-1, 0, 1, 1, 2, 3, 3, 0], [-1, 0, 1, 2, 3, 4, 5, 6], [-1, -1, -1, 0, 1, 2, 3, -1], [-1])


def tree_graph(*, other_tree: bool = False, ragged: bool = False, window: int = 0) -> ir.Model:
    """Rows of q, k and v, rotated by the depths of a tree, and the attention over it."""
    rows = {name: ir.val(name, FLOAT, [1, "T", heads * D]) for name, heads in (("q", H), ("k", G), ("v", G))}
    trees = [ir.val(name, INT, [1, "T"]) for name in ("parents", "others")[: 1 + other_tree]]
    position, count = ir.val("position", INT, [1]), ir.val("rows", INT, [1])
    caches = [ir.val(name, FLOAT, [1, G, C, D]) for name in ("k_cache", "v_cache")]
    depth = node("TreeDepth", trees[-1:], ("depth", [1, "T"]), domain=dialect.DOMAIN)
    ids = node("Add", [position, depth.outputs[0]], ("ids", [1, "T"]))
    depth.outputs[0].dtype = ids.outputs[0].dtype = INT
    angles = np.random.default_rng(0).uniform(0, 7, (C, D // 2))
    tables = [constant("cos", np.cos(angles)), constant("sin", np.sin(angles))]
    nodes, made = [depth, ids], []
    for (name, value), heads in zip(rows.items(), (H, G, G), strict=True):
        sizes = constant(f"{name}.sizes", [1, -1, heads, D], np.int64)
        nodes.append(node("Reshape", [value, sizes], (f"{name}.split", [1, "T", heads, D])))
        shape = [1, heads, "T", D]
        nodes.append(node("Transpose", nodes[-1].outputs, (f"{name}.heads", shape), perm=[0, 2, 1, 3]))
        if name != "v":
            operands = [nodes[-1].outputs[0], *tables, ids.outputs[0]]
            nodes.append(node("RotaryEmbedding", operands, (f"{name}.turned", shape)))
        made.append(nodes[-1].outputs[0])
    outputs = [("out", [1, H, "T", D]), ("k_cache.out", [1, G, C, D]), ("v_cache.out", [1, G, C, D])]
    inputs = [*made, *caches, position, None, None, trees[0], *([count] if ragged else [])]
    attributes = dialect.CachedAttention(0.3, window=window).attributes()
    nodes.append(node("CachedAttention", inputs, *outputs, domain=dialect.DOMAIN, **attributes))
    given = [*rows.values(), *caches, position, *trees, *([count] if ragged else [])]
    return make_model(given, nodes, nodes[-1].outputs)


def random_feeds(parents: list[int], position: int) -> dict[str, np.ndarray]:
    rng, rows = np.random.default_rng(position), len(parents)
    shapes = {"q": (1, rows, H * D), "k": (1, rows, G * D), "v": (1, rows, G * D)}
    shapes |= {f"{side}_cache": (1, G, C, D) for side in "kv"}
    feeds: dict[str, np.ndarray] = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return feeds | {"position": np.array([position]), "parents": np.array([parents])}


def check_numbers(model: ir.Model, expected: dialect.Evaluator) -> None:
    model.graph.opset_imports.pop(dialect.DOMAIN, None)
    for parents in TREES:
        for position in (0, 1, 9, C - 8):
            feeds = random_feeds(parents, position)
            want, found = expected(feeds), run(model, feeds)
            for name, array in want.items():  # caches that are not in place are not copied beyond the new rows
                rows = slice(0, position + len(parents))
                got, reference = found[name][:, :, rows], array[:, :, rows]
                np.testing.assert_allclose(got, reference, rtol=0, atol=TOLERANCE, err_msg=f"{parents} {position}")


@pytest.mark.parametrize("window", [0, 1, 3])
def test_standard_operators(window: int) -> None:
    model = tree_graph(window=window)
    expected = dialect.Evaluator(model)
    assert lower_attention(model) == 1
    assert lower_tree_depth(model) == 1
    assert op_types(model).count("GroupQueryAttention") == 1
    check_numbers(model, expected)


@pytest.mark.parametrize("window", [0, 3])
def test_our_operator_takes_the_tree(window: int) -> None:
    model = tree_graph(window=window)
    expected = dialect.Evaluator(model)
    assert own_attention(model) == 1
    (made,) = find_nodes(model.graph, "CachedAttention", OPERATORS)
    assert [value.name for value in made.inputs if value is not None][-1] == "parents"
    remove_unused(model)
    assert op_types(model) == ["CachedAttention", "Concat", "Reshape", "Transpose"]
    check_numbers(model, expected)


def test_depths_that_nothing_reads_go() -> None:
    model = tree_graph()
    own_attention(model)
    for op_type in ("RotaryEmbedding", "RotaryEmbedding", "Add"):
        node_of = find_nodes(model.graph, op_type)[-1]
        model.graph.remove(node_of, safe=True)
    assert lower_tree_depth(model) == 1
    assert not find_nodes(model.graph, "TreeDepth", dialect.DOMAIN)
    assert not find_nodes(model.graph, "MatMul")


def test_rotations_of_another_tree_stay() -> None:
    model = tree_graph(other_tree=True)
    assert own_attention(model) == 0


def test_trees_are_refused_for_tensorrt() -> None:
    model = tree_graph()
    model.graph.outputs[0].name = "committed"  # whose second size is the width of decoding
    with pytest.raises(PassError, match="int8 caches, trees and ragged batches are not lowered for TensorRT"):
        tensorrt_attention(model)


def test_a_number_of_rows_is_refused_by_the_library_s_operators() -> None:
    with pytest.raises(PassError, match=r"all rows there, .* only batch 1 is lowered for ONNX Runtime"):
        lower_attention(tree_graph(ragged=True))
