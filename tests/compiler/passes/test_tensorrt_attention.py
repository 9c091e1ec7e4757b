"""TensorRT's form of the dialect's attention against the dialect's own reference, in place, at many positions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from test_lower_attention import Array, random_states, random_tokens, run_in_place

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.passes.lower_ort import lower_ort
from forerun_compiler.passes.ordered_passes import Pass
from forerun_compiler.passes.tensorrt_attention import tensorrt_attention
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, session

H, G, D, C, S, WIDTH = 4, 2, 32, 40, 5, 4
TOLERANCE = 2e-6
LOWER = (Pass("attention", tensorrt_attention, must_fire=True),)
NARROWER = (Pass("attention", lambda model: tensorrt_attention(model, narrower=True), must_fire=True),)
TABLES = [constant(name, np.random.default_rng(7).uniform(-1, 1, (C, D // 2))) for name in ("cos", "sin")]


def with_width(values: list[ir.Value], nodes: list[ir.Node], outputs: list[ir.Value]) -> ir.Model:
    """A model with an output `committed` [1,WIDTH], which tells how many rows a decoding run has."""
    given = ir.val("given", INT, [1, WIDTH])
    committed = ir.node("Identity", [given], outputs=[ir.val("committed", INT, [1, WIDTH])], name="committed.node")
    return make_model([given, *values], [committed, *nodes], [committed.outputs[0], *outputs])


def attention_model(rows: int | str, layers: int = 1, **attributes: float | int | str) -> ir.Model:
    given = {"scale": 0.3, "mask": "causal", "window": 0, "softcap": 0.0} | attributes
    head_dim = int(given.pop("head_dim", D))
    cache_rows = int(given.pop("cache_rows", C))
    position = ir.val("position", INT, [1])
    inputs, nodes = [position], list[ir.Node]()
    for layer in range(layers):
        sizes = {"q": H, "k": G, "v": G}
        tokens = [ir.val(f"{name}.{layer}", FLOAT, [1, heads, rows, head_dim]) for name, heads in sizes.items()]
        caches = [ir.val(f"{name}.{layer}", FLOAT, [1, G, cache_rows, head_dim]) for name in ("k_cache", "v_cache")]
        outputs = [(f"out.{layer}", [1, H, rows, head_dim])]
        outputs += [(f"{cache.name}.out", [1, G, cache_rows, head_dim]) for cache in caches]
        values = [*tokens, *caches]
        nodes.append(node("CachedAttention", [*values, position], *outputs, domain=dialect.DOMAIN, **given))
        inputs += values
    return with_width(inputs, nodes, [value for each in nodes for value in each.outputs])


def numbered(arrays: dict[str, Array], layer: int = 0) -> dict[str, Array]:
    return {f"{name}.{layer}": array for name, array in arrays.items()}


def wide(arrays: dict[str, Array]) -> dict[str, Array]:
    """Arrays of the other test's head dim, side by side until they have this one's."""
    return {name: np.concatenate([array] * (D // array.shape[-1]), axis=-1) for name, array in arrays.items()}


def check(model: ir.Model, runs: tuple[int, ...], positions: tuple[int, ...], passes: tuple[Pass, ...] = LOWER) -> None:
    """Compare the lowered model with the reference; states exactly."""
    expected, rng = dialect.Evaluator(model), np.random.default_rng(0)
    lower_ort(model, passes)
    opened = session(model)
    for rows in runs:
        for position in positions:
            states, tokens = numbered(wide(random_states(rng))), numbered(wide(random_tokens(rng, rows)))
            feeds = tokens | {"position": np.array([position]), "given": np.zeros((1, WIDTH), np.int64)}
            want = expected(feeds | {name: state.copy() for name, state in states.items()})
            got = run_in_place(opened, feeds, states)
            np.testing.assert_allclose(
                got["out.0"], want["out.0"], rtol=0, atol=TOLERANCE, err_msg=f"{rows=} {position=}"
            )
            for name, state in states.items():
                np.testing.assert_array_equal(state, want[f"{name}.out"])


@pytest.mark.parametrize("attributes", [{}, {"window": 4}, {"window": 1, "scale": 1.0}], ids=str)
def test_causal_attention_of_a_decoding_run_and_of_prefill(attributes: dict[str, float]) -> None:
    check(attention_model("T", **attributes), (WIDTH, 3 * WIDTH), (0, 1, 7, C - 3 * WIDTH))


@pytest.mark.parametrize("attributes", [{}, {"window": 4}], ids=str)
def test_decoding_runs_narrower_than_the_widest(attributes: dict[str, float]) -> None:
    runs = (*range(1, WIDTH + 1), 3 * WIDTH)
    check(attention_model("T", **attributes), runs, (0, 1, 7, C - 3 * WIDTH), NARROWER)


def test_layers_share_what_fills_their_rows() -> None:
    model = attention_model("T", layers=3)
    lower_ort(model, NARROWER)
    found = op_types(model)
    assert [found.count(op) for op in ("Pad", "Slice", "Div", "Tile")] == [3, 3, 1, 1]


@pytest.mark.parametrize("attributes", [{}, {"window": 3}], ids=str)
def test_block_attention(attributes: dict[str, float]) -> None:
    check(attention_model(S, mask="block", **attributes), (S,), (0, 1, 12, C - S))


def test_rows_of_a_decoding_run_are_heads_and_no_other_ops_than_standard_ones_are_left() -> None:
    model = attention_model("T")
    lower_ort(model, LOWER)
    assert {each.domain for each in model.graph} == {""}
    (attention,) = [each for each in model.graph if each.op_type == "Attention"]
    assert set(attention.attributes) == {"scale"}
    assert len(attention.inputs) == 4
    shape = attention.inputs[0].producer().inputs[1]  # type: ignore[union-attr]
    assert shape.const_value.numpy().tolist() == [1, H * WIDTH, -1, D]  # type: ignore[union-attr]


def test_layers_share_a_mask_unless_their_windows_differ() -> None:
    assert op_types(lowered(attention_model("T", layers=3))).count("Tile") == 1
    model = attention_model("T", layers=2)
    second = [each for each in model.graph if each.op_type == "CachedAttention"][1]
    second.attributes["window"] = ir.AttrInt64("window", 3)
    assert op_types(lowered(model)).count("Tile") == 2


def lowered(model: ir.Model) -> ir.Model:
    lower_ort(model, LOWER)
    return model


def drafter_model() -> ir.Model:
    """Context rows and a block, written to one cache: k normed and rotated alike, v without either."""
    inputs = [ir.val("context", FLOAT, [1, "T", G * D]), ir.val("block", FLOAT, [1, S, G * D])]
    inputs += [ir.val("q", FLOAT, [1, H, S, D]), ir.val("start", INT, [1]), ir.val("position", INT, [1])]
    inputs += [ir.val(f"{name}_cache", FLOAT, [1, G, C, D]) for name in "kv"]
    here = [ir.val("context.rows", INT, [1, "T"]), ir.val("block.rows", INT, [1, S])]
    context, block, q, start, position, k_cache, v_cache = inputs
    norm, nodes, made = constant("norm", np.linspace(0.5, 2, D)), list[ir.Node](), dict[str, ir.Value]()
    split = constant("split", [1, -1, G, D], np.int64)

    def add(each: ir.Node) -> ir.Value:
        nodes.append(each)
        return each.outputs[0]

    for x, count, rows in ((context, "T", here[0]), (block, S, here[1])):
        heads = add(node("Reshape", [x, split], (f"{x.name}.heads", [1, count, G, D])))
        scaled = add(
            node("RMSNormalization", [heads, norm], (f"{x.name}.norm", [1, count, G, D]), axis=-1, epsilon=1e-6)
        )
        turned = add(node("Transpose", [scaled], (f"{x.name}.k0", [1, G, count, D]), perm=[0, 2, 1, 3]))
        made[f"{x.name}.v"] = add(node("Transpose", [heads], (f"{x.name}.v", [1, G, count, D]), perm=[0, 2, 1, 3]))
        made[f"{x.name}.k"] = add(node("RotaryEmbedding", [turned, *TABLES, rows], (f"{x.name}.k", [1, G, count, D])))
    caches = [("k_mid", [1, G, C, D]), ("v_mid", [1, G, C, D])]
    written = node(
        "CacheWrite", [made["context.k"], made["context.v"], k_cache, v_cache, start], *caches, domain=dialect.DOMAIN
    )
    nodes.append(written)
    attributes = {"scale": 0.3, "mask": "block", "window": 0, "softcap": 0.0}
    outputs = [("out", [1, H, S, D]), ("k_cache.out", [1, G, C, D]), ("v_cache.out", [1, G, C, D])]
    operands = [q, made["block.k"], made["block.v"], *written.outputs, position]
    nodes.append(node("CachedAttention", operands, *outputs, domain=dialect.DOMAIN, **attributes))
    return with_width([*inputs, *here], nodes, list(nodes[-1].outputs))


def test_a_block_and_the_context_before_it_are_joined_before_norm_and_rotation() -> None:
    model, rng = drafter_model(), np.random.default_rng(3)
    expected = dialect.Evaluator(model)
    lower_ort(model, LOWER)
    found = op_types(model)
    # Rows of k, of v and the positions are joined; nothing is left of what each side did alone.
    ops = ("TensorScatter", "RMSNormalization", "RotaryEmbedding", "Concat", "Gather")
    assert [found.count(op) for op in ops] == [2, 1, 1, 3, 3]
    opened = session(model)
    for rows, start, known in ((8, 0, 8), (8, 11, 1), (4, 20, 3), (4, 0, 4), (4, C - 4 - S, 0)):
        feeds: dict[str, Array] = {
            name: rng.standard_normal(shape, np.float32)
            for name, shape in (("context", (1, rows, G * D)), ("block", (1, S, G * D)), ("q", (1, H, S, D)))
        }
        feeds |= {"start": np.array([start]), "position": np.array([start + known])}
        feeds["context.rows"] = start + np.arange(rows)[None]
        feeds["block.rows"] = start + known + np.arange(S)[None]
        feeds["given"] = np.zeros((1, WIDTH), np.int64)
        states = wide(random_states(rng))
        want = expected(feeds | {name: state.copy() for name, state in states.items()})
        got = run_in_place(opened, feeds, states)
        np.testing.assert_allclose(got["out"], want["out"], rtol=0, atol=TOLERANCE)
        for name, state in states.items():
            seen = slice(0, start + known + S)
            np.testing.assert_allclose(state[:, :, seen], want[f"{name}.out"][:, :, seen], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            attention_model("T", softcap=30.0),
            r"TensorRT's attention has no soft-cap of the scores, and this one has 30;",
        ),
        (attention_model("T", head_dim=512), r"head dim 512 cannot run on TensorRT, whose attention takes 16 to 256;"),
        (attention_model("T", cache_rows=24576), r"a cache of 24576 rows cannot run on TensorRT, .* at most 20480"),
    ],
    ids=["softcap", "head dim", "cache rows"],
)
def test_what_tensorrt_has_no_kernel_for_is_refused(model: ir.Model, text: str) -> None:
    with pytest.raises(PassError, match=text):
        lower_ort(model, LOWER)


def test_other_batches_are_refused() -> None:
    model = attention_model("T")
    q = next(value for value in model.graph.inputs if value.name == "q.0")
    q.shape = ir.Shape(["B", H, "T", D])
    with pytest.raises(PassError, match=r"only batch 1 is lowered for TensorRT"):
        lower_ort(model, LOWER)
