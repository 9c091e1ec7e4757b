"""Draws in two levels: the token whose share of the running sum holds the uniform number, at any size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.graph import remove_unused
from forerun_compiler.passes.accept import emit_inverse_cdf
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.two_level_draws import BLOCK, LEAST_VOCABULARY, two_level_draws
from hand_graphs import FLOAT, INT, op_types, session

TOLERANCE = 3e-6
"""Of the total: a few thousand sums in float32."""


def draw(size: int) -> ir.Model:
    weights, uniform = ir.val("weights", FLOAT, [1, size]), ir.val("uniform", FLOAT, [1])
    graph = ir.Graph([weights, uniform], [], nodes=[], opset_imports={"": 24}, name="draw")
    token = emit_inverse_cdf(Emitter(graph, "hand."), weights, uniform)
    token.name, token.type, token.shape = "token", ir.TensorType(INT), ir.Shape([1])
    graph.outputs.append(token)
    return ir.Model(graph, ir_version=10)


def spread(rng: np.random.Generator, size: int) -> np.ndarray:
    """Weights over many orders of magnitude, most of them 0, whole blocks and both ends among them."""
    weights = np.exp(rng.normal(0, 4, size)) * (rng.random(size) < 0.3)
    weights[:BLOCK] = weights[-BLOCK - 7 :] = weights[3 * BLOCK : 5 * BLOCK] = 0
    return weights.astype(np.float32)[None]


@pytest.mark.parametrize("size", [LEAST_VOCABULARY, 40 * BLOCK + 129])
def test_the_token_holds_the_uniform_number(size: int) -> None:
    model, rng = draw(size), np.random.default_rng(0)
    assert two_level_draws(model) == 1
    remove_unused(model)
    assert op_types(model).count("CumSum") == 2
    opened = session(model)
    numbers = [0.0, float(np.nextafter(np.float32(1), np.float32(0))), *rng.random(200)]
    for number in numbers:
        weights = spread(rng, size)
        (token,) = opened.run(None, {"weights": weights, "uniform": np.array([number], np.float32)})[0]
        running = np.cumsum(weights[0], dtype=np.float64)
        assert weights[0, token] > 0
        target, slack = np.float32(number) * running[-1], TOLERANCE * running[-1]
        assert running[token] - weights[0, token] - slack <= target <= running[token] + slack


def test_the_law_is_that_of_the_weights() -> None:
    """Every uniform number of a fine grid, so that each token is met as often as its weight says."""
    size, grid = LEAST_VOCABULARY, 4096
    weights = np.zeros((1, size), np.float32)
    places = np.random.default_rng(2).choice(size, 64, replace=False)
    weights[0, places] = 1 / 64
    model = draw(size)
    two_level_draws(model)
    opened = session(model)
    numbers = (np.arange(grid, dtype=np.float32) + 0.5) / grid
    tokens = [int(opened.run(None, {"weights": weights, "uniform": number[None]})[0][0]) for number in numbers]
    found = np.bincount(tokens, minlength=size)[places]
    np.testing.assert_array_equal(found, np.full(64, grid // 64))


def test_small_vocabularies_keep_one_running_sum() -> None:
    model = draw(LEAST_VOCABULARY - 1)
    assert two_level_draws(model) == 0
    assert op_types(model).count("CumSum") == 1
