"""The numpy references against independent formulas in torch, and attributes on their way through a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun_compiler import dialect
from forerun_compiler.errors import TraceError

CACHE = 20


def random_inputs(heads: int, groups: int, rows: int, dim: int, position: int, seed: int = 0) -> list[np.ndarray]:
    """q, k, v, k_cache, v_cache, position."""
    rng = np.random.default_rng(seed)
    shapes = [(1, heads, rows, dim), *[(1, groups, rows, dim)] * 2, *[(1, groups, CACHE, dim)] * 2]
    return [*(rng.normal(size=shape).astype(np.float32) for shape in shapes), np.array([position])]


def by_torch(inputs: list[np.ndarray], op: dialect.CachedAttention) -> list[np.ndarray]:
    """torch's own SDPA in float64 over the written cache, with an explicit mask (and a soft-cap by hand)."""
    q, k, v, k_cache, v_cache = (torch.from_numpy(array).double() for array in inputs[:5])
    start, rows = int(inputs[5][0]), q.shape[2]
    k_cache[:, :, start : start + rows], v_cache[:, :, start : start + rows] = k, v
    mask = torch.zeros(rows, start + rows, dtype=torch.bool)
    for row in range(rows):
        last = start + row if op.mask == "causal" else start + rows - 1
        first = max(0, start + row - op.window + 1) if op.window else 0
        mask[row, first : last + 1] = True
    repeat = q.shape[1] // k.shape[1]
    keys, values = (c[:, :, : start + rows].repeat_interleave(repeat, 1) for c in (k_cache, v_cache))
    if op.softcap:
        scores = torch.einsum("bhtd,bhsd->bhts", q, keys) * op.scale
        scores = (op.softcap * torch.tanh(scores / op.softcap)).masked_fill(~mask, -torch.inf)
        out = torch.einsum("bhts,bhsd->bhtd", scores.softmax(-1), values)
    else:
        out = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=op.scale)
    return [tensor.float().numpy() for tensor in (out, k_cache, v_cache)]


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 3),
    repeat=st.integers(1, 3),
    rows=st.integers(1, 9),
    position=st.integers(0, 11),
    mask=st.sampled_from(dialect.MASKS),
    window=st.sampled_from([0, 1, 4, 30]),
    softcap=st.sampled_from([0.0, 2.0]),
)
def test_cached_attention_equals_torch(groups, repeat, rows, position, mask, window, softcap) -> None:
    op = dialect.CachedAttention(scale=0.3, mask=mask, window=window, softcap=softcap)
    inputs = random_inputs(groups * repeat, groups, rows, 8, position)
    found = dialect.cached_attention(*inputs, attributes=op)
    for array, expected in zip(found, by_torch(inputs, op), strict=True):
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-6)


def test_int8_rows_are_rounded_to_even_each_for_itself() -> None:
    rows = np.zeros((6, 4), np.float32)
    rows[0] = [127, 0.5, 1.5, -2.5]
    rows[1] = [-254, 100, 1, 0]
    rows[2, 0], rows[3, 1], rows[4, 2] = 2.0**-101, np.inf, np.nan
    codes, scales = dialect.int8_rows(rows)
    assert codes.tolist() == [[127, 0, 2, -2], [-127, 50, 0, 0], *[[0] * 4] * 4]
    np.testing.assert_array_equal(scales, np.array([1, 2, 0, np.nan, np.nan, 0], np.float32))


def test_caches_of_int8_are_read_as_they_were_written() -> None:
    inputs = random_inputs(4, 2, 3, 8, 5)
    coded = [dialect.int8_rows(array) for array in inputs[1:5]]
    wide = [codes * scales[..., None] for codes, scales in coded]
    codes, scales = dialect.int8_rows(inputs[0])
    op = dialect.CachedAttention(scale=0.3)
    caches = [codes for codes, _ in coded[2:]], [scales for _, scales in coded[2:]]
    out, *states = dialect.cached_attention(*inputs[:3], *caches[0], inputs[5], *caches[1], attributes=op)
    want, *want_states = dialect.cached_attention(codes * scales[..., None], *wide, inputs[5], attributes=op)
    np.testing.assert_allclose(out, want, rtol=0, atol=8 * 4 / 65534)  # 8 values to 4, by weights that are rounded
    for codes, scales, state in zip(states[:2], states[2:], want_states, strict=True):
        np.testing.assert_array_equal(codes * scales[..., None], state)


