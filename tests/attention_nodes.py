"""One node of our attention in ONNX Runtime, made of the arrays that it is given, and what it should give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

import forerun
from forerun_compiler import dialect

Array = np.ndarray
H, G, D, C = 4, 2, 32, 150
SCALE = 0.2
TOLERANCE = 5e-6
"""Of outputs near 1: float32 against the reference's float64."""
INT8_TOLERANCE = 1e-4
"""Over int8 a weight near a half may become either of two codes, 1/32767 of the largest apart, of values to 4."""
_TAIL = ("position", "q_norm", "k_norm", "cos", "sin", "parents", "rows")
CACHED = ("qkv", "k_cache", "v_cache", *_TAIL)
CACHED_INT8 = ("qkv", "k_cache", "v_cache", "k_scale", "v_scale", *_TAIL)


def run_node(given: Mapping[str, Array], threads: int = 2, **changed: Any) -> list[Array]:
    """Run CachedAttention, of int8 where `given` has scales, once on arrays by the names of its inputs."""
    int8 = "k_scale" in given
    names = [name if name in given else "" for name in (CACHED_INT8 if int8 else CACHED)]
    while not names[-1]:
        names.pop()
    inputs = [_value(name, given[name], given[name].shape) for name in names if name]
    states = ["k_cache", "v_cache", *(["k_scale", "v_scale"] if int8 else [])]
    outs = ["out", *(f"{name}.out" for name in states)]
    outputs = [
        _value(name, given[like], [None] * given[like].ndim) for name, like in zip(outs, ("qkv", *states), strict=True)
    ]
    attributes = {
        "num_heads": H,
        "kv_num_heads": G,
        "head_dim": D,
        "scale": SCALE,
        "epsilon": 1e-6,
        "window": 0,
        "softcap": 0.0,
        "causal": 1,
    } | changed
    op_type = "CachedAttentionInt8" if int8 else "CachedAttention"
    node = helper.make_node(op_type, names, outs, name="layer", domain="forerun.runtime", **attributes)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
    model = helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(forerun.kernel_library()))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {name: given[name] for name in names if name})  # type: ignore[return-value]


def _value(name: str, like: Array, shape: Sequence[int | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(like.dtype), shape)


def random_feeds(rows: int, *positions: int, int8: bool = False, seed: int = 0) -> dict[str, Array]:
    """Rows and caches of as many sequences as there are positions; neither norms nor tables."""
    rng, batch = np.random.default_rng(seed), len(positions)
    caches = [rng.standard_normal((batch, G, C, D), np.float32) for _ in "kv"]
    made = {"qkv": rng.standard_normal((batch, rows, (H + 2 * G) * D), np.float32)}
    made |= {"k_cache": caches[0], "v_cache": caches[1], "position": np.array(positions)}
    if int8:
        for name, cache in zip("kv", caches, strict=True):
            made[f"{name}_cache"], made[f"{name}_scale"] = dialect.int8_rows(cache)
    return made


def expected(given: Mapping[str, Array], **attributes: Any) -> list[Array]:
    """The dialect's reference over the same rows; without norms and tables."""
    batch, rows, _ = given["qkv"].shape
    heads = given["qkv"].reshape(batch, rows, H + 2 * G, D).swapaxes(1, 2)
    q, k, v = heads[:, :H], heads[:, H : H + G], heads[:, H + G :]
    optional = [given.get(name) for name in ("k_scale", "v_scale", "parents", "rows")]
    op = dialect.CachedAttention(SCALE, **attributes)
    caches = (given["k_cache"], given["v_cache"], given["position"])
    out, *states = dialect.cached_attention(q, k, v, *caches, *optional, attributes=op)
    return [out.swapaxes(1, 2).reshape(batch, rows, H * D), *states]
