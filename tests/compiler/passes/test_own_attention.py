"""Our attention operator takes what it computes, exactly that, and gives what the dialect's reference gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import tiny_models
from forerun_compiler import dialect
from forerun_compiler.graph import check_graph, find_nodes, remove_unused
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.name_products import name_products
from forerun_compiler.passes.own_attention import own_attention
from forerun_compiler.passes.quantize_caches import quantize_caches
from forerun_compiler.passes.quantize_int8 import OPERATORS
from forerun_compiler.passes.stack_products import stack_products
from forerun_compiler.target import load_target, trace_target
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, session

H, G, C, T = 4, 2, 150, "T"
TOLERANCE = 3e-6
"""Of outputs near 1: float32 against the reference's float64."""
CODE_TOLERANCE = 2e-3
"""Where two of some thousand codes may differ by one."""
POSITIONS = (0, 1, 63, 64, 120, C - 9)


def attention_graph(
    *,
    stacked: bool = True,
    dim: int = 16,
    turned: int = 0,
    norm: bool = True,
    rotate: bool = True,
    interleaved: int = 0,
    table_rows: int = C,
    computed_norm: bool = False,
    start: int = 0,
    **attributes: float | int | str,
) -> ir.Model:
    """Rows of q, k and v as the trace leaves them: split, reshape, norm, transpose, rotation, attention."""
    rng = np.random.default_rng(0)
    widths = (H * dim, G * dim, G * dim)
    qkv, position = ir.val("qkv", FLOAT, [1, T, sum(widths)]), ir.val("position", INT, [1])
    count, weight_in = ir.val("count", INT, []), ir.val("weight", FLOAT, [dim])
    caches = [ir.val(name, FLOAT, [1, G, C, dim]) for name in ("k_cache", "v_cache")]
    sizes = constant("sizes", widths, np.int64)
    split = node("Split", [qkv, sizes], *((f"part{i}", [1, T, w]) for i, w in enumerate(widths)), axis=-1)
    parts = split.outputs if stacked else [ir.val(f"part{i}", FLOAT, [1, T, w]) for i, w in enumerate(widths)]
    nodes = [split] if stacked else []
    zero, one = constant("start", start, np.int64), constant("one", 1, np.int64)
    row = node("Range", [zero, count, one], ("row", [T]))
    wide = node("Unsqueeze", [row.outputs[0], constant("axis", [0], np.int64)], ("wide", [1, T]))
    ids = node("Add", [position, wide.outputs[0]], ("ids", [1, T]))
    for each in (row, wide, ids):
        each.outputs[0].dtype = INT
    turned = turned or dim
    angles = rng.uniform(0, 7, (table_rows, turned // 2))
    tables = [constant("cos", np.cos(angles)), constant("sin", np.sin(angles))]
    nodes += [row, wide, ids] if rotate else []
    made = []
    for name, part, heads in zip("qkv", parts, (H, G, G), strict=True):
        step = node("Reshape", [part, constant(f"{name}.shape", [1, -1, heads, dim], np.int64)], (f"{name}.1", []))
        nodes.append(step)
        if norm and name != "v":
            weight = weight_in if computed_norm else constant(f"{name}.norm", rng.uniform(0.5, 2, dim))
            step = node("RMSNormalization", [step.outputs[0], weight], (f"{name}.2", []), axis=-1, epsilon=1e-3)
            nodes.append(step)
        shape = [1, heads, T, dim]
        step = node("Transpose", [step.outputs[0]], (f"{name}.3", shape), perm=[0, 2, 1, 3])
        nodes.append(step)
        if rotate and name != "v":
            operands = [step.outputs[0], *tables, ids.outputs[0]]
            partial = turned if turned != dim else 0
            step = node(
                "RotaryEmbedding", operands, (name, shape), interleaved=interleaved, rotary_embedding_dim=partial
            )
            nodes.append(step)
        made.append(step.outputs[0])
    given = {"scale": 0.3, "mask": "causal", "window": 0, "softcap": 0.0} | attributes
    outputs = [("out", [1, H, T, dim]), ("k_cache.out", [1, G, C, dim]), ("v_cache.out", [1, G, C, dim])]
    last = node("CachedAttention", [*made, *caches, position], *outputs, domain=dialect.DOMAIN, **given)
    inputs = [*([qkv] if stacked else parts), position, *caches]
    inputs += [count] * rotate + [weight_in] * computed_norm
    nodes.append(last)
    assert len(nodes) <= 15
    return make_model(inputs, nodes, last.outputs)


def feeds_of(model: ir.Model, rng: np.random.Generator, rows: int, position: int) -> dict[str, Any]:
    """Random rows and caches; what is after `position` in a cache is junk."""
    feeds: dict[str, Any] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        feeds[str(value.name)] = rng.standard_normal([rows if not isinstance(n, int) else n for n in value.shape])
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    for name in ("k_cache", "v_cache"):
        feeds[name][:, :, position:] = 1e3
    feeds["position"] = np.array([position])
    return feeds | {"count": np.array(rows)}


def check_numbers(model: ir.Model, expected: dialect.Evaluator) -> None:
    opened, rng = session(model), np.random.default_rng(1)
    names = [output.name for output in opened.get_outputs()]
    wanted = {each.name for each in opened.get_inputs()}
    for rows in (1, 3, 8):
        for position in POSITIONS:
            feeds = feeds_of(model, rng, rows, position)
            want = expected(feeds)
            got = opened.run(None, {name: array for name, array in feeds.items() if name in wanted})
            for name, array in zip(names, got, strict=True):
                np.testing.assert_allclose(array, want[name], rtol=0, atol=TOLERANCE, err_msg=f"{rows=} {position=}")


def take_over(model: ir.Model) -> int:
    """Run the pass as the table does, and drop the inputs that only counted rows."""
    count = own_attention(model)
    remove_unused(model)
    model.graph.inputs[:] = [value for value in model.graph.inputs if value.uses()]
    check_graph(model, "own attention")
    model.graph.opset_imports.pop(dialect.DOMAIN, None)
    return count


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 5},
        {"window": 70, "softcap": 2.0},
        {"norm": False},
        {"rotate": False},
        {"norm": False, "rotate": False, "dim": 48},
        {"dim": 32, "turned": 12},
    ],
    ids=str,
)
def test_one_operator_does_all(options: dict[str, Any]) -> None:
    model = attention_graph(**options)
    expected = dialect.Evaluator(model)
    assert take_over(model) == 1
    assert op_types(model) == ["CachedAttention", "Reshape", "Transpose"]  # the graph's output is [1,H,T,D]
    (made,) = find_nodes(model.graph, "CachedAttention", OPERATORS)
    assert made.inputs[0] is model.graph.inputs[0]
    check_numbers(model, expected)


