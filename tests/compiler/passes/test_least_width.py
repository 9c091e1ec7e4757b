"""The smaller of a run's width and the decoding width is known."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.least_width import least_width
from hand_graphs import INT, op_types


def bounded(bound: int) -> ir.Model:
    tokens = ir.val("tokens", INT, [1, "T"])
    graph = ir.Graph([tokens], [], nodes=[], opset_imports={"": 24}, name="bounded")
    emit = Emitter(graph, "")
    width = emit("Shape", tokens, start=1, end=2)
    for name in ("rows", "again"):
        out = emit("Identity", emit("Min", width, emit.constant([bound])))
        out.name, out.type, out.shape = name, ir.TensorType(INT), ir.Shape([1])
        graph.outputs.append(out)
    return ir.Model(graph, ir_version=10)


def test_the_bound_is_known_at_the_least_width() -> None:
    model = bounded(8)
    assert least_width(model, 8) == 2
    makers = [value.producer() for value in model.graph.outputs]
    assert all(made is not None and made.inputs[0] is not None and made.inputs[0].const_value for made in makers)


@pytest.mark.parametrize("width", [1, 7])
def test_a_larger_bound_stays_computed(width: int) -> None:
    model = bounded(8)
    assert least_width(model, width) == 0
    assert op_types(model).count("Min") == 2
