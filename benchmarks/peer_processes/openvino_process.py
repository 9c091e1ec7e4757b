"""OpenVINO: a GenAI pipeline for decoding, the plain runtime for logits; defaults of the CPU plugin but for threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from protocol import Generated, Weights, serve

_NGRAM, _LOOKED_UP = 3, 5
"""Of the documentation's sample of prompt lookup."""


class _Clock(openvino_genai.StreamerBase):
    """When the first tokens came, how many they were, and how often tokens came after them."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.first, self.first_tokens, self.later = time.perf_counter(), 0.0, 0, 0

    def write(self, token: int | Sequence[int]) -> openvino_genai.StreamingStatus:
        if not self.first:
            self.first = time.perf_counter() - self.start
            self.first_tokens = 1 if isinstance(token, int) else len(token)
        else:
            self.later += 1
        return openvino_genai.StreamingStatus.RUNNING

    def end(self) -> None:
        pass


class Pipeline:
    """LLMPipeline as a user opens it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        wishes: dict[str, Any] = {"INFERENCE_NUM_THREADS": options["threads"]}
        if options["draft"]:
            wishes["draft_model"] = openvino_genai.draft_model(
                options["draft"]["model"], "CPU", INFERENCE_NUM_THREADS=options["threads"]
            )
        elif options["is_lookup"]:
            wishes["prompt_lookup"] = True
        self._pipeline = openvino_genai.LLMPipeline(options["model"], "CPU", **wishes)

    def versions(self) -> dict[str, str]:
        return _versions()

    def weights(self) -> Weights:
        return _weights(self._options)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.do_sample, config.eos_token_id = new_tokens, False, self._options["eos"]
        config.stop_token_ids = {self._options["eos"]}
        if self._options["draft"]:
            config.num_assistant_tokens = self._options["draft"]["tokens"]
        elif self._options["is_lookup"]:
            config.num_assistant_tokens, config.max_ngram_size = _LOOKED_UP, _NGRAM
        clock = _Clock()
        found = self._pipeline.generate(openvino.Tensor(np.array([prompt], np.int64)), config, clock)
        seconds = time.perf_counter() - clock.start
        passes = _draft_passes(found) if self._options["draft"] else 0
        return Generated(list(found.tokens[0]), seconds, clock.first, clock.first_tokens, clock.later, passes)

    def logits(self, text: Sequence[int]) -> Any:
        raise ValueError("opened for decoding")


class Model:
    """The exported model in the plain runtime."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        core, path = openvino.Core(), Path(options["model"]) / "openvino_model.xml"
        self._request = core.compile_model(
            path, "CPU", {"INFERENCE_NUM_THREADS": options["threads"]}
        ).create_infer_request()
        self._inputs = {name for port in core.read_model(path).inputs for name in port.names}

    def versions(self) -> dict[str, str]:
        return _versions()

    def weights(self) -> Weights:
        return _weights(self._options)

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        raise ValueError("opened for logits")

    def logits(self, text: Sequence[int]) -> Any:
        length = len(text)
        feeds = {
            "input_ids": np.array([text], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.reset_state()
        found = self._request.infer({name: value for name, value in feeds.items() if name in self._inputs})
        return np.array(found["logits"][0])


def _draft_passes(found: Any) -> int:
    return int(found.extended_perf_metrics.get_num_draft_processed_tokens())


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("openvino", "openvino-genai", "optimum-intel", "nncf")}


def _weights(options: dict[str, Any]) -> Weights:
    one, number = _count(Path(options["model"]))
    return Weights(one, number, _count(Path(options["draft"]["model"]))[0] if options["draft"] else 0)


def _count(folder: Path) -> tuple[int, int]:
    """(bytes, number) of constants that matrix products read, with the scales and zero points on their way."""
    stored = numbers = 0
    for node in openvino.Core().read_model(folder / "openvino_model.xml").get_ordered_ops():
        if node.get_type_name() == "MatMul":
            constants = list(_constants(node.input_value(1).get_node()))
            stored += sum(constant.get_byte_size() for constant in constants)
            numbers += max((int(np.prod(constant.get_output_shape(0))) for constant in constants), default=0)
    return stored, numbers


def _constants(node: Any) -> Any:
    if node.get_type_name() == "Constant":
        yield node
    elif node.get_type_name() in ("Convert", "Multiply", "Subtract", "Reshape"):
        for value in node.input_values():
            yield from _constants(value.get_node())


def open_model(options: dict[str, Any]) -> Pipeline | Model:
    return Model(options) if options["for_logits"] else Pipeline(options)


if __name__ == "__main__":
    serve(open_model)
