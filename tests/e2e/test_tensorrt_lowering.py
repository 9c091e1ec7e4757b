"""Whole generations: the graph that TensorRT gets, on the CPU, against the bundle of the same pair in the C runtime."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import forerun
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.pipeline import link_recipe, lower_linked
from forerun_compiler.recipe import load_recipe
from forerun_compiler.schemes import TENSORRT_RTX
from hand_graphs import session
from tiny_pairs import PREFILL_CHUNK, PROMPTS, BuiltPair

TOKENS = 96


@pytest.fixture(scope="module")
def graph(pair: BuiltPair) -> ort.InferenceSession:
    recipe = load_recipe(pair.bundle.parent / "tiny.yaml")
    target = EngineTarget(TENSORRT_RTX, compute_capability=("8.9",), dtype="float32")
    linked = link_recipe(dataclasses.replace(recipe, engines=(*recipe.engines, target)), lambda _: None)
    model: ir.Model = lower_linked(linked, Precision(), target, lambda _: None).round
    return session(model)


def generation(opened: ort.InferenceSession, prompt: list[int]) -> list[int]:
    """Greedy tokens, the prompt read in padded runs; tokens and position of each round are the graph's own."""
    states = {
        value.name: ort.OrtValue.ortvalue_from_numpy(np.zeros(value.shape, np.float32))
        for value in opened.get_inputs()
        if f"{value.name}.out" in {output.name for output in opened.get_outputs()}
    }
    names = [value.name for value in opened.get_outputs() if value.name.removesuffix(".out") not in states]

    def run(row: np.ndarray, known: int, drafts: int, position: np.ndarray) -> dict[str, np.ndarray]:
        binding = opened.io_binding()
        feeds = {"tokens": row, "n_known": np.array([known]), "n_draft": np.array([drafts]), "position": position}
        feeds |= {"temperature": np.zeros(1, np.float32), "uniform": np.full((1, 16), 0.5, np.float32)}
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cpu")
        for name, state in states.items():
            binding.bind_ortvalue_input(name, state)
            binding.bind_ortvalue_output(f"{name}.out", state)
        opened.run_with_iobinding(binding)
        return dict(zip(names, [value.numpy() for value in binding.get_outputs()], strict=False))

    position, tokens = np.array([0]), list[int]()
    for start in range(0, len(prompt), PREFILL_CHUNK):
        part = prompt[start : start + PREFILL_CHUNK]
        out = run(np.array([[*part, *[0] * (PREFILL_CHUNK - len(part))]]), len(part), 0, position)
        position = out["next_position"]
    while True:
        tokens += out["committed"][0, : int(out["n_accepted"][0]) + 1].tolist()
        if len(tokens) >= TOKENS:
            return tokens[:TOKENS]
        out = run(out["next_tokens"], 1, 7, out["next_position"])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_it_gives_the_tokens_of_the_cpu_bundle(
    engine: forerun.Engine, graph: ort.InferenceSession, prompt: str
) -> None:
    wanted = engine.generate(prompt, max_new_tokens=TOKENS).tokens
    assert len(wanted) == TOKENS
    assert tuple(generation(graph, list(engine.encode(prompt)))) == wanted
