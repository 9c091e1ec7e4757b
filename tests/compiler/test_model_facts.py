"""The sizes of a build: widths, cache rows, and what the recipe may not ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forerun_compiler.errors import RecipeError
from forerun_compiler.manifest import EngineTarget, ModelFacts
from forerun_compiler.model_facts import model_facts
from forerun_compiler.recipe import PromptLookup, Recipe
from tiny_pairs import CAPACITY, recipe

TARGET: Any = SimpleNamespace(architecture="T", vocab_size=272, hidden_size=64, eos_token_ids=(1,), bos_token_id=None)
DRAFTER: Any = SimpleNamespace(family="dspark", block_size=7, taps=(0, 1), mask_token_id=2)
ON_GPU = EngineTarget("tensorrt-rtx", "cuda")


def asked(**changes: Any) -> Recipe:
    return replace(recipe(Path("target"), Path("drafter")), **changes)


def facts(**changes: Any) -> ModelFacts:
    return model_facts(asked(**changes), TARGET, DRAFTER)


def test_without_a_draft_len_the_drafter_s_block_is_drafted() -> None:
    found = facts()
    assert (found.draft_len, found.block_size, found.verify_len) == (7, 7, 7)
    assert (found.lookup_len, found.lookup_match) == (0, 0)
    assert found.cache_rows == CAPACITY + 8 + 7


def test_a_lookup_longer_than_the_draft_widens_rounds_and_caches() -> None:
    found = facts(prompt_lookup=PromptLookup())
    assert (found.draft_len, found.lookup_len, found.lookup_match, found.verify_len) == (7, 15, 4, 15)
    assert found.cache_rows == CAPACITY + 16 + 7
    assert facts(prompt_lookup=PromptLookup(3)).cache_rows == facts().cache_rows


@pytest.mark.parametrize(
    ("changes", "widths"),
    [
        ({}, (2, 4, 8)),
        ({"draft_len": 1}, (2,)),
        ({"draft_len": 4}, (2, 4, 5)),
        ({"prompt_lookup": PromptLookup()}, (2, 4, 8, 16)),
        ({"prompt_lookup": PromptLookup(12), "draft_len": 4}, (2, 4, 5, 8, 13)),
        ({"prompt_lookup": PromptLookup(3)}, (2, 4, 8)),
        ({"engines": (ON_GPU,), "prefill_chunk": 16}, (8,)),
        ({"verify_widths": (3, 8)}, (3, 8)),
        ({"verify_widths": (8, 16), "prompt_lookup": PromptLookup()}, (8, 16)),
    ],
)
def test_verify_widths_are_the_recipe_s_or_powers_of_two(changes: dict[str, Any], widths: tuple[int, ...]) -> None:
    assert facts(**changes).verify_widths == widths


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draft_len": 8}, "draft_len: the drafter drafts at most 7 tokens at once (its block size); found 8"),
        (
            {"draft_len": 4, "verify_widths": (2, 4)},
            "verify_widths: the widest must hold the anchor and all drafts, draft_len + 1 = 5; found 4",
        ),
        (
            {"verify_widths": (2, 8), "prompt_lookup": PromptLookup()},
            "verify_widths: the widest must hold the anchor and all drafts, prompt_lookup.draft_len + 1 = 16; found 8",
        ),
        (
            {"verify_widths": (4, 16), "prompt_lookup": PromptLookup()},
            "verify_widths: one must hold the anchor and the drafter's drafts, draft_len + 1 = 8; found 4, 16: add 8",
        ),
        (
            {"engines": (ON_GPU,), "prefill_chunk": 12},
            "prefill_chunk: TensorRT reads prompts in multiples of draft_len + 1 = 8 tokens; found 12, choose 16",
        ),
    ],
)
def test_what_a_recipe_may_not_ask_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        facts(**changes)
    assert str(caught.value) == f"tiny.yaml: {message}"
