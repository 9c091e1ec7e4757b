"""ONNX Runtime GenAI: its generator for decoding, its model in plain ONNX Runtime for logits."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxruntime_genai
from protocol import Generated, Weights, serve

_NGRAM, _LOOKED_UP = 3, 4
"""Of prompt lookup: the n-gram of the other peers' samples, and the library's own number of draft tokens."""


class Generator:
    """A model folder of the library, whose configuration may name a draft model."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._model = onnxruntime_genai.Model(options["model"])

    def versions(self) -> dict[str, str]:
        return _versions()

    def weights(self) -> Weights:
        return _weights(self._options)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        start = time.perf_counter()
        params = onnxruntime_genai.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=len(prompt) + new_tokens)
        if way == "prompt lookup":
            params.set_speculative_options(ngram_size=_NGRAM, max_draft_tokens=_LOOKED_UP)
        elif self._options["draft"]:
            params.set_speculative_options(max_draft_tokens=self._options["draft"]["tokens"])
        generator = onnxruntime_genai.Generator(self._model, params)
        generator.append_tokens(np.array([prompt], np.int32))
        generator.generate_next_token()
        first, before = time.perf_counter() - start, {} if way == "plain" else generator.get_speculative_stats()
        while not generator.is_done():
            generator.generate_next_token()
        tokens = generator.get_sequence(0)[len(prompt) :].tolist()
        seconds = time.perf_counter() - start
        if way == "plain":
            return Generated(tokens, seconds, first, 1, len(tokens) - 1, 0)
        counted = generator.get_speculative_stats()
        later = (counted[name] - before[name] for name in ("rounds", "draft_forward_passes"))
        # The first call runs a round too and keeps its other tokens, which cost nothing later.
        return Generated(tokens, seconds, first, 1 + before["tokens_buffered"], *later)

    def logits(self, text: Sequence[int]) -> Any:
        raise ValueError("opened for decoding")


class Graph:
    """model.onnx, run without a past."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        wishes = onnxruntime.SessionOptions()
        wishes.intra_op_num_threads = options["threads"]
        config = json.loads((Path(options["model"]) / "genai_config.json").read_text(encoding="utf-8"))
        self._width = config["model"]["decoder"]["head_size"]
        self._session = onnxruntime.InferenceSession(str(Path(options["model"]) / "model.onnx"), wishes)

    def versions(self) -> dict[str, str]:
        return _versions()

    def weights(self) -> Weights:
        return _weights(self._options)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        raise ValueError("opened for logits")

    def logits(self, text: Sequence[int]) -> Any:
        length, feeds = len(text), {}
        for value in self._session.get_inputs():
            if value.name == "input_ids":
                feeds[value.name] = np.array([text], np.int64)
            elif value.name == "attention_mask":
                feeds[value.name] = np.ones((1, length), np.int64)
            elif value.name == "position_ids":
                feeds[value.name] = np.arange(length, dtype=np.int64)[None]
            else:
                feeds[value.name] = np.zeros((1, value.shape[1], 0, self._width), np.float32)
        return self._session.run(["logits"], feeds)[0][0]


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")}


def _weights(options: dict[str, Any]) -> Weights:
    model = Path(options["model"])
    stored, numbers = _count(model / "model.onnx")
    return Weights(stored, numbers, _count(model / options["draft"]["model"])[0] if options["draft"] else 0)


def _count(path: Path) -> tuple[int, int]:
    """(bytes, number) of the initializers that matrix products read."""
    graph = onnx.load(path, load_external_data=False).graph
    sizes = {tensor.name: tensor for tensor in graph.initializer}
    stored = numbers = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "MatMulNBits", "Gemm"):
            held = [sizes[name] for name in node.input[1:] if name in sizes]
            stored += sum(_bytes(tensor) for tensor in held)
            shape = {item.name: item.i for item in node.attribute}
            numbers += (
                shape["K"] * shape["N"] if node.op_type == "MatMulNBits" else sum(math.prod(t.dims) for t in held)
            )
    return stored, numbers


def _bytes(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def open_model(options: dict[str, Any]) -> Generator | Graph:
    return Graph(options) if options["for_logits"] else Generator(options)


if __name__ == "__main__":
    serve(open_model)
