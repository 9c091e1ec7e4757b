"""A tiny random target and its drafter, compiled once per test run and shared by all tests that only read them."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_drafters
import tiny_models
from forerun_compiler import pipeline
from forerun_compiler.drafters import load_drafter
from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.manifest import EngineTarget, GraphInterface, Precision
from forerun_compiler.passes.link_round import Parts
from forerun_compiler.recipe import DrafterReference, ModelReference, Recipe
from forerun_compiler.target import load_target, trace_target

CAPACITY = 240
_kept: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class Pair:
    """Checkpoints, traced parts, linked and compiled graphs, and the folder with the engine's files."""

    target: Path
    drafter: Path
    engine: Path
    parts: Parts
    linked: pipeline.LinkedGraphs
    graphs: pipeline.CompiledGraphs
    interfaces: dict[str, GraphInterface]


def recipe(target: Path, drafter: Path, *, capacity: int = CAPACITY, draft_len: int | None = None) -> Recipe:
    """A recipe for two folders, as if it had been read from a file."""
    return Recipe(
        name="tiny",
        target=ModelReference(str(target), True),
        drafter=DrafterReference(str(drafter), True, "auto"),
        capacity=capacity,
        draft_len=draft_len,
        prefill_chunk=16,
        precision=Precision(),
        engines=(EngineTarget(),),
        prompts=None,
        text="",
        path=Path("tiny.yaml"),
    )


def save_agreeing_target(folder: Path, **overrides: Any) -> Path:
    """A target whose layers change little, so that a table of bigrams foresees much of what it says."""
    model = tiny_models.make_model("qwen3", **overrides)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data *= 0.04
        layer.mlp.down_proj.weight.data *= 0.04
    model.save_pretrained(folder)
    tiny_models.save_tokenizer(folder)
    return folder


@functools.cache
def pair(*, head: str = "vanilla", agree: bool = True, draft_len: int | None = None, markov: bool = True) -> Pair:
    """Compile a pair; equal arguments give the same object. Vocabulary 272, block 7, two drafter layers."""
    _kept.append(tempfile.TemporaryDirectory(prefix="forerun-pair-"))
    root = Path(_kept[-1].name)
    # An untied head: with a tied one the most probable token is the last one again.
    target = save_agreeing_target(root / "target", tie_word_embeddings=False)
    rank = (64 if agree else 8) if markov else 0
    drafter = tiny_drafters.save_dspark(root / "drafter", target, head=head, markov_rank=rank, confidence=markov)
    if agree:
        tiny_drafters.make_agree(drafter, target)
    asked = recipe(target, drafter, draft_len=draft_len)
    loaded = load_target(target)
    model = load_drafter(drafter, "auto", pipeline.target_side(loaded))
    facts = pipeline.model_facts(asked, loaded, model)
    traced = trace_target(loaded, model.taps, facts.cache_rows)
    parts = Parts(traced, model.trace(facts.draft_len, facts.cache_rows), facts.draft_len)
    linked = pipeline.link_parts(parts, facts, lambda _: None)
    graphs = pipeline.lower_linked(linked, Precision(), EngineTarget(), lambda _: None)
    (root / "engine").mkdir()
    interfaces = engine.write(graphs, root / "engine")
    return Pair(target, drafter, root / "engine", parts, linked, graphs, interfaces)
