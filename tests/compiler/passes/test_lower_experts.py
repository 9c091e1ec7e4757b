"""Experts against the dialect's reference, and the independence of a token from the others' choices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.passes.lower_experts import lower_experts
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types, run

E, INNER, X, K = 8, 12, 5, 2
TOLERANCE = 5e-6
RNG = np.random.default_rng(0)


def experts_model(activation: str, *, computed: bool = False) -> ir.Model:
    inputs = [ir.val("hidden", FLOAT, ["N", E]), ir.val("index", INT, ["N", K]), ir.val("weight", FLOAT, ["N", K])]
    gate_up: ir.Value = constant("gate_up", RNG.standard_normal((X, 2 * INNER, E)))
    nodes = [node("Neg", [gate_up], ("negated", [X, 2 * INNER, E]))] if computed else []
    weights = [nodes[0].outputs[0] if computed else gate_up, constant("down", RNG.standard_normal((X, E, INNER)))]
    nodes.append(node("Experts", [*inputs, *weights], ("out", ["N", E]), domain=dialect.DOMAIN, activation=activation))
    return make_model(inputs, nodes, nodes[-1].outputs)


def feeds(tokens: int) -> dict[str, np.ndarray]:
    chosen = np.stack([RNG.permutation(X)[:K] for _ in range(tokens)])
    return {
        "hidden": RNG.standard_normal((tokens, E), np.float32),
        "index": chosen,
        "weight": RNG.random((tokens, K), np.float32),
    }


@pytest.mark.parametrize("activation", list(dialect.ACTIVATIONS))
def test_experts_equal_the_reference(activation: str) -> None:
    model = experts_model(activation)
    expected = dialect.Evaluator(model)
    assert lower_experts(model) == 1
    assert "Experts" not in op_types(model)
    for tokens in (1, 3, 8):
        given = feeds(tokens)
        np.testing.assert_allclose(run(model, given)["out"], expected(given)["out"], rtol=TOLERANCE, atol=TOLERANCE)


def test_a_token_does_not_depend_on_what_others_choose() -> None:
    model = experts_model("silu")
    lower_experts(model)
    one, other = feeds(4), feeds(4)
    for name in one:
        other[name][:2] = one[name][:2]
    np.testing.assert_array_equal(run(model, one)["out"][:2], run(model, other)["out"][:2])


def test_computed_weights_are_refused() -> None:
    with pytest.raises(PassError, match="expected constant expert weights, found computed ones"):
        lower_experts(experts_model("relu", computed=True))
