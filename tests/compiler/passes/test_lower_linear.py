"""Products with transposed weights: stored transposed, or read as an embedding stores them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.passes.lower_linear import lower_linear
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, run

TOLERANCE = 1e-6
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 4), np.float32)


def linear(x: ir.Value, weight: ir.Value, name: str, rows: str = "T") -> list[ir.Node]:
    assert weight.const_value is not None
    width, depth = weight.const_value.shape.numpy()  # type: ignore[attr-defined]
    turn = node("Transpose", [weight], (f"{name}.T", [depth, width]), perm=[1, 0])
    return [turn, node("MatMul", [x, turn.outputs[0]], (name, [1, rows, width]))]


def test_a_weight_of_products_alone_is_stored_transposed() -> None:
    x, weight = ir.val("x", FLOAT, [1, "T", 4]), constant("w", WEIGHT)
    nodes = [*linear(x, weight, "a"), *linear(x, weight, "b")]
    model = make_model([x], nodes, [nodes[1].outputs[0], nodes[3].outputs[0]])
    assert lower_linear(model) == 2
    assert op_types(model) == ["MatMul", "MatMul"]
    assert list(model.graph.initializers) == ["w.T"]
    given = RNG.standard_normal((1, 3, 4), np.float32)
    for out in run(model, {"x": given}).values():
        np.testing.assert_allclose(out, given @ WEIGHT.T, rtol=0, atol=TOLERANCE)


def test_a_tied_head_reads_the_embedding_as_it_is() -> None:
    ids, weight = ir.val("ids", INT, [1, "T"]), constant("w", WEIGHT)
    look = node("Gather", [weight, ids], ("x", [1, "T", 4]))
    nodes = [look, *linear(look.outputs[0], weight, "logits")]
    model = make_model([ids], nodes, [nodes[-1].outputs[0]])
    assert lower_linear(model) == 1
    assert "Transpose" not in op_types(model)
    assert op_types(model).count("Gemm") == 1
    assert list(value.name for value in model.graph.initializers.values() if value.dtype == FLOAT) == ["w"]
    out = run(model, {"ids": np.array([[1, 5, 2]])})["logits"]
    np.testing.assert_allclose(out, WEIGHT[[1, 5, 2]][None] @ WEIGHT.T, rtol=0, atol=TOLERANCE)


def test_another_use_of_a_tied_transpose_is_refused() -> None:
    ids, weight = ir.val("ids", INT, [1, "T"]), constant("w", WEIGHT)
    look = node("Gather", [weight, ids], ("x", [1, "T", 4]))
    turn = node("Transpose", [weight], ("w.T", [4, 6]), perm=[1, 0])
    model = make_model(
        [ids], [look, turn, node("Neg", turn.outputs, ("n", [4, 6]))], [look.outputs[0], turn.outputs[0]]
    )
    with pytest.raises(PassError, match="no plain product: cannot be lowered"):
        lower_linear(model)
