"""Tiny pairs of a target and its drafter, for all tests that need more than made-up files.

`pair` compiles one in this process, once per test run, and keeps its traced parts and graphs; `build_pair` takes one
through the whole toolchain, recipe and tokenizer included, to a bundle.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import tiny_drafters
import tiny_models
from forerun_compiler import pipeline
from forerun_compiler.build import build
from forerun_compiler.drafters import load_drafter
from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.manifest import EngineTarget, GraphInterface, Precision
from forerun_compiler.model_facts import model_facts
from forerun_compiler.passes.link_round import Parts
from forerun_compiler.recipe import DrafterReference, ModelReference, PromptLookup, Recipe, load_recipe
from forerun_compiler.target import load_target, trace_target

CAPACITY, PREFILL_CHUNK = 240, 16
PROMPTS = ("def f(x):", "import os", "class A:\n    pass\n\n\nclass B(A):")
"""One token, in the tiny tokenizer, is one byte; the last prompt is longer than a prefill chunk."""
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


@dataclass(frozen=True)
class BuiltPair:
    """A bundle, and the target that it was built from in transformers' own classes."""

    bundle: Path
    target: Any
    tokenizer: Any

    def continuation(self, prompt: list[int], count: int) -> tuple[int, ...]:
        """Greedy tokens of the target by transformers' own generate, in float32."""
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = self.target.generate(ids, max_new_tokens=count, do_sample=False, pad_token_id=0)
        return tuple(found[0, len(prompt) :].tolist())


def recipe(
    target: Path,
    drafter: Path,
    *,
    capacity: int = CAPACITY,
    draft_len: int | None = None,
    lookup: PromptLookup | None = None,
) -> Recipe:
    """A recipe for two folders, as if it had been read from a file."""
    return Recipe(
        name="tiny",
        target=ModelReference(str(target), True),
        drafter=DrafterReference(str(drafter), True, "auto"),
        capacity=capacity,
        draft_len=draft_len,
        prefill_chunk=PREFILL_CHUNK,
        precision=Precision(),
        engines=(EngineTarget(),),
        prompts=None,
        text="",
        path=Path("tiny.yaml"),
        prompt_lookup=lookup,
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
def pair(
    *,
    head: str = "vanilla",
    agree: bool = True,
    draft_len: int | None = None,
    markov: bool = True,
    head_dim: int = 16,
    lookup: PromptLookup | None = None,
) -> Pair:
    """Compile a pair; equal arguments give the same object. Vocabulary 272, block 7, two drafter layers."""
    _kept.append(tempfile.TemporaryDirectory(prefix="forerun-pair-"))
    root = Path(_kept[-1].name)
    # An untied head: with a tied one the most probable token is the last one again.
    target = save_agreeing_target(root / "target", tie_word_embeddings=False, head_dim=head_dim)
    rank = (64 if agree else 8) if markov else 0
    drafter = tiny_drafters.save_dspark(root / "drafter", target, head=head, markov_rank=rank, confidence=markov)
    if agree:
        tiny_drafters.make_agree(drafter, target)
    asked = recipe(target, drafter, draft_len=draft_len, lookup=lookup)
    loaded = load_target(target)
    model = load_drafter(drafter, "auto", pipeline.target_side(loaded))
    facts = model_facts(asked, loaded, model)
    traced = trace_target(loaded, model.taps, facts.cache_rows)
    parts = Parts(traced, model.trace(facts.draft_len, facts.cache_rows), facts.draft_len, facts.lookup_len)
    linked = pipeline.link_parts(parts, facts, lambda _: None)
    graphs = pipeline.lower_linked(linked, Precision(), EngineTarget(), lambda _: None)
    (root / "engine").mkdir()
    interfaces = engine.write(graphs, root / "engine")
    return Pair(target, drafter, root / "engine", parts, linked, graphs, interfaces)


def build_pair(folder: Path, capacity: int = CAPACITY, *, seed: int = 1, more: str = "") -> BuiltPair:
    """Write both checkpoints and the recipe into `folder`, and build the bundle beside them (some seconds).

    `more` is added to the recipe.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # Seed 1 with an LM head of its own: greedy text that does not repeat itself, and never ends.
    tiny_models.save_target(folder / "target", seed=seed, tie_word_embeddings=False)
    target = AutoModelForCausalLM.from_pretrained(folder / "target", dtype=torch.float32).eval()
    built = BuiltPair(folder / "bundle", target, AutoTokenizer.from_pretrained(folder / "target"))
    tiny_drafters.save_dspark(folder / "drafter", folder / "target", markov_rank=tiny_models.VOCAB)
    _teach(folder / "drafter" / "model.safetensors", built)
    recipe_file = folder / "tiny.yaml"
    recipe_file.write_text(
        "name: tiny\ntarget: {model: target}\ndrafter: {model: drafter, family: dspark}\n"
        f"capacity: {capacity}\nprefill_chunk: {PREFILL_CHUNK}\n{more}",
        encoding="utf-8",
    )
    build(load_recipe(recipe_file), built.bundle, lambda stage, done, total: None)
    return built


def _teach(weights: Path, built: BuiltPair) -> None:
    """Make the random drafter right now and then: its Markov head learns the greedy texts' successors by heart.

    With rank V, W1 the unit matrix and W2 the successors' one-hot columns, the head's logit is 60 for the token that
    last followed the one before: far above the random backbone's, and wrong where a text goes on differently.
    """
    vocab = tiny_models.VOCAB
    successors = torch.zeros(vocab, vocab)
    for prompt in PROMPTS:
        tokens = built.tokenizer(prompt).input_ids
        text = [*tokens, *built.continuation(tokens, 100)]
        for token, following in itertools.pairwise(text):
            successors[:, token] = 0
            successors[following, token] = 60
    tensors = load_file(weights)
    tensors["markov_head.markov_w1.weight"] = torch.eye(vocab)
    tensors["markov_head.markov_w2.weight"] = successors
    save_file(tensors, weights)