def test_weights_over_int8_are_rounded_by_blocks_after_the_values_scales() -> None:
    weights, scales, places = np.zeros((2, 70)), np.full(70, 2.0), np.arange(70)
    weights[0, [3, 5, 66, 69]] = [1.0, 0.4 / 32767, 1.6 / 32767, 32767.0**-2]
    weights[1, [0, 1]], scales[1] = [1.0, 1.0], 1 / 32767.6
    found = dialect.rounded_weights(weights, scales, places)
    np.testing.assert_allclose(found[0, [3, 5, 66]], [1.0, 0.0, 1.6 / 32767], rtol=1e-12)  # 0.4 of a step is none
    np.testing.assert_allclose(found[0, 69], round(32767 / 1.6 / 32767) * 1.6 / 32767**2, rtol=1e-12)
    np.testing.assert_allclose(found[1, :2] * scales[:2], [2.0, 0.0], rtol=1e-12)
    scales[5] = np.nan
    found = dialect.rounded_weights(weights, scales, places)
    assert np.isnan(found[0, 3])
    assert found[0, 66] == 1.6 / 32767
    assert found[1, 0] == 1.0  # a weight of zero takes no part


PARENTS = np.array([[-1, 0, 1, 1, 2, 3, 0]])


@pytest.mark.parametrize("window", [0, 1, 3, 6])
def test_a_node_sees_what_its_chain_alone_sees(window: int) -> None:
    inputs = random_inputs(4, 2, 7, 8, 5)
    op = dialect.CachedAttention(scale=0.3, window=window)
    found = dialect.cached_attention(*inputs, None, None, PARENTS, attributes=op)[0]
    for node in range(7):
        chain = [node]
        while PARENTS[0, chain[0]] >= 0:
            chain.insert(0, PARENTS[0, chain[0]])
        assert dialect.tree_depth(PARENTS)[0, node] == len(chain) - 1
        alone = [array[:, :, chain] for array in inputs[:3]]
        want = dialect.cached_attention(*alone, *inputs[3:], attributes=op)[0]
        np.testing.assert_allclose(found[:, :, node], want[:, :, -1], rtol=0, atol=1e-6)


