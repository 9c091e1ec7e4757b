"""Each architecture's traced graph against the original model: prefill, decoding in chunks, rollback, taps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from forerun_compiler import dialect, graph, target
from forerun_compiler.errors import CheckpointError, TraceError

CACHE = 48
PREFILL, CHUNKS = 21, (1, 3, 8)
TAPS = (2, 0)

MAX_ERROR = {
    "llama": 2e-5,
    "qwen2": 2e-5,
    "qwen3": 2e-5,
    "mistral": 2e-5,
    "gemma2": 2e-5,
    "gemma3_text": 2e-5,
    "phi3": 2e-5,
    "smollm3": 2e-5,
    "olmo2": 2e-5,
    "granite": 2e-5,
    "gpt_neox": 2e-5,
    "qwen3_moe": 2e-5,
}
"""Model type -> largest absolute difference of logits and taps from the original in float32 (logits reach about 10)."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("targets")
    cache: dict[str, target.Target] = {}

    def load(architecture: str, **overrides: object) -> target.Target:
        key = f"{architecture}{sorted(overrides.items())}"
        if key not in cache:
            path = tiny_models.save_target(folder / str(len(cache)), architecture, **overrides)
            cache[key] = target.load_target(path)
        return cache[key]

    return load


class Session:
    """A traced target that is run as the runtime runs it: a position, and caches that go in and come out."""

    def __init__(self, model) -> None:
        self.run = dialect.Evaluator(model)
        self.caches = {
            value.name: np.full(value.shape.numpy(), 7.0, np.float32)  # what rows hold before they are written is junk
            for value in model.graph.inputs
            if value.name.startswith("target.")
        }

    def step(self, tokens: list[int], position: int) -> tuple[np.ndarray, np.ndarray | None]:
        rows = np.arange(len(tokens))
        feeds = {"tokens": np.array([tokens]), "position": np.array([position]), "logit_rows": rows}
        found = self.run({**feeds, **self.caches})
        self.caches = {name: found[f"{name}.out"] for name in self.caches}
        return found["logits"][0], found["taps"][0] if "taps" in found else None


def original(model, tokens: list[int], taps: tuple[int, ...] = TAPS) -> tuple[np.ndarray, np.ndarray]:
    """The model of transformers with its plain attention: logits [N,V] and layer outputs [N,A*E] of a whole text."""
    outputs: dict[int, torch.Tensor] = {}
    layers = (model.gpt_neox if hasattr(model, "gpt_neox") else model.model).layers
    hooks = [
        layers[tap].register_forward_hook(
            lambda _m, _a, out, tap=tap: outputs.update({tap: out[0] if isinstance(out, tuple) else out})
        )
        for tap in taps
    ]
    model.set_attn_implementation("eager")
    with torch.no_grad():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return logits.numpy(), torch.cat([outputs[tap][0] for tap in taps], -1).numpy()


def text(length: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny_models.VOCAB, length).tolist()


@pytest.mark.parametrize("architecture", sorted(MAX_ERROR))
def test_graph_equals_original(architecture: str, loaded) -> None:
    loaded_target = loaded(architecture)
    session = Session(target.trace_target(loaded_target, TAPS, CACHE))
    tokens = text(PREFILL + sum(CHUNKS), 1)
    position, errors = 0, []
    logits, taps = original(loaded_target.model, tokens)
    for chunk in (PREFILL, *CHUNKS):
        rows = slice(position, position + chunk)
        found_logits, found_taps = session.step(tokens[rows], position)
        errors += [abs(found_logits - logits[rows]).max(), abs(found_taps - taps[rows]).max()]
        position += chunk
    # Rollback: the last 6 tokens are rejected; other tokens take their rows, and nothing of the old ones is seen.
    position -= 6
    other = [*tokens[:position], *text(4, 2)]
    logits, taps = original(loaded_target.model, other)
    found_logits, found_taps = session.step(other[position:], position)
    errors += [abs(found_logits - logits[position:]).max(), abs(found_taps - taps[position:]).max()]
    assert max(errors) <= MAX_ERROR[architecture]
    assert abs(logits).max() > 1.0, "logits are too small for the error to mean anything"
