"""Attention over int8 in standard operators: the dialect's codes, scales and numbers, with states in place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from test_quantize_caches import FLOAT, cached_graph, quantized, random_feeds

from forerun_compiler import dialect
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.quantize_caches import quantize_caches
from forerun_compiler.passes.spell_out_caches import spell_out_caches
from hand_graphs import make_model, node, op_types, session

TOLERANCE = 1e-4
"""Of outputs near 1: weights that are not rounded to 1/32767 of the largest, of 14 values of at most 4."""


def spelled(model: ir.Model) -> ir.Model:
    """Quantize and lower by standard operators."""
    quantize_caches(model)
    assert spell_out_caches(model) == 3
    assert lower_attention(model) == 2
    model.graph.opset_imports.pop(dialect.DOMAIN)
    return model


def run_in_place(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run with each state in one buffer as input and output."""
    opened = session(model)
    binding = opened.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    names = [output.name for output in opened.get_outputs()]
    for name in names:
        array = feeds.get(name.removesuffix(".out"))
        if array is None:
            binding.bind_output(name)
        else:
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    opened.run_with_iobinding(binding)
    return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))


@pytest.mark.parametrize("kept", [0, 3, 5])
def test_the_dialect_s_numbers_in_place(kept: int) -> None:
    model = cached_graph()
    feeds = random_feeds(model) | {"start": np.array([9 - kept])}
    quantize_caches(checked := model.clone())
    feeds = quantized(feeds)
    want = dialect.evaluate(checked, feeds)
    found = run_in_place(spelled(model), {name: array.copy() for name, array in feeds.items()})
    for name in ("out", "block"):
        np.testing.assert_allclose(found[name], want[name], rtol=0, atol=TOLERANCE)
    for name in [name for name in want if name.endswith(".out")]:
        assert found[name].dtype == want[name].dtype
        np.testing.assert_array_equal(found[name][:, :, : 9 + 5], want[name][:, :, : 9 + 5])


def test_rows_at_the_ends_of_float32() -> None:
    rows = np.random.default_rng(0).standard_normal((1, 2, 6, 16), np.float32)
    rows[0, 0, 1, 3], rows[0, 0, 2, 4], rows[0, 0, 3] = np.inf, np.nan, 0
    rows[0, 0, 4], rows[0, 0, 5] = 1e-31, 3e-30  # below and above 2^-100
    values = [ir.val(name, FLOAT, [1, 2, 6, 16]) for name in ("k", "v", "k_cache", "v_cache")]
    position = ir.val("position", ir.DataType.INT64, [1])
    outputs = [(f"{name}.out", [1, 2, 6, 16]) for name in ("k_cache", "v_cache")]
    write = node("CacheWrite", [*values, position], *outputs, domain=dialect.DOMAIN)
    model = make_model([*values, position], [write], write.outputs)
    quantize_caches(model)
    spell_out_caches(model)
    model.graph.opset_imports.pop(dialect.DOMAIN)
    codes, scales = dialect.int8_rows(rows)
    feeds = {"k": rows, "v": rows, "position": np.array([0])}
    feeds |= {f"{side}_cache": np.zeros_like(codes) for side in "kv"}
    feeds |= {f"{side}_cache_scale": np.zeros_like(scales) for side in "kv"}
    found = run_in_place(model, feeds)
    np.testing.assert_array_equal(found["k_cache.out"], codes)
    np.testing.assert_array_equal(found["v_cache_scale.out"], scales)


def test_caches_of_float32_are_left_alone() -> None:
    model = cached_graph()
    assert spell_out_caches(model) == 0
    assert op_types(model) == ["CacheWrite", "CachedAttention", "CachedAttention"]
