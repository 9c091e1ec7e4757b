"""A tiny target written by hand in the form that TensorRT gets, and its engines, built once a test run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from forerun_compiler.dialect import DOMAIN, OPSET, Linear
from forerun_compiler.engines.tensorrt import (
    BuiltEngines,
    EngineRequest,
    GraphBuild,
    build_engines,
    write_for_tensorrt,
)
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.quantize_fp8 import quantize_fp8
from forerun_compiler.passes.quantize_int8_static import quantize_int8_static
from forerun_compiler.passes.quantize_nvfp4 import quantize_nvfp4
from forerun_compiler.schemes import TENSORRT_RTX

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, ROWS, WIDTH = 64, 4, 2, 32, 128, 256, 64, 4
CACHES = ("k_0", "v_0", "k_1", "v_1")
PRODUCTS = 7 * 2 + 1
X_MAX = 4.0
_kept: list[tempfile.TemporaryDirectory[str]] = []


def hand_target(scheme: str = "float32", *, in_place: bool = True, width: int | str = WIDTH) -> ir.Model:
    """Two layers and an LM head in float16: tokens [1,T] -> committed [1,T], next_position [1], and four caches.

    `in_place` False: attention in its usual form, for which TensorRT copies both caches.
    """
    builder = _Builder(scheme, width)
    hidden = builder.embed()
    for layer in range(2):
        hidden = builder.layer(hidden, layer, in_place=in_place)
    logits = builder.linear(builder.norm(hidden), VOCAB, HIDDEN, "lm_head")
    builder.result("committed", builder.emit("ArgMax", logits, axis=-1, keepdims=0), ir.DataType.INT64, [1, width])
    following = builder.emit("Add", builder.position, builder.emit.constant([WIDTH]))
    builder.result("next_position", following, ir.DataType.INT64, [1])
    return _in_float16(builder.model())


@dataclass(frozen=True)
class Built:
    """Engines in a folder of their own."""

    folder: Path
    engines: BuiltEngines

    @property
    def plan(self) -> Path:
        return self.folder / "round.engine"


def build(model: ir.Model, *capabilities: str, widths: tuple[int, ...] = ()) -> Built:
    """Write and build one graph "round" in a new temporary folder."""
    _kept.append(tempfile.TemporaryDirectory(prefix="forerun-engine-"))
    folder = Path(_kept[-1].name)
    write_for_tensorrt({"round": model}, folder)
    graph = GraphBuild("round", folder / "round.onnx", widths)
    return Built(folder, build_engines(EngineRequest(TENSORRT_RTX, capabilities, (graph,)), folder, lambda *_: None))


@cache
def built(scheme: str, *capabilities: str) -> Built:
    """The engine of `hand_target(scheme)`; tests must not change its files."""
    return build(hand_target(scheme), *capabilities)


class _Builder:
    """The graph while it grows."""

    def __init__(self, scheme: str, width: int | str) -> None:
        self.random = np.random.default_rng(0)
        self.scheme, self.width = scheme, width
        self.tokens = ir.val("tokens", ir.DataType.INT64, [1, width])
        self.position = ir.val("position", ir.DataType.INT64, [1])
        self.graph = ir.Graph(
            [self.tokens, self.position], [], nodes=[], opset_imports={"": OPSET, DOMAIN: 1}, name="round"
        )
        self.emit = Emitter(self.graph, "")
        steps = self._steps()
        self.positions = self.emit("Add", self._unsqueeze(self.position, 1), self._unsqueeze(steps, 0))
        rows = self.emit.constant(np.arange(ROWS)[None, None])
        self.visible = self.emit("LessOrEqual", rows, self._unsqueeze(self.positions, 2))

    def model(self) -> ir.Model:
        model = ir.Model(self.graph, ir_version=11)
        quantize_fp8(model)
        quantize_int8_static(model)
        quantize_nvfp4(model, "standard")
        self.graph.opset_imports.pop(DOMAIN)
        return model

    def embed(self) -> ir.Value:
        return self.emit("Gather", self._floats(self.random.standard_normal((VOCAB, HIDDEN))), self.tokens)

    def layer(self, hidden: ir.Value, index: int, *, in_place: bool) -> ir.Value:
        normed = self.norm(hidden)
        q = self._heads(self.linear(normed, HEADS * HEAD_DIM, HIDDEN, f"q_{index}"), HEADS, rotated=True)
        k = self._heads(self.linear(normed, KV_HEADS * HEAD_DIM, HIDDEN, f"k_{index}.product"), KV_HEADS, rotated=True)
        v = self._heads(self.linear(normed, KV_HEADS * HEAD_DIM, HIDDEN, f"v_{index}.product"), KV_HEADS, rotated=False)
        caches = [self._write(f"{name}_{index}", new) for name, new in (("k", k), ("v", v))]
        attended = self._attention(q, caches) if in_place else self._usual_attention(q, caches)
        rows = self.emit("Reshape", self.emit("Transpose", attended, perm=[0, 2, 1, 3]), self._shape(1, -1, 128))
        hidden = self.emit("Add", hidden, self.linear(rows, HIDDEN, HEADS * HEAD_DIM, f"o_{index}"))
        normed = self.norm(hidden)
        gate, up = (self.linear(normed, INNER, HIDDEN, f"{name}_{index}") for name in ("gate", "up"))
        inner = self.emit("Mul", self.emit("Mul", gate, self.emit("Sigmoid", gate)), up)
        return self.emit("Add", hidden, self.linear(inner, HIDDEN, INNER, f"down_{index}"))

    def norm(self, x: ir.Value) -> ir.Value:
        return self.emit("RMSNormalization", x, self._floats(np.ones(HIDDEN)), axis=-1, epsilon=1e-6)

    def linear(self, x: ir.Value, n: int, k: int, name: str) -> ir.Value:
        weight = self._floats(self.random.standard_normal((n, k)) / np.sqrt(k))
        if self.scheme == "float32":
            return self.emit("MatMul", x, self._floats(weight.const_value.numpy().T))  # type: ignore[union-attr]
        x.shape = ir.Shape([1, self.width, k])
        attributes = Linear(name, self.scheme, X_MAX).attributes()
        self.emit.add(ir.node(Linear.OP_TYPE, [x, weight], attributes, domain=DOMAIN, outputs=[ir.val(name)]))
        return self.graph[-1].outputs[0]

    def result(self, name: str, value: ir.Value, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self.graph.outputs.append(value)
        return value

    def _write(self, name: str, rows: ir.Value) -> ir.Value:
        shape: list[int | str] = [1, KV_HEADS, ROWS, HEAD_DIM]
        cache_in = ir.val(name, ir.DataType.FLOAT16, shape)
        self.graph.inputs.append(cache_in)
        written = self.emit("TensorScatter", cache_in, rows, self.position, axis=2, mode="linear")
        return self.result(f"{name}.out", written, ir.DataType.FLOAT16, shape)

    def _attention(self, q: ir.Value, caches: list[ir.Value]) -> ir.Value:
        """The rows of a decoding run as heads: the form for which TensorRT reads the caches where they lie."""
        seen = self.emit("Reshape", self.visible, self._shape(1, WIDTH, -1, ROWS))
        mask = self.emit("Where", seen, self._floats(0.0), self._floats(-60000.0))
        mask = self.emit("Tile", mask, self.emit.constant([1, HEADS, 1, 1]))
        q = self.emit("Reshape", q, self._shape(1, HEADS * WIDTH, -1, HEAD_DIM))
        out = self.emit("Attention", q, *caches, mask, scale=HEAD_DIM**-0.5)
        return self.emit("Reshape", out, self._shape(1, HEADS, -1, HEAD_DIM))

    def _usual_attention(self, q: ir.Value, caches: list[ir.Value]) -> ir.Value:
        mask = self.emit("Where", self._unsqueeze(self.visible, 1), self._floats(0.0), self._floats(-60000.0))
        return self.emit("Attention", q, *caches, mask, scale=HEAD_DIM**-0.5)

    def _heads(self, x: ir.Value, heads: int, *, rotated: bool) -> ir.Value:
        split = self.emit("Reshape", x, self._shape(1, -1, heads, HEAD_DIM))
        rows = self.emit("Transpose", split, perm=[0, 2, 1, 3])
        if not rotated:
            return rows
        angles = np.arange(ROWS)[:, None] * 1e4 ** (-np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM)
        return self.emit(
            "RotaryEmbedding", rows, self._floats(np.cos(angles)), self._floats(np.sin(angles)), self.positions
        )

    def _steps(self) -> ir.Value:
        """0 .. T-1."""
        if isinstance(self.width, int):
            return self.emit.constant(np.arange(self.width))
        width = self.emit("Squeeze", self.emit("Shape", self.tokens, start=1, end=2), self.emit.constant([0]))
        return self.emit("Range", self.emit.constant(0), width, self.emit.constant(1))

    def _unsqueeze(self, x: ir.Value, axis: int) -> ir.Value:
        return self.emit("Unsqueeze", x, self.emit.constant([axis]))

    def _shape(self, *sizes: int) -> ir.Value:
        return self.emit.constant(sizes)

    def _floats(self, values: npt.ArrayLike) -> ir.Value:
        return self.emit.constant(values, np.float32)


def _in_float16(model: ir.Model) -> ir.Model:
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        if value.const_value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
    return model
