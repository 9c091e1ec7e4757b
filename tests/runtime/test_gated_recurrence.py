"""The operator GatedRecurrence in ONNX Runtime: rows of any shape, the numbers, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import forerun

E = 37
TOLERANCE = 3e-7
"""Absolute, of numbers of at most 1."""
RNG = np.random.default_rng(0)


def build(z: Sequence[int], state: Sequence[int], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """One node for inputs of these ranks, its sizes known in each run only."""
    shapes = {"z": [f"z{i}" for i in range(len(z))], "state": [f"s{i}" for i in range(len(state))]}
    graph = helper.make_graph(
        [helper.make_node("GatedRecurrence", ["z", "state"], ["next", "out"], "step", domain="forerun.runtime")],
        "one",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("next", "out")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def open_session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(z: np.ndarray, state: np.ndarray) -> list[np.ndarray]:
    return open_session(build(z.shape, state.shape)).run(None, {"z": z, "state": state})  # type: ignore[return-value]


def numbers(*shape: int) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("rows", [(), (1,), (1, 1), (2, 9), (2, 1, 3, 1), (3, 0)])
@pytest.mark.parametrize("size", [1, 16, E])
def test_the_formula(rows: tuple[int, ...], size: int) -> None:
    z, state = 6 * numbers(*rows, 3 * size), numbers(*rows, size)
    keep, candidate, output = np.split(z.astype(np.float64), 3, -1)
    keep = 1 / (1 + np.exp(-keep))
    following, out = run(z, state)
    np.testing.assert_allclose(following, keep * state + (1 - keep) * np.tanh(candidate), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(out, np.tanh(output), rtol=0, atol=TOLERANCE)


def test_a_row_is_the_same_alone_and_in_any_company() -> None:
    z, state = 6 * numbers(1, 9, 3 * E), numbers(1, 9, E)
    together = run(z, state)
    for row in range(9):
        alone = run(z[:, row : row + 1], state[:, row : row + 1])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a[0, 0], b[0, row])


def test_no_numbers_give_none() -> None:
    assert [found.shape for found in run(numbers(2, 0), numbers(2, 0))] == [(2, 0), (2, 0)]


@pytest.mark.parametrize(
    ("z", "state"),
    [((2, 3 * E - 1), (2, E)), ((2, 3 * E), (1, E)), ((2, 3 * E), (E,)), ((3 * E,), (1, E)), ((), ()), ((3,), ())],
)
def test_other_shapes_are_refused(z: tuple[int, ...], state: tuple[int, ...]) -> None:
    message = r"GatedRecurrence step: expected z \[\.\.\., 3E\] and state \[\.\.\., E\]; found "
    with pytest.raises(Exception, match=message) as failure:
        run(numbers(*z), numbers(*state))
    assert f"found {list(z)} and {list(state)}." in str(failure.value)


def test_other_types_are_refused() -> None:
    with pytest.raises(Exception, match=r"Type 'tensor\(double\)' of input parameter"):
        open_session(build((1, 3), (1, 1), TensorProto.DOUBLE))
