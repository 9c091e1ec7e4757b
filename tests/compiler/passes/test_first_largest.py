"""ArgMax as the first place of the maximum: ties, infinities, NaN, both forms of the axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.errors import PassError
from forerun_compiler.passes.first_largest import first_largest
from hand_graphs import FLOAT, INT, make_model, op_types, run

ROWS = np.array(
    [[1, 3, 3, 0], [-np.inf, -np.inf, -np.inf, -np.inf], [np.inf, 0, np.inf, 1], [-5, -4, -3, -3]], np.float32
)


def argmax(axis: int, keepdims: int, last: int = 0, columns: int | str = 4) -> ir.Model:
    x = ir.val("x", FLOAT, ["R", columns])
    shape = ["R", 1] if keepdims else ["R"]
    attributes = {"axis": axis, "keepdims": keepdims, "select_last_index": last}
    node = ir.node("ArgMax", [x], attributes, outputs=[ir.val("y", INT, shape)], name="argmax")
    return make_model([x], [node], node.outputs)


@pytest.mark.parametrize(("axis", "keepdims"), [(1, 0), (-1, 1)])
def test_the_first_of_equal_numbers(axis: int, keepdims: int) -> None:
    model = argmax(axis, keepdims)
    assert first_largest(model) == 1
    assert op_types(model) == ["Cast", "Equal", "ReduceMax", "ReduceMin", "Where"]
    found = run(model, {"x": ROWS})["y"]
    np.testing.assert_array_equal(found, ROWS.argmax(1).reshape(found.shape))


def test_nan_gives_a_place_of_the_row() -> None:
    model = argmax(1, 0)
    first_largest(model)
    assert run(model, {"x": np.full((1, 4), np.nan, np.float32)})["y"] == [3]


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (argmax(0, 0), r"'argmax': expected ArgMax over a last axis of known size, found axis 0 of \[R,4\]"),
        (argmax(1, 0, columns="N"), r"'argmax': expected ArgMax over a last axis of known size, found axis 1"),
        (argmax(1, 0, last=1), r"'argmax': expected ArgMax to take the first of equal numbers, found the last"),
    ],
)
def test_other_forms_are_refused(model: ir.Model, text: str) -> None:
    with pytest.raises(PassError, match=text):
        first_largest(model)
