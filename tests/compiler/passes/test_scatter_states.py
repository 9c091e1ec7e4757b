"""A state that is computed anew goes through TensorScatter, and is read as it was before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.passes.scatter_states import scatter_states
from hand_graphs import FLOAT, INT, make_model, node, op_types, run


def doubling(shape: list[int]) -> ir.Model:
    """The state is doubled, and its old sum is an output; a cache is written by TensorScatter already."""
    state, cache, rows = ir.val("s", FLOAT, shape), ir.val("c", FLOAT, [1, 1, 4, 2]), ir.val("r", FLOAT, [1, 1, 1, 2])
    position = ir.val("position", INT, [1])
    nodes = [
        node("Add", [state, state], ("s.out", shape)),
        node("ReduceSum", [state], ("sum", []), keepdims=0),
        node("TensorScatter", [cache, rows, position], ("c.out", [1, 1, 4, 2]), axis=2),
    ]
    return make_model([state, cache, rows, position], nodes, [each.outputs[0] for each in nodes])


def test_it_is_written_by_a_scatter_and_read_as_before() -> None:
    model = doubling([1, 3, 5])
    assert scatter_states(model) == 1
    assert op_types(model) == ["Add", "ReduceSum", "Squeeze", "TensorScatter", "TensorScatter", "Unsqueeze"]
    assert [str(value.name) for value in model.graph.outputs] == ["s.out", "sum", "c.out"]
    assert list(model.graph.inputs[0].shape) == list(model.graph.outputs[0].shape) == [1, 1, 3, 5]  # type: ignore[arg-type]
    old = np.random.default_rng(0).standard_normal((1, 1, 3, 5)).astype(np.float32)
    others = {"c": np.zeros((1, 1, 4, 2), np.float32), "r": np.ones((1, 1, 1, 2), np.float32)}
    out = run(model, {"s": old, "position": np.array([1])} | others)
    np.testing.assert_array_equal(out["s.out"], old + old)
    np.testing.assert_allclose(out["sum"], old.sum(), rtol=0, atol=1e-5)


def test_a_second_run_finds_nothing() -> None:
    model = doubling([1, 3, 5])
    scatter_states(model)
    assert scatter_states(model) == 0


def test_states_of_other_rank_are_refused() -> None:
    with pytest.raises(PassError, match=r"state 's': expected three dimensions, found the shape \[3,5\]"):
        scatter_states(doubling([3, 5]))
