"""One tiny random pair through the whole toolchain: the checkpoints, the recipe and the bundle."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from forerun_compiler.build import build
from forerun_compiler.recipe import load_recipe
from tiny_drafters import save_dspark
from tiny_models import VOCAB, save_target

CAPACITY = 160
PROMPTS = ("def f(x):", "import os", "class A:\n    pass\n\n\nclass B(A):")
"""One token, in the tiny tokenizer, is one byte; the last prompt is longer than a prefill chunk."""


@dataclass(frozen=True)
class TinyPair:
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


def build_tiny_pair(folder: Path) -> TinyPair:
    """Writes both checkpoints and the recipe into `folder`, and builds the bundle beside them (some seconds)."""
    pair = TinyPair(folder / "bundle", _save_target(folder / "target"), _tokenizer(folder / "target"))
    save_dspark(folder / "drafter", folder / "target", markov_rank=VOCAB)
    _teach(folder / "drafter" / "model.safetensors", pair)
    recipe = folder / "tiny.yaml"
    recipe.write_text(
        "name: tiny\ntarget: {model: target}\ndrafter: {model: drafter, family: dspark}\n"
        f"capacity: {CAPACITY}\nprefill_chunk: 16\n",
        encoding="utf-8",
    )
    build(load_recipe(recipe), pair.bundle, lambda stage, done, total: None)
    return pair


def _save_target(folder: Path) -> Any:
    """A target whose greedy text does not repeat itself (seed 1 with an LM head of its own), and never ends."""
    from transformers import AutoModelForCausalLM

    save_target(folder, seed=1, tie_word_embeddings=False)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _teach(weights: Path, pair: TinyPair) -> None:
    """Makes the random drafter right now and then: its Markov head learns the greedy texts' successors by heart.

    With rank V, W1 the unit matrix and W2 the successors' one-hot columns, the head's logit is 60 for the token that
    last followed the one before: far above the random backbone's, and wrong where a text goes on differently.
    """
    successors = torch.zeros(VOCAB, VOCAB)
    for prompt in PROMPTS:
        tokens = pair.tokenizer(prompt).input_ids
        text = [*tokens, *pair.continuation(tokens, 100)]
        for token, following in itertools.pairwise(text):
            successors[:, token] = 0
            successors[following, token] = 60
    tensors = load_file(weights)
    tensors["markov_head.markov_w1.weight"] = torch.eye(VOCAB)
    tensors["markov_head.markov_w2.weight"] = successors
    save_file(tensors, weights)
