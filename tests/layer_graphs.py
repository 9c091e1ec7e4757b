"""A decoder layer of the project's own kernels by hand: four products, the attention between them, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

import forerun
from forerun_compiler.number_formats.packing import pack_blocks, pack_nibbles, pack_scales
from forerun_compiler.passes.quantize_int8 import OPERATORS
from hand_graphs import FLOAT, INT, Array, constant

E, H, G, D, C, INNER, GROUP = 80, 4, 2, 16, 40, 1024, 64
"""Width of the model, heads, key-value heads, head dim, capacity, width of the gates, inputs of a group of int4."""
INT8 = ir.DataType.INT8
RNG = np.random.default_rng(0)
SIZES = ((H + 2 * G) * D, E), (E, H * D), (2 * INNER, E), (E, INNER)
"""Outputs and inputs of each product."""
ALL_INT4 = ("int4",) * 4


def layer_model(
    precisions: Sequence[str] = ALL_INT4,
    *,
    int8_caches: bool = False,
    norms: bool = True,
    head_norms: bool = True,
    rotated: bool = True,
    tree: bool = False,
) -> ir.Model:
    """Rows x [1,T,E] through one layer of five nodes; returns y and the caches. Float32 or int8 caches."""
    x, position = ir.val("x", FLOAT, [1, "T", E]), ir.val("position", INT, [1])
    states = [ir.val(name, INT8 if int8_caches else FLOAT, [1, G, C, D]) for name in ("k", "v")]
    states += [ir.val(f"{name}_scale", FLOAT, [1, G, C]) for name in ("k", "v") if int8_caches]
    parents = [ir.val("parents", INT, [1, "T"])] if tree else []
    weights = [_weight(name, *sizes) for name, sizes in zip(precisions, SIZES, strict=True)]
    row_norms = [constant(f"{name}.norm", RNG.uniform(0.5, 2, E)) if norms else None for name in ("qkv", "gate")]
    turns = [constant(f"{name}_norm", RNG.uniform(0.5, 2, D)) if head_norms else None for name in ("q", "k")]
    tables = [constant(name, RNG.uniform(-1, 1, (C, D // 2))) if rotated else None for name in ("cos", "sin")]
    qkv = _product("qkv", x, weights[0], row_norms[0])
    attention = _node(
        "CachedAttentionInt8" if int8_caches else "CachedAttention",
        [qkv.outputs[0], *states, position, *turns, *tables, *parents],
        {"num_heads": H, "kv_num_heads": G, "head_dim": D, "scale": 0.25, "epsilon": 1e-6, "softcap": 30.0, "window": 9}
        | {"causal": 1},
        ["attended", *(f"{state.name}.out" for state in states)],
    )
    output = _product("output", attention.outputs[0], weights[1], addend=x)
    gate = _product("gated", output.outputs[0], weights[2], row_norms[1], gated=True)
    down = _product("y", gate.outputs[0], weights[3], addend=output.outputs[0])
    results = [down.outputs[0], *attention.outputs[1:]]
    for value, like in zip(results, (x, *states), strict=True):
        value.type, value.shape = like.type, like.shape
    inputs = [x, *states, position, *parents]
    graph = ir.Graph(
        inputs, results, nodes=[qkv, attention, output, gate, down], opset_imports={"": 21, OPERATORS: 1}, name="layer"
    )
    for value in {
        id(v): v for node in graph for v in node.inputs if v is not None and v.const_value is not None
    }.values():
        graph.register_initializer(value)
    return ir.Model(graph, ir_version=10)


def _weight(precision: str, n: int, k: int) -> tuple[ir.Value, ir.Value, dict[str, int]]:
    name = f"w{n}x{k}.{RNG.integers(1 << 40)}"
    if precision == "int8":
        codes, scale = RNG.integers(-127, 128, (n, k)).astype(np.int8), RNG.uniform(1e-4, 1e-3, n).astype(np.float32)
        return constant(name, pack_blocks(codes), np.uint8), constant(f"{name}.scale", scale), {}
    codes, scale = RNG.integers(-8, 8, (n, k)).astype(np.int8), RNG.uniform(-0.02, 0.02, (n, -(-k // GROUP)))
    packed = pack_scales(scale.astype(ml_dtypes.bfloat16))
    scales = ir.val(f"{name}.scale", const_value=ir.tensor(packed, name=f"{name}.scale"))
    return constant(name, pack_nibbles(codes), np.uint8), scales, {"group_size": GROUP, "outputs": n}


def _product(
    out: str,
    x: ir.Value,
    weight: tuple[ir.Value, ir.Value, Mapping[str, int]],
    norm: ir.Value | None = None,
    addend: ir.Value | None = None,
    *,
    gated: bool = False,
) -> ir.Node:
    packed, scale, attributes = weight
    op_type = ("Gated" if gated else "") + ("LinearInt4" if attributes else "LinearInt8")
    epsilon = {"epsilon": 1e-5} if norm is not None else {}
    inputs = [x, packed, scale, norm, addend]
    while inputs[-1] is None:
        inputs.pop()
    return _node(op_type, inputs, attributes | epsilon, [out])


def _node(
    op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, int | float], outputs: Sequence[str]
) -> ir.Node:
    while inputs[-1] is None:
        inputs = inputs[:-1]
    made = [ir.val(name) for name in outputs]
    return ir.node(op_type, inputs, attributes, domain=OPERATORS, outputs=made, name=f"{outputs[0]}.node")


def feeds_for(model: ir.Model, rows: int, position: int = 11) -> dict[str, Array]:
    """Random rows and caches."""
    feeds: dict[str, Array] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = [size if isinstance(size, int) else rows for size in value.shape]
        if value.name == "position":
            feeds["position"] = np.array([position])
        elif value.name == "parents":
            feeds["parents"] = np.maximum(np.arange(rows) - 2, -1)[None]
        elif value.dtype == INT8:
            feeds[str(value.name)] = RNG.integers(-127, 128, shape).astype(np.int8)
        else:
            feeds[str(value.name)] = RNG.uniform(0.01, 1, shape).astype(np.float32)
    return feeds


def run_on(model: ir.Model, feeds: Mapping[str, Array], threads: int = 2) -> dict[str, Array]:
    """One run on ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(forerun.kernel_library()))
    proto: onnx.ModelProto = ir.to_proto(model)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))


def assert_same_bits(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Assert equal names and equal bits."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, name)
