"""Sessions as the C core opens them: weights beside the file, our own operators, and refusals by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from forerun_compiler.errors import EngineError
from forerun_compiler.ort_session import open_session


def write_graph(folder: Path) -> Path:
    """y = x + w, with w [4] in a file of its own."""
    (folder / "weights.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "sum.onnx").write_bytes(model.SerializeToString())
    return folder / "sum.onnx"


def test_a_file_and_its_bytes_find_the_same_weights(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_graph(tmp_path)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for graph in (None, file.read_bytes()):
        (found,) = open_session(file, 1, graph).run(None, {"x": np.ones(4, np.float32)})
        np.testing.assert_array_equal(found, [1, 2, 3, 4])


def test_our_own_operators_are_there(tmp_path: Path) -> None:
    """A wrong use of one is refused for its arguments, an operator that nobody has for its name."""
    file = write_graph(tmp_path)
    model = onnx.load(file, load_external_data=False)
    model.opset_import.add(domain="forerun.runtime", version=1)
    model.graph.node[0].domain = "forerun.runtime"
    messages = []
    for operator in ("LinearInt8", "Nobody"):
        model.graph.node[0].op_type = operator
        with pytest.raises(EngineError, match=r"sum\.onnx: ONNX Runtime refuses the graph") as caught:
            open_session(file, 1, model.SerializeToString())
        messages.append(str(caught.value))
    assert "is not a registered function/op" not in messages[0]
    assert "is not a registered function/op" in messages[1]


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="needs onnxruntime, which is not installed; pip install onnxruntime"):
        open_session(tmp_path / "sum.onnx", 1)
