"""Graphs written by hand for tests of passes, and how to run them on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

import forerun
from forerun_compiler.dialect import DOMAIN, OPSET
from forerun_compiler.graph import check_graph

FLOAT, INT = ir.DataType.FLOAT, ir.DataType.INT64
Array = npt.NDArray[np.generic]


def make_model(inputs: Sequence[ir.Value], nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> ir.Model:
    """A model in the dialect; initializers are found through the nodes."""
    imports = {"": OPSET, DOMAIN: 1} | {node.domain: 1 for node in nodes if node.domain}
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports=imports, name="hand")
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.name not in graph.initializers:
                graph.register_initializer(value)
    model = ir.Model(graph, ir_version=10)
    check_graph(model, "hand graph")
    return model


def constant(name: str, array: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> ir.Value:
    """An initializer."""
    return ir.val(name, const_value=ir.tensor(np.asarray(array, dtype), name=name))


def node(
    op: str,
    inputs: Sequence[ir.Value | None],
    *outputs: tuple[str, Sequence[int | str]],
    domain: str = "",
    **attributes: object,
) -> ir.Node:
    """A node whose outputs are float32 values of the given names and shapes."""
    values = [ir.val(name, FLOAT, shape) for name, shape in outputs]
    return ir.node(op, inputs, attributes, domain=domain, outputs=values, name=f"{outputs[0][0]}.node")  # type: ignore[arg-type]


def session(model: ir.Model) -> ort.InferenceSession:
    """The checked model on one thread."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Run once with outputs of the library's own."""
    opened = session(model)
    return dict(zip([o.name for o in opened.get_outputs()], opened.run(None, dict(feeds)), strict=True))


def op_types(model: ir.Model) -> list[str]:
    """The ops of the main graph, sorted."""
    return sorted(each.op_type for each in model.graph)
