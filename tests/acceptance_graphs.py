"""The acceptance subgraph as a graph of its own, on ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch

from forerun_compiler.passes.accept import Acceptance, emit_acceptance
from forerun_compiler.passes.emitter import Emitter
from hand_graphs import FLOAT, INT, session


def acceptance_session(k: int, v: int, m: int | None = None) -> ort.InferenceSession:
    """The acceptance of drafts of `k` tokens alone; with `m`, up to as many that may be looked up: a seventh input."""
    most = k if m is None else m
    shapes: list[tuple[str, ir.DataType, list[int | str]]] = [
        ("logits", FLOAT, ["R", v]),
        ("drafts", INT, [most + 1]),
        ("n_draft", INT, [1]),
        ("temperature", FLOAT, [1]),
        ("uniform", FLOAT, [most + 1]),
        ("draft_probs", FLOAT, [k, v]),
        *([("looked_up", INT, [1])] if m is not None else []),
    ]
    inputs = [ir.val(*shape) for shape in shapes]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 24}, name="acceptance")
    verdict = emit_acceptance(Emitter(graph, "accept."), Acceptance(*inputs))
    for value, name in ((verdict.n_accepted, "n_accepted"), (verdict.own, "own")):
        value.name, value.type, value.shape = name, ir.TensorType(INT), ir.Shape([1])
        graph.outputs.append(value)
    return session(ir.Model(graph, ir_version=10))


def softmax(logits: np.ndarray) -> np.ndarray:
    """softmax over the last axis, in float32."""
    return torch.from_numpy(logits).softmax(-1).numpy()