def test_rows_of_a_ragged_batch_that_are_not_there_are_not_written() -> None:
    inputs = random_inputs(4, 2, 3, 8, 18)  # only two rows fit
    op = dialect.CachedAttention(scale=0.3)
    out, k_cache, _ = dialect.cached_attention(*inputs, rows=np.array([2]), attributes=op)
    short = [array[:, :, :2] for array in inputs[:3]]
    want, want_cache, _ = dialect.cached_attention(*short, *inputs[3:], attributes=op)
    np.testing.assert_allclose(out[:, :, :2], want, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(k_cache, want_cache)
    assert not out[:, :, 2].any()


def test_rows_after_the_last_are_not_seen() -> None:
    inputs = random_inputs(4, 2, 3, 8, 5)
    op = dialect.CachedAttention(scale=0.3)
    before = dialect.cached_attention(*inputs, attributes=op)[0]
    inputs[3][:, :, 8:], inputs[4][:, :, 8:] = np.nan, np.nan
    np.testing.assert_array_equal(dialect.cached_attention(*inputs, attributes=op)[0], before)


def test_two_sequences_keep_their_own_positions() -> None:
    pairs = [random_inputs(4, 2, 2, 8, position, seed=position) for position in (3, 7)]
    both = [np.concatenate(arrays) for arrays in zip(*pairs, strict=True)]
    op = dialect.CachedAttention(scale=0.3)
    together = dialect.cached_attention(*both, attributes=op)
    for b, single in enumerate(pairs):
        for array, expected in zip(together, dialect.cached_attention(*single, attributes=op), strict=True):
            np.testing.assert_array_equal(array[b : b + 1], expected)


def test_cache_write_changes_its_rows_only() -> None:
    _, k, v, k_cache, v_cache, position = random_inputs(2, 2, 3, 8, 6)
    k_out, v_out = dialect.cache_write(k, v, k_cache, v_cache, position)
    for out, new, old in ((k_out, k, k_cache), (v_out, v, v_cache)):
        np.testing.assert_array_equal(out[:, :, 6:9], new)
        np.testing.assert_array_equal(np.delete(out, range(6, 9), 2), np.delete(old, range(6, 9), 2))


@pytest.mark.parametrize("position", [-1, 18])
def test_rows_outside_the_cache_are_refused(position: int) -> None:
    with pytest.raises(ValueError, match=rf"rows {position}..{position + 2} are outside the cache of 20 rows"):
        dialect.cache_write(*random_inputs(2, 2, 3, 8, position)[1:])


@pytest.mark.parametrize("activation", sorted(dialect.ACTIVATIONS))
def test_experts_equal_torch(activation: str) -> None:
    from transformers.activations import ACT2FN

    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(7, 8)).astype(np.float32), rng.random((7, 2)).astype(np.float32)
    index = np.stack([rng.permutation(5)[:2] for _ in range(7)])
    gate_up = rng.normal(size=(5, 12, 8)).astype(np.float32)
    down = rng.normal(size=(5, 8, 6)).astype(np.float32)
    x, wide, narrow = (torch.from_numpy(array).double() for array in (hidden, gate_up, down))
    gate, up = torch.einsum("ne,xie->nxi", x, wide).chunk(2, -1)
    every = torch.einsum("nxi,xei->nxe", ACT2FN[activation](gate) * up, narrow)
    shares = torch.zeros(7, 5, dtype=torch.float64).scatter(
        1, torch.from_numpy(index), torch.from_numpy(weight).double()
    )
    expected = torch.einsum("nxe,nx->ne", every, shares).float().numpy()
    found = dialect.experts(hidden, index, weight, gate_up, down, attributes=dialect.Experts(activation=activation))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def attention_model(op: dialect.CachedAttention, inputs: list[np.ndarray]) -> ir.Model:
    names = ["q", "k", "v", "k_cache", "v_cache", "position"]
    values = [
        ir.val(name, ir.DataType.from_numpy(array.dtype), array.shape)
        for name, array in zip(names, inputs, strict=True)
    ]
    node = ir.node(op.OP_TYPE, values, op.attributes(), domain=dialect.DOMAIN, num_outputs=3)
    for output, like in zip(node.outputs, (values[0], values[3], values[4]), strict=True):
        output.name, output.type, output.shape = f"{like.name}.out", like.type, like.shape
    imports = {"": dialect.OPSET, dialect.DOMAIN: dialect.VERSION}
    return ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports=imports, name="g"), ir_version=11)


def test_evaluator_runs_an_op_as_its_reference() -> None:
    inputs = random_inputs(4, 2, 3, 8, 5)
    op = dialect.CachedAttention(scale=0.25, mask="block", window=4, softcap=3.0)
    model = attention_model(op, inputs)
    found = dialect.evaluate(model, dict(zip((str(v.name) for v in model.graph.inputs), inputs, strict=True)))
    expected = dialect.cached_attention(*inputs, attributes=op)
    assert list(found) == ["q.out", "k_cache.out", "v_cache.out"]
    for array, reference in zip(found.values(), expected, strict=True):
        np.testing.assert_array_equal(array, reference)


def test_attributes_survive_a_file(tmp_path) -> None:
    op = dialect.CachedAttention(scale=0.25, mask="block", window=4, softcap=3.0)
    ir.save(attention_model(op, random_inputs(4, 2, 3, 8, 5)), tmp_path / "model.onnx")
    node = ir.load(tmp_path / "model.onnx").graph.node(0)
    assert dialect.CachedAttention.from_node(node) == op


def test_wrong_nodes_are_named() -> None:
    node = attention_model(dialect.CachedAttention(scale=1.0), random_inputs(2, 2, 1, 8, 0)).graph.node(0)
    with pytest.raises(TraceError, match="expected forerun::CacheWrite, found forerun::CachedAttention"):
        dialect.CacheWrite.from_node(node)
    del node.attributes["window"]
    with pytest.raises(TraceError, match=r"expected the attributes \['mask', 'scale', 'softcap', 'window'\], found"):
        dialect.CachedAttention.from_node(node)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mask": "tree"}, "mask must be one of causal, block; got 'tree'"),
        ({"window": -1}, "window=-1"),
        ({"softcap": -2.0}, "softcap=-2.0"),
        ({"scale": float("nan")}, "scale=nan"),
    ],
)
def test_attributes_out_of_range_are_refused(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        dialect.CachedAttention(**{"scale": 1.0, **attributes})  # type: ignore[arg-type]


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(TraceError, match=r"activation must be one of silu, gelu, .*; got 'mish'"):
        dialect.Experts(activation="mish")
