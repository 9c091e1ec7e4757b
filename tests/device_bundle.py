"""A table bundle with an engine for GPUs beside its graphs for the CPU: the same tables behind a GPU's interface.

The graphs have caches of float16, which holds the ids exactly, and the outputs next_tokens and next_position. The
engine files are text: a stand-in for TensorRT reads them (`fake_tensorrt.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from table_bundle import TableBundle, interface, make_table_bundle, write_manifest

NAME = "engines/float16"
FOLDER = f"{NAME}/tensorrt-rtx-sm89"
LIBRARY = "1.7.1.116"
FP16_STATES = ("target.0.k", "target.0.v", "drafter.0.k", "drafter.0.v")


def make_device_bundle(folder: Path, *, capabilities: tuple[str, ...] = ("8.9",), cpu: bool = True) -> TableBundle:
    """Write the bundle; without `cpu` it is for GPUs alone."""
    bundle = make_table_bundle(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / FOLDER).mkdir(parents=True)
    graphs: dict[str, Any] = {}
    for name in ("round", "plain"):
        model = onnx.load(str(folder / f"{name}.onnx"), load_external_data=False)
        _give_feedback(model, name, bundle.draft_len)
        _make_half(model)
        (folder / NAME / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        (folder / FOLDER / f"{name}.engine").write_text(f"{name} of a table", encoding="utf-8")
        graphs[name] = interface(name, model) | {"file": f"{NAME}/{name}.onnx"}
    (folder / NAME / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    built = {"folder": FOLDER, "library": LIBRARY, "compute_capability": list(capabilities), "plans": {}}
    entry = {"backend": "tensorrt-rtx", "device": "cuda", "graphs": graphs, "built": [built]}
    write_manifest(folder, manifest["model"], manifest["graphs"] if cpu else {}, [entry, *manifest["engines"]])
    return bundle


def _give_feedback(model: onnx.ModelProto, name: str, draft_len: int) -> None:
    """What the next round reads: the own token and the draft, and where they stand."""
    graph = model.graph

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        graph.node.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def constant(value: list[int], output: str) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), output))
        return output

    flat = constant([-1], "feedback/flat")
    committed = node("Reshape", ["committed", flat], "feedback/committed")
    at = "n_accepted" if name == "round" else constant([0], "feedback/zero")
    own = node("Gather", [committed, at], "feedback/own")
    tokens = [own, node("Reshape", ["draft_tokens", flat], "feedback/draft")] if name == "round" else [own]
    joined = node("Concat", tokens, "feedback/tokens", axis=0)
    width = draft_len + 1 if name == "round" else 1
    node("Reshape", [joined, constant([1, width], "feedback/shape")], "next_tokens")
    advanced = node("Add", ["position", "n_known"], "feedback/advanced")
    node("Add", [advanced, at], "next_position")
    graph.output.append(helper.make_tensor_value_info("next_tokens", TensorProto.INT64, (1, width)))
    graph.output.append(helper.make_tensor_value_info("next_position", TensorProto.INT64, (1,)))


def _make_half(model: onnx.ModelProto) -> None:
    """Caches become float16 at the edge of the graph; within it they are as before."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        if value.name.removesuffix(".out") not in FP16_STATES:
            continue
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for name in FP16_STATES:
        for node in graph.node:
            node.input[:] = [f"{each}/float" if each in (name, f"{name}.out") else each for each in node.input]
            node.output[:] = [f"{each}/float" if each == f"{name}.out" else each for each in node.output]
        if any(value.name == name for value in graph.input):
            graph.node.insert(0, helper.make_node("Cast", [name], [f"{name}/float"], to=TensorProto.FLOAT))
            graph.node.append(helper.make_node("Cast", [f"{name}.out/float"], [f"{name}.out"], to=TensorProto.FLOAT16))
