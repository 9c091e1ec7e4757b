"""What is added to an int8 product goes into it where its shape is known to fit; the numbers stay bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.fuse_addend import fuse_addend
from hand_graphs import FLOAT, Array, constant, node, run
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

K, N = 70, 24


def rows(name: str = "x", k: int | str = K) -> ir.Value:
    return ir.val(name, FLOAT, [1, T, k])


def added(a: ir.Value, b: ir.Value, name: str = "y") -> ir.Node:
    return node("Add", [a, b], (name, [1, T, N]))


def check_numbers(model: ir.Model, fused: int) -> None:
    feeds = feeds_of(model)
    before = evaluate(model, feeds)
    assert apply(model, fuse_addend) == fused
    for found in (evaluate(model, feeds), run(model, feeds)):
        for name, array in before.items():
            np.testing.assert_array_equal(found[name], array, name)


def check_left(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> None:
    model = quantized(inputs, nodes, outputs)
    before = all_ops(model)
    assert apply(model, fuse_addend) == 0
    assert all_ops(model) == before


@of_each_precision
@pytest.mark.parametrize("first", [True, False])
def test_a_residual_that_is_made_after_the_product(scheme: str, first: bool) -> None:
    x, residual = rows(), rows("residual", N)
    inner = product(x, "p", N, scheme=scheme)
    late = node("Neg", [residual], ("late", [1, T, N]))
    operands = (inner.outputs[0], late.outputs[0]) if first else (late.outputs[0], inner.outputs[0])
    last = added(*operands)
    model = quantized([x, residual], [inner, late, last], last.outputs)
    check_numbers(model, 1)
    assert [each.op_type for each in model.graph] == ["Neg", OPS[scheme]]
    _, fused = model.graph
    assert fused.inputs[3] is None  # no norm
    assert [value.name if value is not None else "" for value in fused.inputs[3:]] == ["", "late"]


@of_each_precision
def test_a_residual_stream(scheme: str) -> None:
    """Each sum is read by the next product and added to its output."""
    x = rows("x", N)
    nodes, stream = [], x
    for number in range(3):
        nodes.append(product(stream, f"p{number}", N, scheme=scheme))
        nodes.append(added(stream, nodes[-1].outputs[0], f"sum{number}"))
        stream = nodes[-1].outputs[0]
    model = quantized([x], nodes, [stream])
    check_numbers(model, 3)
    assert all_ops(model) == [OPS[scheme]] * 3


@of_each_precision
@pytest.mark.parametrize("shape", [[N], [1, N], [1, 1, N]])
def test_a_bias(scheme: str, shape: list[int]) -> None:
    x = rows()
    inner = product(x, "p", N, scheme=scheme)
    last = added(constant("bias", RNG.standard_normal(shape)), inner.outputs[0])
    model = quantized([x], [inner, last], last.outputs)
    check_numbers(model, 1)
    assert all_ops(model) == [OPS[scheme]]


def test_a_product_takes_one_addend() -> None:
    x, residual = rows(), rows("residual", N)
    inner = product(x, "p", N)
    biased = added(inner.outputs[0], constant("bias", RNG.standard_normal(N)), "biased")
    last = added(biased.outputs[0], residual)
    model = quantized([x, residual], [inner, biased, last], last.outputs)
    check_numbers(model, 1)
    assert all_ops(model) == ["Add", "LinearInt8"]


def test_of_two_products_one_is_added_to_the_other() -> None:
    x = rows()
    nodes = [product(x, "p", N), product(x, "q", N)]
    last = added(nodes[0].outputs[0], nodes[1].outputs[0])
    model = quantized([x], [*nodes, last], last.outputs)
    check_numbers(model, 1)
    assert all_ops(model) == ["LinearInt8", "LinearInt8"]


@of_each_precision
def test_in_a_branch(scheme: str) -> None:
    weight = constant("w", RNG.standard_normal((K, K)))

    def fill(emit: Emitter, x: ir.Value) -> ir.Value:
        inner = product(x, "p", K, weight, scheme=scheme)
        emit.add(inner)
        return shaped(emit("Add", inner.outputs[0], x), K)

    model = branchy(K, K, fill)
    check_numbers(model, 1)
    assert all_ops(model) == [OPS[scheme]]


@pytest.mark.parametrize("shape", [[1, T, 1], [1, "S", N], [1, 1, N], [1, None, N], [1, 1, T, N], [], None])
def test_computed_rows_of_another_or_no_known_shape_stay(shape: list[int | str | None] | None) -> None:
    x, other = rows(), ir.val("other", FLOAT, [2])
    inner = product(x, "p", N)
    made = node("Mystery", [other], ("made", []), domain="forerun")
    made.outputs[0].shape = None if shape is None else ir.Shape(shape)
    last = added(inner.outputs[0], made.outputs[0])
    check_left([x, other], [inner, made, last], last.outputs)


@pytest.mark.parametrize("array", [np.ones((1, 1, 1, N)), np.ones((3, N)), np.ones(()), np.ones(1)], ids=np.shape)
def test_other_constants_stay(array: Array) -> None:
    x = rows()
    inner = product(x, "p", N)
    last = added(inner.outputs[0], constant("c", array))
    check_left([x], [inner, last], last.outputs)


def test_unknown_rows_of_the_product_are_no_shape() -> None:
    x, other = ir.val("x", FLOAT, [1, None, K]), ir.val("other", FLOAT, [1, None, N])
    inner = product(x, "p", N)
    last = added(inner.outputs[0], other)
    check_left([x, other], [inner, last], last.outputs)


@pytest.mark.parametrize("reader", ["the graph's caller", "the same Add", "another op"])
def test_a_product_that_something_else_reads_stays(reader: str) -> None:
    x, residual = rows(), rows("residual", N)
    inner = product(x, "p", N)
    (out,) = inner.outputs
    last = added(out, out if reader == "the same Add" else residual)
    nodes, outputs = [inner, last], [last.outputs[0]]
    if reader == "another op":
        nodes.append(node("Neg", [out], ("negated", [1, T, N])))
        outputs.append(nodes[-1].outputs[0])
    elif reader == "the graph's caller":
        outputs.append(out)
    check_left([x] if reader == "the same Add" else [x, residual], nodes, outputs)


def test_a_product_outside_does_not_move_into_a_branch() -> None:
    weight = constant("w", RNG.standard_normal((K, K)))

    def fill(emit: Emitter, x: ir.Value) -> ir.Value:
        user = next(use.node for use in x.uses())
        inner = product(x, "p", K, weight)
        assert user.graph is not None
        user.graph.insert_before(user, inner)
        return shaped(emit("Add", inner.outputs[0], x), K)

    model = branchy(K, K, fill)
    assert apply(model, fuse_addend) == 0
    assert all_ops(model) == ["Add", "LinearInt8"]
