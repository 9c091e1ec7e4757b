"""States of float32 become int8 with scales beside them, in the ops and in the graph's ends."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import check_graph
from forerun_compiler.passes.quantize_caches import quantize_caches
from hand_graphs import FLOAT, INT, make_model, node

H, G, D, C, T = 4, 2, 16, 40, 5
TOLERANCE = 0.05
"""Of outputs near 1: 127 steps of what is at most 4 in keys and values, and 5 keys of weights that differ by that."""


def cached_graph() -> ir.Model:
    """A causal attention, and a block over a context: four caches."""
    sizes = {"q": H, "k": G, "v": G, "context_k": G, "context_v": G}
    tokens = {name: ir.val(name, FLOAT, [1, heads, T, D]) for name, heads in sizes.items()}
    caches = [ir.val(f"{part}.{kind}", FLOAT, [1, G, C, D]) for part in ("target", "drafter") for kind in "kv"]
    position, start = ir.val("position", INT, [1]), ir.val("start", INT, [1])
    shape = [1, G, C, D]
    q, k, v, *context = tokens.values()
    attributes = dialect.CachedAttention(0.3).attributes()
    causal = node(
        "CachedAttention",
        [q, k, v, *caches[:2], position],
        *(("out", [1, H, T, D]), ("target.k.out", shape), ("target.v.out", shape)),
        domain=dialect.DOMAIN,
        **attributes,
    )
    write = node(
        "CacheWrite",
        [*context, *caches[2:], start],
        *(("written.k", shape), ("written.v", shape)),
        domain=dialect.DOMAIN,
    )
    block = node(
        "CachedAttention",
        [q, k, v, *write.outputs, position],
        *(("block", [1, H, T, D]), ("drafter.k.out", shape), ("drafter.v.out", shape)),
        domain=dialect.DOMAIN,
        **attributes | {"mask": "block"},
    )
    outputs = [*causal.outputs, *block.outputs]
    return make_model([*tokens.values(), *caches, position, start], [causal, write, block], outputs)


def random_feeds(model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {
        str(value.name): rng.standard_normal([int(size) for size in value.shape or ()], np.float32)
        for value in model.graph.inputs
    }
    return feeds | {"position": np.array([9]), "start": np.array([6])}


def quantized(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The feeds of a quantized graph."""
    found = dict(feeds)
    for name in [name for name in feeds if name.startswith(("target.", "drafter."))]:
        found[name], found[f"{name}_scale"] = dialect.int8_rows(feeds[name])
    return found


def test_every_cache_gets_scales() -> None:
    model = cached_graph()
    feeds = random_feeds(model)
    want = dialect.evaluate(model, feeds)
    assert quantize_caches(model) == 3
    check_graph(model, "quantized")
    states = {str(value.name): (value.dtype, value.shape) for value in model.graph.inputs if "." in str(value.name)}
    assert list(states)[:4] == ["target.k", "target.k_scale", "target.v", "target.v_scale"]
    assert states["drafter.v"] == (ir.DataType.INT8, ir.Shape([1, G, C, D]))
    assert states["drafter.v_scale"] == (ir.DataType.FLOAT, ir.Shape([1, G, C]))
    outputs = {str(value.name): (value.dtype, value.shape) for value in model.graph.outputs}
    assert {name: outputs[f"{name}.out"] for name in states} == states
    found = dialect.evaluate(model, quantized(feeds))
    for name in ("out", "block"):
        error = np.abs(found[name] - want[name]).max()
        assert 1e-4 < error < TOLERANCE
    for name in states:
        if not name.endswith("_scale"):
            wide = found[f"{name}.out"] * found[f"{name}_scale.out"][..., None]
            np.testing.assert_allclose(wide, want[f"{name}.out"], rtol=0, atol=4 / 127 / 2 + 1e-6)


def test_a_graph_without_caches_is_refused() -> None:
    x = ir.val("x", FLOAT, [1])
    model = make_model([x], [step := node("Abs", [x], ("y", [1]))], step.outputs)
    with pytest.raises(PassError, match="'hand' has no key-value caches to quantize"):
        quantize_caches(model)


def test_a_computed_cache_is_refused() -> None:
    model = cached_graph()
    causal = model.graph.node(0)
    step = node("Abs", [causal.inputs[3]], ("other", [1, G, C, D]))
    model.graph.insert_before(causal, step)
    causal.replace_input_with(3, step.outputs[0])
    with pytest.raises(PassError, match=r"expected caches that are states of the graph, \[1,G,C,D\]; found 'other'"):
        quantize_caches(model)
