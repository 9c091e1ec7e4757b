"""Whole layers become one operator of the same bits, exact chains only, and can be taken apart again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.graph import check_graph, remove_unused
from forerun_compiler.passes.fuse_layer import fuse_layer, split_layers
from hand_graphs import constant, op_types
from layer_graphs import E, assert_same_bits, feeds_for, layer_model, run_on

CHAIN = ["CachedAttention", "GatedLinearInt4", "LinearInt4", "LinearInt4", "LinearInt4"]
MIXED = ("int8", "int4", "int8", "int4")


def apply(model: ir.Model, change: Callable[[ir.Model], int]) -> int:
    count = change(model)
    remove_unused(model)
    check_graph(model, "layers")
    return count


def node_of(model: ir.Model, out: str) -> ir.Node:
    return next(node for node in model.graph if node.outputs[0].name == out)


@pytest.mark.parametrize("int8_caches", [False, True])
@pytest.mark.parametrize("precisions", [("int4",) * 4, ("int8",) * 4, MIXED])
def test_a_layer_is_one_node_of_the_same_bits(precisions: tuple[str, ...], int8_caches: bool) -> None:
    model = layer_model(precisions, int8_caches=int8_caches)
    feeds = feeds_for(model, 5)
    before, names = run_on(model, feeds), [value.name for value in model.graph.outputs]
    assert apply(model, fuse_layer) == 1
    assert op_types(model) == ["DecoderLayerInt8" if int8_caches else "DecoderLayer"]
    assert [value.name for value in model.graph.outputs] == names
    assert_same_bits(run_on(model, feeds), before)


@pytest.mark.parametrize("left_out", ["norms", "head_norms", "rotated"])
def test_a_layer_without_some_parts(left_out: str) -> None:
    model = layer_model(**{left_out: False})  # type: ignore[arg-type]
    feeds = feeds_for(model, 3)
    before = run_on(model, feeds)
    assert apply(model, fuse_layer) == 1
    assert_same_bits(run_on(model, feeds), before)


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("precisions", [("int4",) * 4, MIXED])
def test_a_layer_comes_apart_as_it_was(precisions: tuple[str, ...], tree: bool) -> None:
    model = layer_model(precisions, int8_caches=tree, tree=tree)
    feeds = feeds_for(model, 4)
    before, ops = run_on(model, feeds), op_types(model)
    attributes = {node.op_type: dict(node.attributes) for node in model.graph}
    arity = [len(node.inputs) for node in model.graph]
    assert apply(model, fuse_layer) == 1
    assert apply(model, split_layers) == 1
    assert op_types(model) == ops
    assert {node.op_type: dict(node.attributes) for node in model.graph} == attributes
    assert [len(node.inputs) for node in model.graph] == arity
    assert_same_bits(run_on(model, feeds), before)
    assert apply(model, fuse_layer) == 1


def read_inner(model: ir.Model, name: str) -> None:
    model.graph.outputs.append(value := node_of(model, name).outputs[0])
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, "T", None])


@pytest.mark.parametrize("name", ["qkv", "attended", "output", "gated"])
def test_an_inner_value_that_the_graph_returns_keeps_the_chain(name: str) -> None:
    model = layer_model()
    read_inner(model, name)
    assert apply(model, fuse_layer) == 0
    assert op_types(model) == CHAIN


def test_a_cache_that_another_node_reads_keeps_the_chain() -> None:
    model = layer_model()
    cache = node_of(model, "attended").outputs[1]
    copy = ir.node("Identity", [cache], outputs=[ir.val("copy", cache.dtype, cache.shape)], name="copy")
    model.graph.append(copy)
    model.graph.outputs.append(copy.outputs[0])
    assert apply(model, fuse_layer) == 0


def bias_of_qkv(model: ir.Model) -> None:
    node = node_of(model, "qkv")
    node.resize_inputs(5)
    node.replace_input_with(4, bias := constant("bias", np.ones(node.attributes["outputs"].as_int())))
    model.graph.register_initializer(bias)


def norm_of_output(model: ir.Model) -> None:
    node = node_of(model, "output")
    node.replace_input_with(3, norm := constant("norm", np.ones(64)))
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-5)
    model.graph.register_initializer(norm)


def another_residual(model: ir.Model) -> None:
    other = ir.val("other", ir.DataType.FLOAT, [1, "T", E])
    model.graph.inputs.append(other)
    node_of(model, "output").replace_input_with(4, other)


def no_residual(model: ir.Model) -> None:
    node_of(model, "y").resize_inputs(3)


@pytest.mark.parametrize("change", [bias_of_qkv, norm_of_output, another_residual, no_residual])
def test_what_the_operator_has_no_place_for_stays(change: Callable[[ir.Model], None]) -> None:
    model = layer_model()
    change(model)
    assert apply(model, fuse_layer) == 0
    assert op_types(model) == CHAIN
