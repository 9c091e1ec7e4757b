"""The number of leading trues, without ArgMin."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from forerun_compiler.passes.count_leading import count_leading
from hand_graphs import FLOAT, INT, make_model, op_types, run

BOOL = ir.DataType.BOOL


def leading() -> ir.Model:
    kept = ir.val("kept", BOOL, [4])
    cast = ir.node("Cast", [kept], {"to": int(ir.DataType.INT32)}, outputs=[ir.val("cast")], name="cast")
    least = ir.node("ArgMin", cast.outputs, {"axis": 0, "keepdims": 1}, outputs=[ir.val("n", INT, [1])], name="least")
    return make_model([kept], [cast, least], least.outputs)


def test_every_row_with_a_false_entry() -> None:
    model = leading()
    assert count_leading(model) == 1
    assert "ArgMin" not in op_types(model)
    for kept in itertools.product((False, True), repeat=3):
        row = np.array([*kept, False])
        assert run(model, {"kept": row})["n"] == [int(np.argmin(row))]


def test_other_argmins_are_left_alone() -> None:
    x = ir.val("x", FLOAT, [4])
    node = ir.node("ArgMin", [x], {"axis": 0}, outputs=[ir.val("n", INT, [1])], name="least")
    model = make_model([x], [node], node.outputs)
    assert count_leading(model) == 0
    assert op_types(model) == ["ArgMin"]