def test_caches_of_int8() -> None:
    model = attention_graph()
    plain = model.clone()
    quantize_caches(model)
    expected = dialect.Evaluator(model)
    assert take_over(model) == 1
    assert op_types(model) == ["CachedAttentionInt8", "Reshape", "Transpose"]
    opened, rng = session(model), np.random.default_rng(1)
    for position in POSITIONS:
        feeds = int8_feeds(feeds_of(plain, rng, 8, position))
        want = expected(feeds)
        names = [output.name for output in opened.get_outputs()]
        given = {each.name: feeds[each.name] for each in opened.get_inputs()}
        found = dict(zip(names, opened.run(None, given), strict=True))
        # A key that both round to another code, where its norm is computed with other rounding, moves the output.
        np.testing.assert_allclose(found["out"], want["out"], rtol=0, atol=CODE_TOLERANCE)
        for name in ("k_cache", "v_cache"):
            far = np.abs(found[f"{name}.out"].astype(int) - want[f"{name}.out"])
            assert far.max() <= 1
            assert np.count_nonzero(far) <= 2
            scales = f"{name}_scale.out"
            np.testing.assert_allclose(found[scales], want[scales], rtol=1e-6, atol=0)


def int8_feeds(feeds: dict[str, Any]) -> dict[str, Any]:
    """The same with caches as codes and scales."""
    found = dict(feeds)
    for name in ("k_cache", "v_cache"):
        found[name], found[f"{name}_scale"] = dialect.int8_rows(found[name].astype(np.float32))
    return found


def test_rows_that_stand_apart_are_joined() -> None:
    model = attention_graph(stacked=False)
    expected = dialect.Evaluator(model)
    assert take_over(model) == 1
    assert op_types(model) == ["CachedAttention", "Concat", "Reshape", "Transpose"]
    check_numbers(model, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "block"},
        {"interleaved": 1},
        {"computed_norm": True},
        {"dim": 24},
        {"dim": 272},
        {"table_rows": C - 1},
        {"start": 1},
    ],
    ids=str,
)
def test_what_the_operator_does_not_compute_stays(options: dict[str, Any]) -> None:
    model = attention_graph(**options)
    before = op_types(model)
    assert own_attention(model) == 0
    assert op_types(model) == before


@pytest.mark.parametrize(
    ("architecture", "joined_by", "overrides"),
    [
        ("qwen3", "Linear", {}),
        ("llama", "Concat", {}),  # biases stand between the products and the split
        ("qwen2", "Concat", {}),
        ("mistral", "Linear", {"head_dim": 32}),
        ("gemma2", "Linear", {}),
        ("gemma3_text", "Linear", {}),
        ("olmo2", "Concat", {}),  # norms of whole rows
        ("smollm3", "Linear", {}),
        ("phi3", "Concat", {}),
    ],
)
def test_architectures(architecture: str, joined_by: str, overrides: dict[str, int], tmp_path: Path) -> None:
    folder = tiny_models.save_target(tmp_path, architecture, **overrides)
    model = trace_target(load_target(folder), (0, 2), 48)
    name_products(model)
    stack_products(model)
    asked = [dialect.CachedAttention.from_node(each) for each in find_nodes(model.graph, "CachedAttention", "forerun")]
    assert own_attention(model) == len(asked) >= 3
    remove_unused(model)
    check_graph(model, "own attention")
    made = find_nodes(model.graph, "CachedAttention", OPERATORS)
    for each, attributes in zip(made, asked, strict=True):
        source = each.inputs[0].producer() if each.inputs[0] is not None else None
        assert source is not None
        assert source.op_type == joined_by
        assert each.attributes["window"].as_int() == attributes.window
        assert each.attributes["softcap"].as_float() == attributes.softcap
    assert not find_nodes(model.graph, "RotaryEmbedding")


def test_heads_that_the_operator_has_no_loops_for_stay(tmp_path: Path) -> None:
    folder = tiny_models.save_target(tmp_path, "mistral", head_dim=24)
    model = trace_target(load_target(folder), (0, 2), 48)
    name_products(model)
    assert own_attention(model) == 0
    assert lower_attention(model) == 3
