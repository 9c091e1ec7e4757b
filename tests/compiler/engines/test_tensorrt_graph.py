"""Graphs that TensorRT must not get, what an engine must hold, and what is told when it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

import tensorrt_graphs as hand
from forerun_compiler.engines.capability import check_capabilities
from forerun_compiler.engines.plan_reader import Copy, PlanFacts, Product, ProfileFacts
from forerun_compiler.engines.tensorrt_graph import (
    Expectations,
    check_engine,
    check_float32,
    check_lowered,
    expectations_of,
)
from forerun_compiler.errors import EngineError
from forerun_compiler.graph import Attribute
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.quantize_nvfp4 import TRT
from forerun_compiler.schemes import TENSORRT_RTX
from hand_graphs import constant


def one_node(op_type: str, inputs: int, out: str = "y", domain: str = "", **attributes: Attribute) -> ir.Model:
    """A graph of a single node of as many inputs, named "odd"."""
    values = [ir.val(f"x{index}", ir.DataType.FLOAT, [1]) for index in range(inputs)]
    node = ir.node(op_type, values, attributes, domain=domain, outputs=[ir.val(out)], name="odd")
    return ir.Model(ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": 24}), ir_version=11)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (one_node("Attention", 7), r"odd \(Attention\): TensorRT ignores all inputs after the mask"),
        (one_node("Attention", 4, is_causal=1), r"odd \(Attention\): TensorRT aligns is_causal to the first key"),
        (one_node("Attention", 4, softcap=30.0), r"odd \(Attention\): TensorRT has no softcap"),
        (one_node("Loop", 1), r"odd \(Loop\): control flow makes an engine that no CUDA graph can capture"),
        (one_node("ScatterND", 3, "k_0.out"), r"odd \(ScatterND\): it copies the whole state .* use TensorScatter"),
        (one_node("GroupQueryAttention", 3, domain="com.microsoft"), r"operators of 'com\.microsoft' are not in Tens"),
        (one_node("Linear", 2, domain="forerun"), r"round: TensorRT cannot be given this graph: odd \(Linear\)"),
    ],
)
def test_forms_that_would_go_wrong_are_refused(model: ir.Model, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_lowered(model, "round")


@pytest.mark.parametrize(
    "model",
    [
        one_node("Attention", 4, scale=0.5),
        one_node("Attention", 4, is_causal=0, softcap=0.0),
        one_node("ScatterND", 3),
        one_node("TensorScatter", 3, "k_0.out"),
        one_node("TRT_FP4DynamicQuantize", 2, domain=TRT),
        hand.hand_target("nvfp4"),
    ],
)
def test_forms_that_are_right_pass(model: ir.Model) -> None:
    for index, node in enumerate(model.graph):
        node.name = f"{node.name}.{index}"
    check_lowered(model, "round")


def test_nodes_need_names_of_their_own() -> None:
    model = hand.hand_target()
    model.graph[1].name = model.graph[0].name
    with pytest.raises(
        EngineError, match=f"round: expected a name of its own for each node, found '{model.graph[0].name}'"
    ):
        check_lowered(model, "round")


def test_products_in_float32_are_refused_for_devices_without() -> None:
    model, dense = one_node("MatMul", 2), hand.hand_target()
    old, new = check_capabilities(TENSORRT_RTX, ("7.5", "12.0")), check_capabilities(TENSORRT_RTX, ("8.0",))
    check_float32(model, "round", new)
    check_float32(dense, "round", old)
    with pytest.raises(EngineError, match=r"round: .* no float32 product for 7\.5, .* has 1: odd; remove 7\.5 from"):
        check_float32(model, "round", old)


@pytest.mark.parametrize(("scheme", "operands"), [("fp8", "fp8"), ("nvfp4", "fp4"), ("int8-static", "int8")])
def test_what_a_quantized_graph_expects(scheme: str, operands: str) -> None:
    expected = expectations_of(hand.hand_target(scheme), ("12.0",))
    assert expected.states == expected.names.caches == hand.CACHES
    assert expected.names.inputs == ("tokens", "position", *hand.CACHES)
    assert list(expected.products.values()) == [operands] * hand.PRODUCTS


def test_dense_and_weight_only_products_may_be_anything() -> None:
    assert not expectations_of(hand.hand_target(), ()).products
    assert not expectations_of(hand.hand_target("nvfp4-weight-only"), ()).products


def test_casts_and_transposes_before_a_product_are_looked_through() -> None:
    x = ir.val("x", ir.DataType.FLOAT16, [1, 16])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 24})
    emit = Emitter(graph, "")
    weight = ir.val("w", const_value=ir.tensor(np.zeros((8, 16), np.int8), name="w"))
    graph.register_initializer(weight)
    zero = constant("zero", 0, np.int8)
    graph.register_initializer(zero)
    scale = emit.constant(0.1, np.float32)
    codes = emit("QuantizeLinear", emit("Cast", x, to=1), scale, zero)
    left = emit("Cast", emit("DequantizeLinear", codes, scale), to=10)
    right = emit("Cast", emit("Transpose", emit("DequantizeLinear", weight, scale), perm=[1, 0]), to=10)
    emit("MatMul", left, right)
    emit("MatMul", x, right)
    assert expectations_of(ir.Model(graph, ir_version=11), ()).products == {"MatMul_7": "int8"}


EXPECTED = Expectations(
    names=expectations_of(hand.hand_target(), ()).names,
    states=hand.CACHES,
    products={"a": "fp8", "b": "fp8"},
    capabilities=("8.9",),
)
GOOD = ProfileFacts(
    inputs=EXPECTED.names.inputs,
    outputs=EXPECTED.names.outputs,
    aliased=hand.CACHES,
    attended=hand.CACHES,
    copies=(),
    capturable=True,
    streams=1,
    device_memory=0,
    kernels={},
    products=(Product(("a", "b"), "fp8", "fp8"),),
)


def check(profile: ProfileFacts) -> None:
    check_engine(PlanFacts("1.7.1.116", ("8.9",), 1, (profile,)), EXPECTED, "round")


def test_what_was_meant_passes() -> None:
    check(GOOD)
    prefill = replace(GOOD, copies=(Copy("k_0", "kernel"),), attended=())
    check_engine(PlanFacts("1.7.1.116", ("8.9",), 1, (GOOD, prefill)), EXPECTED, "round")
    check_engine(PlanFacts("9.9", ("8.9",), 1, None, "not known"), EXPECTED, "round")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (replace(GOOD, capturable=False), r"a CUDA graph cannot capture a run of it"),
        (replace(GOOD, aliased=("k_0",)), r"3 of 4 states are not written in place: v_0, k_1, v_1"),
        (replace(GOOD, copies=(Copy("k_0", "__myl_Move"),)), r"caches are copied in each run: k_0 by __myl_Move"),
        (replace(GOOD, attended=("k_0", "v_0")), r"attention does not read these caches where they lie: k_1, v_1"),
        (
            replace(GOOD, products=(Product(("a",), "float16", "fp8"),)),
            r"2 of 2 fp8 products are something else: a \(float16 x fp8\), b \(no product\)",
        ),
    ],
)
def test_what_is_missing_is_listed(profile: ProfileFacts, message: str) -> None:
    with pytest.raises(EngineError, match=rf"round: the engine is not what the graph asked for: {message}\. The"):
        check(profile)


def test_all_that_is_missing_is_listed_once() -> None:
    bad = replace(GOOD, capturable=False, aliased=())
    with pytest.raises(EngineError, match=r"found one for 8\.9; a CUDA graph cannot .*; 4 of 4 states") as caught:
        check_engine(PlanFacts("1", ("8.9",), 1, (bad, bad)), replace(EXPECTED, capabilities=("12.0",)), "round")
    assert str(caught.value).count("CUDA graph") == 1
