"""Every lowering of the dialect's attention against the dialect's own reference, in place, at many positions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.lower_ort import lower_ort
from forerun_compiler.passes.ordered_passes import Pass
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, session

H, G, D, C, S = 4, 2, 16, 40, 5
TOLERANCE = 2e-6
ATTENTION = (Pass("attention", lower_attention, must_fire=True),)
Array = np.ndarray


def run_in_place(
    opened: ort.InferenceSession, feeds: Mapping[str, Array], states: Mapping[str, Array]
) -> dict[str, Array]:
    """Run with every state bound to one buffer as input and output; the states change."""
    binding, results = opened.io_binding(), {}
    for name, array in (dict(feeds) | dict(states)).items():
        binding.bind_cpu_input(name, array)
    for output in opened.get_outputs():
        array = states.get(output.name.removesuffix(".out"))
        if array is None:
            binding.bind_output(output.name)
        else:
            binding.bind_output(output.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    opened.run_with_iobinding(binding)
    for output, value in zip(opened.get_outputs(), binding.get_outputs(), strict=True):
        array = states.get(output.name.removesuffix(".out"))
        if array is None:
            results[output.name] = value.numpy()
        else:
            assert value.data_ptr() == array.ctypes.data
    return results


def inputs_of(rows: int | str) -> list[ir.Value]:
    """q, k, v, caches and position as graph inputs."""
    sizes = {"q": H, "k": G, "v": G}
    tokens = [ir.val(name, FLOAT, [1, heads, rows, D]) for name, heads in sizes.items()]
    caches = [ir.val(name, FLOAT, [1, G, C, D]) for name in ("k_cache", "v_cache")]
    return [*tokens, *caches, ir.val("position", INT, [1])]


def attention_model(rows: int | str, **attributes: float | int | str) -> ir.Model:
    given = {"scale": 0.3, "mask": "causal", "window": 0, "softcap": 0.0} | attributes
    outputs = [("out", [1, H, rows, D]), ("k_cache.out", [1, G, C, D]), ("v_cache.out", [1, G, C, D])]
    values = inputs_of(rows)
    made = node("CachedAttention", values, *outputs, domain=dialect.DOMAIN, **given)
    return make_model(values, [made], made.outputs)


def random_states(rng: np.random.Generator, names: tuple[str, ...] = ("k_cache", "v_cache")) -> dict[str, Array]:
    return {name: rng.standard_normal((1, G, C, D), np.float32) for name in names}


def random_tokens(rng: np.random.Generator, rows: int) -> dict[str, Array]:
    return {
        name: rng.standard_normal((1, heads, rows, D), np.float32) for name, heads in (("q", H), ("k", G), ("v", G))
    }


@pytest.mark.parametrize(
    "attributes",
    [{}, {"window": 4}, {"window": 1}, {"softcap": 1.5}, {"window": 6, "softcap": 2.0, "scale": 1.0}],
    ids=str,
)
def test_causal_attention(attributes: dict[str, float]) -> None:
    model, rng = attention_model("T", **attributes), np.random.default_rng(0)
    expected = dialect.Evaluator(model)
    assert lower_ort(model, ATTENTION) == {"attention": 1}
    assert op_types(model).count("GroupQueryAttention") == 1
    opened = session(model)
    for rows in (1, 3, 8):
        for position in (0, 1, 7, C - 8):
            states, tokens = random_states(rng), random_tokens(rng, rows)
            feeds = tokens | {"position": np.array([position])}
            want = expected(feeds | {name: state.copy() for name, state in states.items()})
            got = run_in_place(opened, feeds, states)
            np.testing.assert_allclose(got["out"], want["out"], rtol=0, atol=TOLERANCE, err_msg=f"{rows=} {position=}")
            for name, state in states.items():
                np.testing.assert_array_equal(state, want[f"{name}.out"])


def test_causal_rows_do_not_see_each_other_s_padding() -> None:
    model, rng = attention_model("T"), np.random.default_rng(1)
    lower_ort(model, ATTENTION)
    opened, tokens, states = session(model), random_tokens(rng, 8), random_states(rng)
    other = {name: np.concatenate([array[:, :, :3], array[:, :, 3:] * -7], axis=2) for name, array in tokens.items()}
    position = {"position": np.array([9])}
    outs = [
        run_in_place(opened, given | position, {name: state.copy() for name, state in states.items()})["out"][:, :, :3]
        for given in (tokens, other)
    ]
    np.testing.assert_array_equal(outs[0], outs[1])


def test_block_attention() -> None:
    model, rng = attention_model(S, mask="block", softcap=3.0), np.random.default_rng(2)
    expected = dialect.Evaluator(model)
    assert lower_ort(model, ATTENTION) == {"attention": 1}
    opened = session(model)
    for position in (0, 1, 12, C - S):
        states, tokens = random_states(rng), random_tokens(rng, S)
        feeds = tokens | {"position": np.array([position])}
        want = expected(feeds | {name: state.copy() for name, state in states.items()})
        got = run_in_place(opened, feeds, states)
        np.testing.assert_allclose(got["out"], want["out"], rtol=0, atol=TOLERANCE)
        for name, state in states.items():
            np.testing.assert_array_equal(state, want[f"{name}.out"])


def write_model(then_block: bool) -> ir.Model:
    """CacheWrite of T context rows, and after it, if asked, a block at another position of the same cache."""
    values = inputs_of(S)
    context = [ir.val(name, FLOAT, [1, G, "T", D]) for name in ("context_k", "context_v")]
    start = ir.val("start", INT, [1])
    caches = [("k_cache.out", [1, G, C, D]), ("v_cache.out", [1, G, C, D])]
    if not then_block:
        write = node("CacheWrite", [*context, *values[3:5], start], *caches, domain=dialect.DOMAIN)
        return make_model([*context, *values[3:5], start], [write], write.outputs)
    between = [("k_between", [1, G, C, D]), ("v_between", [1, G, C, D])]
    write = node("CacheWrite", [*context, *values[3:5], start], *between, domain=dialect.DOMAIN)
    block = node(
        "CachedAttention",
        [*values[:3], *write.outputs, values[5]],
        ("out", [1, H, S, D]),
        *caches,
        domain=dialect.DOMAIN,
        scale=0.25,
        mask="block",
        window=0,
        softcap=0.0,
    )
    return make_model([*values, *context, start], [write, block], block.outputs)


def test_cache_write() -> None:
    model, rng = write_model(then_block=False), np.random.default_rng(3)
    assert lower_ort(model, ATTENTION) == {"attention": 1}
    assert op_types(model) == ["TensorScatter", "TensorScatter"]
    opened = session(model)
    for rows, position in ((1, 0), (3, 17), (8, C - 8)):
        tokens = random_tokens(rng, rows)
        feeds = {"context_k": tokens["k"], "context_v": tokens["v"], "start": np.array([position])}
        states = random_states(rng)
        want = dialect.cache_write(tokens["k"], tokens["v"], states["k_cache"], states["v_cache"], feeds["start"])
        run_in_place(opened, feeds, states)
        np.testing.assert_array_equal(states["k_cache"], want[0])
        np.testing.assert_array_equal(states["v_cache"], want[1])


def test_context_and_block_write_each_cache_once() -> None:
    model, rng = write_model(then_block=True), np.random.default_rng(4)
    expected = dialect.Evaluator(model)
    assert lower_ort(model, ATTENTION) == {"attention": 2}
    assert op_types(model).count("TensorScatter") == 2
    opened = session(model)
    for rows in (1, 3, 8, 16):
        for kept in {1, min(2, rows), rows}:
            start = 6
            tokens, context, states = random_tokens(rng, S), random_tokens(rng, rows), random_states(rng)
            feeds = tokens | {"context_k": context["k"], "context_v": context["v"]}
            feeds |= {"start": np.array([start]), "position": np.array([start + kept])}
            want = expected(feeds | {name: state.copy() for name, state in states.items()})
            got = run_in_place(opened, feeds, states)
            np.testing.assert_allclose(got["out"], want["out"], rtol=0, atol=TOLERANCE, err_msg=f"{rows=} {kept=}")
            for name, state in states.items():
                # Rows past both are written with junk that nothing sees.
                end = max(start + kept + S, start + rows)
                np.testing.assert_array_equal(state[:, :, :end], want[f"{name}.out"][:, :, :end])
                np.testing.assert_array_equal(
                    state[:, :, start + rows + S :], want[f"{name}.out"][:, :, start + rows + S :]
                )


def projected_model(interleaved: int, rotary_dim: int) -> ir.Model:
    """As a trace has it: rows, reshaped to heads, transposed, rotated; and the way back after the attention."""
    caches = [ir.val(name, FLOAT, [1, G, C, D]) for name in ("k_cache", "v_cache")]
    rows = [ir.val(name, FLOAT, [1, "T", heads * D]) for name, heads in (("q", H), ("k", G), ("v", G))]
    position, ids = ir.val("position", INT, [1]), ir.val("ids", INT, [1, "T"])
    angle = np.arange(C)[:, None] / 100.0 ** (np.arange(rotary_dim // 2) / (rotary_dim // 2))
    tables = [constant("cos", np.cos(angle)), constant("sin", np.sin(angle))]
    nodes, heads_of = [], []
    for value, heads in zip(rows, (H, G, G), strict=True):
        shape = constant(f"{value.name}.shape", [1, -1, heads, D], np.int64)
        split = node("Reshape", [value, shape], (f"{value.name}.split", [1, "T", heads, D]))
        swap = node("Transpose", split.outputs, (f"{value.name}.swap", [1, heads, "T", D]), perm=[0, 2, 1, 3])
        nodes += [split, swap]
        if value.name != "v":
            partial = 0 if rotary_dim == D else rotary_dim
            turn = node(
                "RotaryEmbedding",
                [swap.outputs[0], *tables, ids],
                (f"{value.name}.turned", [1, heads, "T", D]),
                interleaved=interleaved,
                rotary_embedding_dim=partial,
            )
            nodes.append(turn)
        heads_of.append(nodes[-1].outputs[0])
    written = [("k_cache.out", [1, G, C, D]), ("v_cache.out", [1, G, C, D])]
    attend = node(
        "CachedAttention",
        [*heads_of, *caches, position],
        ("heads", [1, H, "T", D]),
        *written,
        domain=dialect.DOMAIN,
        scale=0.25,
        mask="causal",
        window=0,
        softcap=0.0,
    )
    back = node("Transpose", attend.outputs[:1], ("back", [1, "T", H, D]), perm=[0, 2, 1, 3])
    merge = node(
        "Reshape", [back.outputs[0], constant("merge.shape", [1, -1, H * D], np.int64)], ("merged", [1, "T", H * D])
    )
    last = node("Neg", merge.outputs, ("out", [1, "T", H * D]))
    outputs = [last.outputs[0], *attend.outputs[1:]]
    return make_model([*rows, *caches, position, ids], [*nodes, attend, back, merge, last], outputs)


@pytest.mark.parametrize(("interleaved", "rotary_dim"), [(0, D), (1, D), (0, D // 2)])
def test_rotation_and_layout_move_into_the_attention(interleaved: int, rotary_dim: int) -> None:
    model, rng = projected_model(interleaved, rotary_dim), np.random.default_rng(5)
    expected = dialect.Evaluator(model)
    lower_ort(model, ATTENTION)
    # The attention takes tables that are 8 or more wide; a narrower one keeps its op, in the layout of rows.
    left = {"RotaryEmbedding", "Transpose", "Reshape"} & set(op_types(model))
    assert left == (set() if rotary_dim == D else {"RotaryEmbedding"})
    opened = session(model)
    for count, position in ((1, 0), (1, 20), (3, 5), (8, 19)):
        feeds = {
            name: rng.standard_normal((1, count, heads * D), np.float32)
            for name, heads in (("q", H), ("k", G), ("v", G))
        }
        feeds |= {"position": np.array([position]), "ids": position + np.arange(count)[None]}
        states = random_states(rng)
        want = expected(feeds | {name: state.copy() for name, state in states.items()})
        got = run_in_place(opened, feeds, states)
        np.testing.assert_allclose(got["out"], want["out"], rtol=0, atol=TOLERANCE, err_msg=f"{count=} {position=}")
        for name, state in states.items():
            np.testing.assert_allclose(state, want[f"{name}.out"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (attention_model(S, mask="block", window=3), r"a block with a window \(3\) is not lowered"),
        (attention_model("T", window=0), None),
    ],
)
def test_what_cannot_be_lowered_is_refused(model: ir.Model, message: str | None) -> None:
    if message is None:
        for value in model.graph.inputs[:3]:
            value.shape = ir.Shape([1, value.shape[1], "T", 12])  # type: ignore[index]
        message = "head dim 12 cannot run on ONNX Runtime's GroupQueryAttention, which takes multiples of 8"
    with pytest.raises(PassError, match=message):
        lower_attention(model)


def test_larger_batches_are_refused() -> None:
    model = attention_model("T")
    for value in model.graph.inputs[:3]:
        value.shape = ir.Shape([2, *list(value.shape)[1:]])  # type: ignore[arg-type]
    with pytest.raises(PassError, match="only batch 1 is lowered for ONNX Runtime"):
        lower_attention(model)
