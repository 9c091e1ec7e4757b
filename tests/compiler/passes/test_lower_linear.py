"""Linear layers in float32: weights stored transposed, or read as an embedding stores them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.passes.lower_linear import lower_linear, lower_linear_as_stored
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, run

TOLERANCE = 1e-6
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 4), np.float32)


def linear(x: ir.Value, weight: ir.Value, name: str, rows: str = "T") -> ir.Node:
    assert weight.const_value is not None
    width, _ = weight.const_value.shape.numpy()  # type: ignore[attr-defined]
    attributes = dialect.Linear(f"target.{name}").attributes()
    return node("Linear", [x, weight], (name, [1, rows, width]), domain=dialect.DOMAIN, **attributes)


def test_a_weight_of_products_alone_is_stored_transposed() -> None:
    x, weight = ir.val("x", FLOAT, [1, "T", 4]), constant("w", WEIGHT)
    nodes = [linear(x, weight, "a"), linear(x, weight, "b")]
    model = make_model([x], nodes, [each.outputs[0] for each in nodes])
    assert lower_linear(model) == 2
    assert op_types(model) == ["MatMul", "MatMul"]
    assert list(model.graph.initializers) == ["w.T"]
    given = RNG.standard_normal((1, 3, 4), np.float32)
    for out in run(model, {"x": given}).values():
        np.testing.assert_allclose(out, given @ WEIGHT.T, rtol=0, atol=TOLERANCE)


def test_a_tied_head_reads_the_embedding_as_it_is() -> None:
    ids, weight = ir.val("ids", INT, [1, "T"]), constant("w", WEIGHT)
    look = node("Gather", [weight, ids], ("x", [1, "T", 4]))
    head = linear(look.outputs[0], weight, "logits")
    model = make_model([ids], [look, head], head.outputs)
    assert lower_linear(model) == 1
    assert op_types(model).count("Gemm") == 1
    assert list(value.name for value in model.graph.initializers.values() if value.dtype == FLOAT) == ["w"]
    out = run(model, {"ids": np.array([[1, 5, 2]])})["logits"]
    np.testing.assert_allclose(out, WEIGHT[[1, 5, 2]][None] @ WEIGHT.T, rtol=0, atol=TOLERANCE)


def test_every_weight_can_stay_as_it_is_stored() -> None:
    x, weight = ir.val("x", FLOAT, [1, "T", 4]), constant("w", WEIGHT)
    nodes = [linear(x, weight, "a"), linear(x, weight, "b")]
    model = make_model([x], nodes, [each.outputs[0] for each in nodes])
    assert lower_linear_as_stored(model) == 2
    assert op_types(model).count("Gemm") == 2
    assert [str(value.name) for value in model.graph.initializers.values() if value.dtype == FLOAT] == ["w"]
    given = RNG.standard_normal((1, 3, 4), np.float32)
    for out in run(model, {"x": given}).values():
        np.testing.assert_allclose(out, given @ WEIGHT.T, rtol=0, atol=TOLERANCE)


def test_other_schemes_are_left_alone() -> None:
    x, weight = ir.val("x", FLOAT, [1, "T", 4]), constant("w", WEIGHT)
    attributes = dialect.Linear("target.a", "int8").attributes()
    other = node("Linear", [x, weight], ("a", [1, "T", 6]), domain=dialect.DOMAIN, **attributes)
    model = make_model([x], [other], other.outputs)
    assert lower_linear(model) == 0
    assert op_types(model) == ["Linear"]


def test_a_tied_weight_wants_rows() -> None:
    ids, weight = ir.val("ids", INT, [1, 1, "T"]), constant("w", WEIGHT)
    look = node("Gather", [weight, ids], ("x", [1, 1, "T", 4]))
    head = linear(look.outputs[0], weight, "logits")
    model = make_model([ids], [look, head], head.outputs)
    with pytest.raises(PassError, match="expected an input of rank 2 or 3 for a weight"):
        lower_linear(model)
