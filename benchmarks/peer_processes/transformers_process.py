"""Hugging Face transformers: generate, assisted by a small model, by prompt lookup, or compiled with a static cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from protocol import Generated, Weights, serve
from transformers import AutoModelForCausalLM, CompileConfig, StaticCache
from transformers.generation.streamers import BaseStreamer

_LOOKUP_TOKENS = 10
"""Of prompt lookup: what the documentation's example takes."""


class _Clock(BaseStreamer):
    """When the first tokens came, and how many; and how many times tokens came after them."""

    def __init__(self) -> None:
        self.start, self.first, self.first_tokens, self.later = time.perf_counter(), 0.0, 0, 0
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
        elif not self.first:
            self.first, self.first_tokens = time.perf_counter() - self.start, value.numel()
        else:
            self.later += 1

    def end(self) -> None:
        pass


class Checkpoint:
    """A checkpoint in one type; `drafts` are small models and their tokens a round, by the way that uses them."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        torch.set_grad_enabled(False)
        self._model = _load(options["model"], options["dtype"])
        self._drafts = {way: _load_draft(draft, options["dtype"]) for way, draft in options["drafts"].items()}
        self._cache = None
        if options["compile"]:
            self._cache = StaticCache(config=self._model.config, max_cache_len=options["capacity"])

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("transformers", "torch")}

    def weights(self) -> Weights:
        number, item = _linear(self._model), self._model.dtype.itemsize
        return Weights(number * item, number, item * max(map(_linear, self._drafts.values()), default=0))

    def generate(self, way: str, prompt: Sequence[int], new_tokens: int) -> Generated:
        ids = torch.tensor([list(prompt)])
        extra: dict[str, Any] = {}
        if way in self._drafts:
            extra = {"assistant_model": self._drafts[way]}
        elif way == "prompt lookup":
            extra = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS}
        elif way == "compiled":
            extra = {"past_key_values": self._empty_cache(), "compile_config": _compile_everywhere()}
        clock = _Clock()
        found = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=clock,
            **extra,
        )
        seconds = time.perf_counter() - clock.start
        tokens, passes = found[0, len(prompt) :].tolist(), None if way in self._drafts else 0
        return Generated(tokens, seconds, clock.first, clock.first_tokens, clock.later, passes)

    def _empty_cache(self) -> StaticCache:
        """One cache for all prompts: another length would be another compilation."""
        assert self._cache is not None, "opened without compile"
        self._cache.reset()
        return self._cache

    def logits(self, text: Sequence[int]) -> Any:
        return self._model(torch.tensor([list(text)])).logits[0].float().numpy()


def _compile_everywhere() -> CompileConfig:
    """By itself `generate` compiles on accelerators only."""
    config = CompileConfig(mode="default", fullgraph=True, dynamic=False)
    config._compile_all_devices = True
    return config


def _load(folder: str, dtype: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


def _load_draft(draft: dict[str, Any], dtype: str) -> Any:
    model = _load(draft["model"], dtype)
    model.generation_config.num_assistant_tokens = draft["tokens"]
    return model


def _linear(model: Any) -> int:
    """Weights of linear layers, a tied LM head included."""
    return sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear))


if __name__ == "__main__":
    serve(Checkpoint)
