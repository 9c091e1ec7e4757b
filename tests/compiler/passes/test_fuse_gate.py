"""Gatings go into the int8 product before them, its outputs put in turns; what is no plain gating stays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.number_formats.packing import unpack_blocks
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.fuse_addend import fuse_addend
from forerun_compiler.passes.fuse_gate import fuse_gate
from forerun_compiler.passes.fuse_norm import fuse_norm
from hand_graphs import FLOAT, INT, constant, node, run
from linear_graphs import close
from product_graphs import (
    OPS,
    RNG,
    T,
    all_ops,
    apply,
    branchy,
    evaluate,
    feeds_of,
    of_each_precision,
    product,
    quantized,
    shaped,
)

K, HALF = 70, 48
TOLERANCE = 1e-6
"""Of the largest output: one sigmoid against another."""
AROUND = ["Mul", "Mul", "Sigmoid", "Split"]


def rows(name: str = "x") -> ir.Value:
    return ir.val(name, FLOAT, [1, T, K])


def gating(
    wide: ir.Value,
    out: str = "y",
    *,
    half: int = HALF,
    sizes: Sequence[int] | None = None,
    gate_first: bool = True,
    order: tuple[bool, bool] = (True, True),
    axis: int = -1,
) -> list[ir.Node]:
    """Split, gate * sigmoid(gate) * value; `order` says whether the Muls have these operands in this order."""
    parts = [(f"{out}.{part}", [1, T, half]) for part in "ab"]
    if sizes is None:
        split = node("Split", [wide], *parts, axis=axis, num_outputs=2)
    else:
        split = node("Split", [wide, constant(f"{out}.sizes", sizes, np.int64)], *parts, axis=axis)
    gate, value = split.outputs if gate_first else split.outputs[::-1]
    sigmoid = node("Sigmoid", [gate], (f"{out}.sigmoid", [1, T, half]))
    a = [gate, sigmoid.outputs[0]]
    silu = node("Mul", a if order[0] else a[::-1], (f"{out}.silu", [1, T, half]))
    b = [silu.outputs[0], value]
    return [split, sigmoid, silu, node("Mul", b if order[1] else b[::-1], (out, [1, T, half]))]


def check_numbers(model: ir.Model, fused: int) -> None:
    feeds = feeds_of(model)
    before = evaluate(model, feeds)
    assert apply(model, fuse_gate) == fused
    close(evaluate(model, feeds), before, TOLERANCE)
    close(run(model, feeds), before, TOLERANCE)


def check_left(model: ir.Model) -> None:
    before = all_ops(model)
    assert apply(model, fuse_gate) == 0
    assert all_ops(model) == before


@of_each_precision
@pytest.mark.parametrize(("gate_first", "a", "b"), list(itertools.product([True, False], repeat=3)))
def test_a_gating_of_any_order(scheme: str, gate_first: bool, a: bool, b: bool) -> None:
    x = rows()
    first = product(x, "wide", 2 * HALF, scheme=scheme)
    gate = gating(first.outputs[0], gate_first=gate_first, order=(a, b))
    model = quantized([x], [first, *gate], gate[-1].outputs)
    check_numbers(model, 1)
    assert all_ops(model) == [f"Gated{OPS[scheme]}"]


def test_blocks_of_gates_and_values_take_turns() -> None:
    """The old weight goes, the new one has its rows in turns of 16, and so have the scales."""
    x = rows()
    first = product(x, "wide", 2 * HALF)
    gate = gating(first.outputs[0], sizes=[HALF, HALF], gate_first=False, axis=2)
    model = quantized([x], [first, *gate], gate[-1].outputs)
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert apply(model, fuse_gate) == 1
    names = ["wide.w.int8.gated", "wide.w.int8.scale.gated"]
    assert sorted(model.graph.initializers) == names
    new = [model.graph.initializers[name].const_value for name in names]
    packed, scale = (tensor.numpy() for tensor in new if tensor is not None)
    order = np.concatenate([np.r_[HALF + i : HALF + i + 16, i : i + 16] for i in (0, 16, 32)])
    codes = unpack_blocks(arrays["wide.w.int8"], 2 * HALF, K)
    np.testing.assert_array_equal(unpack_blocks(packed, 2 * HALF, K), codes[order])
    np.testing.assert_array_equal(scale, arrays["wide.w.int8.scale"][order])


def test_blocks_of_int4_and_their_scales_take_turns() -> None:
    x = rows()
    first = product(x, "wide", 2 * HALF, scheme="int4-group32")
    gate = gating(first.outputs[0])
    model = quantized([x], [first, *gate], gate[-1].outputs)
    arrays = {name: value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value}
    assert apply(model, fuse_gate) == 1
    for name in ("wide.w.int4-group32", "wide.w.int4-group32.scale"):
        new = model.graph.initializers[f"{name}.gated"].const_value
        assert new is not None
        np.testing.assert_array_equal(new.numpy(), arrays[name][[0, 3, 1, 4, 2, 5]])
    (fused,) = model.graph
    assert {name: each.as_int() for name, each in fused.attributes.items()} == {"group_size": 32, "outputs": 2 * HALF}


@of_each_precision
def test_a_norm_stays_with_the_product(scheme: str) -> None:
    x = rows()
    norm = node("RMSNormalization", [x, constant("n", RNG.uniform(0.5, 2, K))], ("normed", [1, T, K]), epsilon=0.25)
    first = product(norm.outputs[0], "wide", 2 * HALF, scheme=scheme)
    gate = gating(first.outputs[0])
    model = quantized([x], [norm, first, *gate], gate[-1].outputs)
    assert apply(model, fuse_norm) == 1
    check_numbers(model, 1)
    (fused,) = model.graph
    assert [value.name if value is not None else "" for value in fused.inputs][3:] == ["n"]
    assert fused.attributes["epsilon"].as_float() == 0.25
    assert fuse_addend(model) == 0


@of_each_precision
def test_two_gatings_of_one_weight_share_it(scheme: str) -> None:
    x, y = rows(), rows("y")
    weight = constant("w", RNG.standard_normal((2 * HALF, K)))
    nodes: list[ir.Node] = []
    for each in (x, y):
        nodes.append(product(each, f"{each.name}.wide", 2 * HALF, weight, scheme=scheme))
        nodes += gating(nodes[-1].outputs[0], f"{each.name}.out")
    model = quantized([x, y], nodes, [nodes[4].outputs[0], nodes[9].outputs[0]])
    check_numbers(model, 2)
    assert all_ops(model) == [f"Gated{OPS[scheme]}"] * 2
    assert sorted(model.graph.initializers) == [f"w.{scheme}.gated", f"w.{scheme}.scale.gated"]


@pytest.mark.parametrize("other", ["a product", "a gating in another order"])
def test_a_weight_is_not_stored_in_two_orders(other: str) -> None:
    x = rows()
    weight = constant("w", RNG.standard_normal((2 * HALF, K)))
    first, second = (product(x, name, 2 * HALF, weight) for name in ("wide", "too"))
    nodes = [first, *gating(first.outputs[0]), second]
    if other != "a product":
        nodes += gating(second.outputs[0], "z", gate_first=False)
    check_left(quantized([x], nodes, [nodes[4].outputs[0], nodes[-1].outputs[0]]))


@of_each_precision
def test_in_a_branch(scheme: str) -> None:
    weight = constant("w", RNG.standard_normal((2 * HALF, K)))

    def fill(emit: Emitter, x: ir.Value) -> ir.Value:
        first = product(x, "wide", 2 * HALF, weight, scheme=scheme)
        nodes = [first, *gating(first.outputs[0])]
        for each in nodes:
            emit.add(each)
        nodes[-1].outputs[0].name = "gated"
        return shaped(nodes[-1].outputs[0], HALF)

    model = branchy(K, HALF, fill)
    check_numbers(model, 1)
    assert all_ops(model) == [f"Gated{OPS[scheme]}"]


def test_a_product_outside_does_not_move_into_a_branch() -> None:
    weight = constant("w", RNG.standard_normal((2 * HALF, K)))

    def fill(emit: Emitter, x: ir.Value) -> ir.Value:
        user = next(use.node for use in x.uses())
        first = product(x, "wide", 2 * HALF, weight)
        assert user.graph is not None
        user.graph.insert_before(user, first)
        nodes = gating(first.outputs[0])
        for each in nodes:
            emit.add(each)
        nodes[-1].outputs[0].name = "gated"
        return shaped(nodes[-1].outputs[0], HALF)

    check_left(branchy(K, HALF, fill))


@pytest.mark.parametrize("reader", ["another op", "the graph's caller"])
@pytest.mark.parametrize("index", range(5), ids=["wide", "gate", "value", "sigmoid", "silu"])
def test_what_something_else_reads_stays(index: int, reader: str) -> None:
    x = rows()
    first = product(x, "wide", 2 * HALF)
    nodes = [first, *gating(first.outputs[0])]
    between = [value for each in nodes[:-1] for value in each.outputs][index]
    outputs = [nodes[-1].outputs[0]]
    if reader == "another op":
        assert between.shape is not None
        nodes.append(node("Neg", [between], ("negated", list(between.shape))))  # type: ignore[arg-type]
        outputs.append(nodes[-1].outputs[0])
    else:
        outputs.append(between)
    check_left(quantized([x], nodes, outputs))


@of_each_precision
@pytest.mark.parametrize("n", [80, 90])
def test_halves_that_are_no_whole_blocks_stay(scheme: str, n: int) -> None:
    x = rows()
    first = product(x, "wide", n, scheme=scheme)
    gate = gating(first.outputs[0], half=n // 2)
    check_left(quantized([x], [first, *gate], gate[-1].outputs))


@pytest.mark.parametrize(
    "kind", ["parts of two sizes", "computed sizes", "of rows", "three parts", "two sigmoids", "a sum"]
)
def test_other_graphs_stay(kind: str) -> None:
    x, computed = rows(), ir.val("computed", INT, [2])
    inputs, first = [x], product(x, "wide", 2 * HALF)
    nodes = gating(first.outputs[0], sizes=[HALF, HALF])
    split, sigmoid, silu, last = nodes
    if kind == "parts of two sizes":
        nodes = gating(first.outputs[0], sizes=[32, 64])
    elif kind == "computed sizes":
        split.replace_input_with(1, computed)
        inputs.append(computed)
    elif kind == "of rows":
        nodes = gating(first.outputs[0], axis=1)
    elif kind == "three parts":
        parts = [(name, [1, T, 32]) for name in "abc"]
        split = node("Split", [first.outputs[0]], *parts, axis=-1, num_outputs=3)
        sigmoid.replace_input_with(0, split.outputs[0])
        silu.replace_input_with(0, split.outputs[0])
        last.replace_input_with(1, split.outputs[1])
        nodes = [split, sigmoid, silu, last]
    elif kind == "two sigmoids":
        silu.replace_input_with(0, sigmoid.outputs[0])
        silu.replace_input_with(1, sigmoid.outputs[0])
    else:
        last = node("Add", [silu.outputs[0], split.outputs[1]], ("y", [1, T, HALF]))
        nodes = [split, sigmoid, silu, last]
    check_left(quantized(inputs, [first, *nodes], nodes[-1].outputs))


@of_each_precision
def test_a_product_with_an_addend_takes_no_gate(scheme: str) -> None:
    x = rows()
    first = product(x, "wide", 2 * HALF, scheme=scheme)
    biased = node("Add", [first.outputs[0], constant("b", RNG.standard_normal(2 * HALF))], ("biased", [1, T, 2 * HALF]))
    gate = gating(biased.outputs[0])
    model = quantized([x], [first, biased, *gate], gate[-1].outputs)
    assert apply(model, fuse_addend) == 1
    assert all_ops(model) == [OPS[scheme], *AROUND]
    check_left(model)
