"""Our block operator takes a block and the context before it, exactly that, and gives what the dialect's ops give."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.graph import check_graph, find_nodes, remove_unused
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.own_block_attention import own_block_attention
from forerun_compiler.passes.quantize_caches import quantize_caches
from forerun_compiler.passes.quantize_int8 import OPERATORS
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, session

H, G, D, C, S, T = 4, 2, 16, 150, 7, 9
TOLERANCE = 3e-6
"""Of outputs near 1: float32 against the reference's float64."""

CODE_TOLERANCE = 2e-3
"""Where two of some thousand codes may differ by one."""


class Side:
    """What stands between rows and heads, of the block or of the context: reshape, transpose, norm, rotation."""

    def __init__(self, name: str, rows: int, position: ir.Value) -> None:
        self.nodes: list[ir.Node] = []
        self._name, self._rows, self._position = name, rows, position

    def heads(self, rows: ir.Value, heads: int) -> ir.Value:
        split = constant(f"{rows.name}.shape", [1, -1, heads, D], np.int64)
        value = self._add("Reshape", [rows, split], f"{rows.name}.split", [1, self._rows, heads, D])
        return self._add("Transpose", [value], f"{rows.name}.heads", [1, heads, self._rows, D], perm=[0, 2, 1, 3])

    def norm(self, value: ir.Value, seed: int) -> ir.Value:
        weight = constant(f"{value.name}.norm", np.random.default_rng(seed).uniform(0.5, 2, D))
        return self._add("RMSNormalization", [value, weight], f"{value.name}.normed", value.shape, epsilon=1e-3)

    def ids(self, start: int) -> ir.Value:
        slots = constant(f"{self._name}.slots", start + np.arange(self._rows)[None], np.int64)
        value = self._add("Add", [self._position, slots], f"{self._name}.ids", [1, self._rows])
        value.dtype = INT
        return value

    def tables(self, seed: int) -> list[ir.Value]:
        angles = np.random.default_rng(seed).uniform(0, 7, (C, D // 2))
        return [constant(f"{self._name}.{name}", part(angles)) for name, part in (("cos", np.cos), ("sin", np.sin))]

    def turn(self, value: ir.Value, tables: list[ir.Value], ids: ir.Value) -> ir.Value:
        return self._add("RotaryEmbedding", [value, *tables, ids], f"{value.name}.turned", value.shape)

    def _add(self, op: str, inputs: list[ir.Value], name: str, shape: Any, **attributes: object) -> ir.Value:
        self.nodes.append(node(op, inputs, (name, shape), **attributes))
        return self.nodes[-1].outputs[0]


def block_graph(
    *,
    rotate: bool,
    context_norm: int = 1,
    context_table: int = 1,
    context_start: int = 0,
    block_start: int = 0,
    seen_between: bool = False,
    **attributes: float | int | str,
) -> ir.Model:
    """With norms of q and k; or with a norm of k and rotations, and then v has the same rows as k."""
    position, start = ir.val("position", INT, [1]), ir.val("start", INT, [1])
    caches = [ir.val(name, FLOAT, [1, G, C, D]) for name in ("k_cache", "v_cache")]
    names = ("q", "k", "context_k") if rotate else ("q", "k", "v", "context_k", "context_v")
    rows = {
        name: ir.val(name, FLOAT, [1, T if name.startswith("context") else S, (H if name == "q" else G) * D])
        for name in names
    }
    context, block = Side("context", T, start), Side("block", S, position)
    context_v = context_k = context.heads(rows["context_k"], G)
    context_k = context.norm(context_k, context_norm)
    q, k = block.heads(rows["q"], H), block.heads(rows["k"], G)
    v, k = k, block.norm(k, 1)
    if rotate:
        context_k = context.turn(context_k, context.tables(context_table), context.ids(context_start))
        tables, ids = block.tables(1), block.ids(block_start)
        q, k = block.turn(q, tables, ids), block.turn(k, tables, ids)
    else:
        q = block.norm(q, 2)
        v, context_v = block.heads(rows["v"], G), context.heads(rows["context_v"], G)
    between = [(f"{each.name}.between", [1, G, C, D]) for each in caches]
    write = node("CacheWrite", [context_k, context_v, *caches, start], *between, domain=dialect.DOMAIN)
    given = {"scale": 0.3, "mask": "block", "window": 0, "softcap": 0.0} | attributes
    outputs = [("out", [1, H, S, D]), ("k_cache.out", [1, G, C, D]), ("v_cache.out", [1, G, C, D])]
    last = node("CachedAttention", [q, k, v, *write.outputs, position], *outputs, domain=dialect.DOMAIN, **given)
    nodes = [*context.nodes, *block.nodes, write, last]
    assert len(nodes) <= 15
    seen = write.outputs[:1] if seen_between else []
    return make_model([*rows.values(), *caches, start, position], nodes, [*last.outputs, *seen])


def feeds_of(model: ir.Model, rng: np.random.Generator, start: int, kept: int) -> dict[str, Any]:
    """Random rows, and caches that hold junk after `start`."""
    floats = [value for value in model.graph.inputs if value.dtype == FLOAT]
    feeds: dict[str, Any] = {str(v.name): rng.standard_normal(v.shape.numpy(), np.float32) for v in floats if v.shape}
    for name in ("k_cache", "v_cache"):
        feeds[name][:, :, start:] = 1e3
    return feeds | {"start": np.array([start]), "position": np.array([start + kept])}


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_one_operator_does_all(rotate: bool, softcap: float) -> None:
    model, rng = block_graph(rotate=rotate, softcap=softcap), np.random.default_rng(3)
    expected = dialect.Evaluator(model)
    assert own_block_attention(model) == 2
    remove_unused(model)
    check_graph(model, "own block attention")
    model.graph.opset_imports.pop(dialect.DOMAIN, None)
    # The rows of q, k and v are inputs of their own, and the graph's output is [1,H,S,D].
    assert op_types(model) == ["BlockAttention", "Concat", "Reshape", "Transpose"]
    assert find_nodes(model.graph, "BlockAttention", OPERATORS)
    opened = session(model)
    for start in (0, 1, 60, C - T - S):
        for kept in (0, 1, 4, T):
            feeds, end = feeds_of(model, rng, start, kept), start + kept + S
            want = expected(feeds)
            out, *caches = opened.run(None, feeds)
            np.testing.assert_allclose(out, want["out"], rtol=0, atol=TOLERANCE, err_msg=f"{start=} {kept=}")
            for name, array in zip(("k_cache", "v_cache"), caches, strict=True):
                np.testing.assert_allclose(array[:, :, :end], want[f"{name}.out"][:, :, :end], rtol=0, atol=TOLERANCE)
                np.testing.assert_array_equal(array[:, :, end:], feeds[name][:, :, end:])  # the dialect writes junk


def test_caches_of_int8() -> None:
    model, rng = block_graph(rotate=True), np.random.default_rng(3)
    feeds = feeds_of(model, rng, 60, 4)
    quantize_caches(model)
    expected = dialect.Evaluator(model)
    assert own_block_attention(model) == 2
    remove_unused(model)
    check_graph(model, "own block attention")
    model.graph.opset_imports.pop(dialect.DOMAIN, None)
    assert op_types(model) == ["BlockAttentionInt8", "Concat", "Reshape", "Transpose"]
    for name in ("k_cache", "v_cache"):
        wide = rng.standard_normal((1, G, C, D), np.float32)
        feeds[name], feeds[f"{name}_scale"] = dialect.int8_rows(wide)
    want, opened = expected(feeds), session(model)
    found = dict(zip([each.name for each in opened.get_outputs()], opened.run(None, feeds), strict=True))
    np.testing.assert_allclose(found["out"], want["out"], rtol=0, atol=CODE_TOLERANCE)
    for name in ("k_cache", "v_cache"):
        far = np.abs(found[f"{name}.out"].astype(int) - want[f"{name}.out"])[:, :, : 60 + 4 + S]
        assert far.max() <= 1
        assert np.count_nonzero(far) <= 2


@pytest.mark.parametrize(
    "options",
    [
        {"context_norm": 5},
        {"context_table": 5},
        {"context_start": 1},
        {"block_start": 1},
        {"seen_between": True},
        {"window": 9},
        {"mask": "causal"},
    ],
    ids=str,
)
def test_what_the_operator_does_not_compute_stays(options: dict[str, Any]) -> None:
    model = block_graph(rotate=True, **options)
    before = op_types(model)
    assert own_block_attention(model) == 0
    assert op_types(model) == before


def test_a_block_without_a_context_stays() -> None:
    model = block_graph(rotate=False)
    write, attention = find_nodes(model.graph, "CacheWrite", "forerun")[0], model.graph[-1]
    for index in (3, 4):
        attention.replace_input_with(index, write.inputs[index - 1])
    remove_unused(model)
    assert own_block_attention(model) == 0
    assert lower_attention(model) == 1
