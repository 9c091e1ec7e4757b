"""Norms of rows go into the int8 products that read them, in branches too; other norms stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.fuse_norm import fuse_norm
from hand_graphs import FLOAT, constant, node, run
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
)

K, N = 70, 24
TOLERANCE = 1e-5
"""Of the largest output: the squares are summed in another order. No code of these rows rounds to the other side."""


def normed(x: ir.Value, name: str = "normed", weight: ir.Value | None = None, **attributes: Any) -> ir.Node:
    weight = weight or constant(f"{name}.w", RNG.uniform(0.5, 2, K))
    return node("RMSNormalization", [x, weight], (name, [1, T, K]), **attributes)


def rows() -> ir.Value:
    return ir.val("x", FLOAT, [1, T, K])


def check_numbers(model: ir.Model, fused: int, left: int = 0) -> None:
    """Bit for bit, unless norms are `left` that the library sums in an order of its own."""
    feeds = feeds_of(model)
    before = evaluate(model, feeds)
    assert apply(model, fuse_norm) == fused
    after = evaluate(model, feeds)
    close(after, before, TOLERANCE)
    found = run(model, feeds)
    close(found, after, TOLERANCE if left else 0.0)


@of_each_precision
@pytest.mark.parametrize(("attributes", "epsilon"), [({"axis": -1, "epsilon": 0.25}, 0.25), ({"axis": 2}, 1e-5)])
def test_a_norm_goes_into_all_its_products(scheme: str, attributes: dict[str, Any], epsilon: float) -> None:
    x = rows()
    norm = normed(x, **attributes)
    products = [product(norm.outputs[0], "p", N, scheme=scheme), product(norm.outputs[0], "q", 7, scheme=scheme)]
    model = quantized([x], [norm, *products], [each.outputs[0] for each in products])
    check_numbers(model, 1)
    assert all_ops(model) == [OPS[scheme]] * 2
    for each in model.graph:
        assert [value.name for value in (each.inputs[0], each.inputs[3]) if value is not None] == ["x", "normed.w"]
        assert each.attributes["epsilon"].as_float() == np.float32(epsilon)


def test_a_product_takes_one_norm() -> None:
    x = rows()
    first = normed(x, "first")
    second = normed(first.outputs[0], "second")
    last = product(second.outputs[0], "p", N)
    model = quantized([x], [first, second, last], last.outputs)
    check_numbers(model, 1, left=1)
    assert all_ops(model) == ["LinearInt8", "RMSNormalization"]


@of_each_precision
def test_norms_in_branches_and_products_in_branches(scheme: str) -> None:
    weight, array = constant("w", RNG.standard_normal((N, K))), RNG.uniform(0.5, 2, K)

    def inside(emit: Emitter, x: ir.Value) -> ir.Value:
        norm = normed(x, weight=emit.constant(array, np.float32))
        emit.add(norm)
        last = product(norm.outputs[0], "p", N, weight, scheme=scheme)
        emit.add(last)
        return last.outputs[0]

    def outside(emit: Emitter, x: ir.Value) -> ir.Value:
        user = next(use.node for use in x.uses())
        norm = normed(x, weight=emit.constant(array, np.float32))
        assert user.graph is not None
        user.graph.insert_before(user, norm)
        last = product(norm.outputs[0], "p", N, weight, scheme=scheme)
        emit.add(last)
        return last.outputs[0]

    for fill in (inside, outside):
        model = branchy(K, N, fill)
        assert all_ops(model) == [OPS[scheme], "RMSNormalization"]
        check_numbers(model, 1)
        assert all_ops(model) == [OPS[scheme]]


@pytest.mark.parametrize("reader", ["another op", "the graph's caller", "a branch"])
def test_a_norm_that_something_else_reads_stays(reader: str) -> None:
    x = rows()
    norm = normed(x)
    last = product(norm.outputs[0], "p", N)
    nodes, outputs = [norm, last], [last.outputs[0]]
    if reader == "another op":
        nodes.append(node("Neg", norm.outputs, ("negated", [1, T, K])))
        outputs.append(nodes[-1].outputs[0])
    elif reader == "a branch":
        yes = constant("yes", True, np.bool_)
        branches = []
        for name in ("then", "else"):
            read = node("Neg", norm.outputs, (name, [1, T, K]))
            branches.append(ir.Graph([], read.outputs, nodes=[read], name=name))
        attributes: dict[str, Any] = dict(zip(("then_branch", "else_branch"), branches, strict=True))
        nodes.append(node("If", [yes], ("chosen", [1, T, K]), **attributes))
        outputs.append(nodes[-1].outputs[0])
    else:
        outputs.append(norm.outputs[0])
    model = quantized([x], nodes, outputs)
    assert apply(model, fuse_norm) == 0
    assert "RMSNormalization" in all_ops(model)


@pytest.mark.parametrize("kind", ["of columns", "of all", "computed", "one number", "in float64", "unknown rows"])
def test_a_norm_that_the_operator_does_not_compute_stays(kind: str) -> None:
    x, w = rows(), ir.val("w", FLOAT, [K])
    inputs, norm = [x], normed(x)
    if kind == "of columns":
        norm = normed(x, weight=constant("n", np.ones((5, K))), axis=1)
    elif kind == "of all":
        norm = normed(x, axis=0)
    elif kind == "computed":
        inputs, norm = [x, w], normed(x, weight=w)
    elif kind == "one number":
        norm = normed(x, weight=constant("n", np.ones(1)))
    elif kind == "in float64":
        norm = normed(x, stash_type=int(ir.DataType.DOUBLE))
    else:
        x.shape = ir.Shape([1, T, "K"])
    last = product(norm.outputs[0], "p", N)
    model = quantized(inputs, [norm, last], last.outputs)
    assert apply(model, fuse_norm) == 0
    assert all_ops(model) == ["LinearInt8", "RMSNormalization"]
