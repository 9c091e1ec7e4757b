"""Graphs cut down to their products, and the profile that says what ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from part_of_graph import ATTENTION, PRODUCTS, cut, run_part, single_kernels
from round_profile import profile, read_events, shares
from round_share import RoundParts, Share, _given

from forerun_compiler.manifest import Manifest
from forerun_compiler.number_formats.linear_int4 import linear_int4
from forerun_compiler.number_formats.linear_int8 import linear_int8
from forerun_compiler.number_formats.packing import unpack_blocks, unpack_nibbles, unpack_scales
from forerun_compiler.ort_session import open_session
from forerun_compiler.passes.fuse_addend import fuse_addend
from forerun_compiler.passes.fuse_gate import fuse_gate
from forerun_compiler.passes.fuse_layer import fuse_layer
from forerun_compiler.passes.fuse_norm import fuse_norm
from hand_graphs import FLOAT, constant, node
from layer_graphs import feeds_for, layer_model
from product_graphs import OPS, T, apply, of_each_precision, product, quantized
from tiny_bundles import manifest
from tiny_pairs import pair


def _event(name: str, op: str, start: float, time: float, shape: tuple[int, ...] = (1, 2)) -> dict[str, object]:
    arguments = {"op_name": op, "output_type_shape": [{"float": list(shape)}]}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": time, "tid": 1, "args": arguments}


def test_a_branch_counts_once() -> None:
    events = [
        _event("inner", "If", 12, 6),
        _event("deep", "MatMul", 13, 4),
        _event("outer", "If", 10, 10),
        _event("before", "MatMul", 0, 5),
        {"cat": "Session", "name": "model_run", "ts": 0, "dur": 20, "tid": 1},
    ]
    kernels = read_events(events)
    assert [kernel.node for kernel in kernels] == ["before", "outer", "inner", "deep"]
    found = {share.op: (share.nodes, share.time_us) for share in shares(kernels, runs=2)}
    assert found == {"MatMul": (1.0, 4.5), "If": (1.0, 3.0)}
    assert kernels[0].outputs == (("float", (1, 2)),)


def _save(folder: Path) -> Path:
    """x -> MatMul(w) -> Relu -> MatMul(w again) -> MatMul(dequantized) -> If(always else: MatMul(u))."""

    def branch(name: str, weight: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["third.out", weight], [f"{name}.out"], name=f"{name}.MatMul")
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(f"{name}.out", onnx.TensorProto.FLOAT, None)]
        )

    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal((4, 4)).astype(np.float32) for name in "wuv"}
    constants |= {"q": rng.integers(-9, 9, (4, 4)).astype(np.int8), "s": np.float32(0.5), "no": np.array(False)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first.out"], name="first"),
        helper.make_node("Relu", ["first.out"], ["relu.out"], name="relu"),
        helper.make_node("MatMul", ["relu.out", "w"], ["second.out"], name="second"),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"], name="dequantize"),
        helper.make_node("MatMul", ["second.out", "d"], ["third.out"], name="third"),
        helper.make_node(
            "If", ["no"], ["y"], name="if", then_branch=branch("then", "v"), else_branch=branch("else", "u")
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "hand.onnx")
    return folder / "hand.onnx"


def test_products_are_cut_out_on_inputs_of_their_own(tmp_path: Path) -> None:
    file = _save(tmp_path)
    x = np.ones((3, 4), np.float32)
    kernels = profile(file, 1, 1, False, lambda session: lambda: session.run(None, {"x": x}))
    part = cut(file, PRODUCTS, kernels, {"x": ("float", (3, 4))})
    made = onnx.load_from_string(part.model)
    products = {node.name: list(node.input) for node in made.graph.node if node.op_type == "MatMul"}
    # The branch that did not run is not there; two products of one weight read different inputs, others the same.
    assert sorted(products) == ["else.MatMul", "first", "second", "third"]
    assert part.nodes == 4
    assert products["first"][0] != products["second"][0]
    assert products["first"][0] == products["else.MatMul"][0]
    assert products["third"][1] == "d"
    assert set(part.inputs.values()) == {("float", (3, 4))}
    session = onnxruntime.InferenceSession(part.model, providers=["CPUExecutionProvider"])
    given = dict.fromkeys(part.inputs, x)
    (found,) = session.run(["else.MatMul/0"], given)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}
    np.testing.assert_allclose(found, x @ constants["u"], rtol=0, atol=1e-6)


def _save_layer(folder: Path, scheme: str) -> Path:
    """x -> norm -> gates and values -> gating -> product -> plus x: two operators once all is fused."""
    x = ir.val("x", FLOAT, [1, T, 32])
    norm = node("RMSNormalization", [x, constant("norm", np.full(32, 2.0))], ("normed", [1, T, 32]), epsilon=0.5)
    wide = product(norm.outputs[0], "wide", 96, scheme=scheme)
    split = node("Split", wide.outputs, ("gate", [1, T, 48]), ("value", [1, T, 48]), axis=-1, num_outputs=2)
    sigmoid = node("Sigmoid", split.outputs[:1], ("sigmoid", [1, T, 48]))
    silu = node("Mul", [split.outputs[0], sigmoid.outputs[0]], ("silu", [1, T, 48]))
    gated = node("Mul", [silu.outputs[0], split.outputs[1]], ("gated", [1, T, 48]))
    down = product(gated.outputs[0], "down", 32, scheme=scheme)
    added = node("Add", [down.outputs[0], x], ("y", [1, T, 32]))
    model = quantized([x], [norm, wide, split, sigmoid, silu, gated, down, added], added.outputs)
    assert [apply(model, fuse) for fuse in (fuse_norm, fuse_gate, fuse_addend)] == [1, 1, 1]
    ir.save(model, folder / "layer.onnx")
    return folder / "layer.onnx"


@of_each_precision
def test_products_alone_are_without_what_is_fused_into_them(tmp_path: Path, scheme: str) -> None:
    file = _save_layer(tmp_path, scheme)
    x = np.random.default_rng(0).standard_normal((1, 3, 32)).astype(np.float32)
    kernels = profile(file, 1, 1, False, lambda session: lambda: session.run(None, {"x": x}))
    assert [kernel.op for kernel in kernels] == [f"Gated{OPS[scheme]}", OPS[scheme]]
    assert {kernel.op for kernel in kernels} < PRODUCTS
    part = cut(file, PRODUCTS, kernels, {"x": ("float", x.shape)})
    made = onnx.load_from_string(part.model)
    assert [each.op_type for each in made.graph.node] == [OPS[scheme]] * 2
    assert [list(each.input)[1:] for each in made.graph.node] == [
        [f"wide.w.{scheme}.gated", f"wide.w.{scheme}.scale.gated"],
        [f"down.w.{scheme}", f"down.w.{scheme}.scale"],
    ]
    kept = [] if scheme == "int8" else ["group_size", "outputs"]
    assert [[attribute.name for attribute in each.attribute] for each in made.graph.node] == [kept] * 2
    # Gates and values, before the gating.
    assert list(part.outputs.values()) == [("float", (1, 3, 96)), ("float", (1, 3, 32))]
    session = open_session(file, 1, part.model)
    found = session.run(None, {name: np.ones(shape, np.float32) for name, (_, shape) in part.inputs.items()})
    assert [array.shape for array in found] == [(1, 3, 96), (1, 3, 32)]
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    packed, scale = constants[f"down.w.{scheme}"], constants[f"down.w.{scheme}.scale"]
    if scheme == "int8":
        wanted = linear_int8(np.ones((1, 3, 48)), unpack_blocks(packed, 32, 48), scale)
    else:
        wanted = linear_int4(np.ones((1, 3, 48)), unpack_nibbles(packed, 32, 48), unpack_scales(scale, 32), 32)
    np.testing.assert_array_equal(found[1], wanted)
    run_part(file, part, {}, threads=1)()


def _tiny_manifest() -> tuple[Path, Manifest]:
    tiny = pair()
    whole = manifest()
    return tiny.engine, type(whole)(**{**vars(whole), "model": tiny.graphs.facts, "graphs": tiny.interfaces})


def test_a_round_is_cut_into_all_its_products_and_attention() -> None:
    folder, facts = _tiny_manifest()
    parts = RoundParts(folder, facts, (1, 7), threads=1)
    ran = profile(parts.file, 1, 1, False, parts.bind)
    (products, run_products), (attention, run_attention) = parts.parts()
    assert products == sum(kernel.op in PRODUCTS for kernel in ran)
    # Three target layers and two of the drafter: each writes its keys and values itself.
    assert attention == sum(kernel.op in ATTENTION for kernel in ran) == 3 + 2
    run_products()
    run_attention()
    part = cut(parts.file, ATTENTION, ran, _given(parts.graph, 8))
    assert sorted(part.in_place.values()) == sorted(
        state.name for state in parts.graph.states if state.name != "draft_probs"
    )


def test_the_rest_is_what_the_parts_leave() -> None:
    share = Share(8, 1100.0, 70, 900.0, 13, 100.0)
    assert share.rest_us == 100.0
    assert share.over == pytest.approx(0.1)


def test_a_layer_counts_as_its_kernels(tmp_path: Path) -> None:
    model = layer_model()
    feeds, file = feeds_for(model, 3), tmp_path / "layer.onnx"
    assert fuse_layer(model) == 1
    file.write_bytes(ir.to_proto(model).SerializeToString())
    graph = single_kernels(file).SerializeToString()
    kernels = profile(file, 1, 1, False, lambda session: lambda: session.run(None, feeds), graph)
    names = {"float32": "float"}
    given = {name: (names.get(array.dtype.name, array.dtype.name), array.shape) for name, array in feeds.items()}
    products, attention = (cut(file, ops, kernels, given) for ops in (PRODUCTS, ATTENTION))
    assert (products.nodes, attention.nodes) == (4, 1)
    run_part(file, products, {}, threads=1)()
    run_part(file, attention, {"position": feeds["position"]}, threads=1)()
