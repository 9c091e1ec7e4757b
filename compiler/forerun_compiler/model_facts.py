"""The sizes of a build: what the recipe asks for, and what follows from the target and the drafter."""

from __future__ import annotations

from forerun_compiler.drafters import Drafter
from forerun_compiler.errors import RecipeError
from forerun_compiler.manifest import ModelFacts
from forerun_compiler.recipe import Recipe
from forerun_compiler.schemes import ONNXRUNTIME
from forerun_compiler.target import Target


def model_facts(recipe: Recipe, target: Target, drafter: Drafter) -> ModelFacts:
    """Return the sizes of a build.

    Raises:
        RecipeError: `draft_len` is longer than the drafter's block, or `verify_widths` lack one that they must have.
    """
    draft_len = recipe.draft_len or drafter.block_size
    if draft_len > drafter.block_size:
        raise RecipeError(
            f"{recipe.path}: draft_len: the drafter drafts at most {drafter.block_size} tokens at once "
            f"(its block size); found {draft_len}"
        )
    lookup = recipe.prompt_lookup
    lookup_len, lookup_match = (0, 0) if lookup is None else (lookup.draft_len, lookup.match_len)
    verify_len = max(draft_len, lookup_len)
    on_gpu = any(engine.backend != ONNXRUNTIME for engine in recipe.engines)
    padded = _padded_prefill(recipe, draft_len + 1) if on_gpu else 0
    return ModelFacts(
        name=recipe.name,
        target_architecture=target.architecture,
        drafter_family=drafter.family,
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        draft_len=draft_len,
        lookup_len=lookup_len,
        lookup_match=lookup_match,
        block_size=drafter.block_size,
        capacity=recipe.capacity,
        cache_rows=cache_rows(recipe.capacity, verify_len, drafter.block_size, padded),
        prefill_chunk=recipe.prefill_chunk,
        verify_widths=_verify_widths(recipe, draft_len, verify_len, on_gpu),
        taps=drafter.taps,
        eos_token_ids=target.eos_token_ids,
        bos_token_id=target.bos_token_id,
        mask_token_id=drafter.mask_token_id,
    )


def _verify_widths(recipe: Recipe, draft_len: int, verify_len: int, on_gpu: bool) -> tuple[int, ...]:
    """Return the recipe's widths, or the default: on a CPU, where a width is a list of addresses, powers of two, the
    drafter's own and the widest; for a GPU, where each is a profile to build and a graph to keep, the widest alone.

    Raises:
        RecipeError: the widest is not verify_len + 1, or draft_len + 1 is not among them.
    """
    own, widest = draft_len + 1, verify_len + 1
    widths = recipe.verify_widths
    if widths is None:
        narrower = set() if on_gpu else {1 << power for power in range(1, verify_len.bit_length() + 1)}
        return tuple(sorted(width for width in narrower | {own, widest} if width <= widest))
    if widths[-1] != widest:
        length = "draft_len" if verify_len == draft_len else "prompt_lookup.draft_len"
        raise RecipeError(
            f"{recipe.path}: verify_widths: the widest must hold the anchor and all drafts, {length} + 1 = {widest}; "
            f"found {widths[-1]}"
        )
    if own not in widths:
        raise RecipeError(
            f"{recipe.path}: verify_widths: one must hold the anchor and the drafter's drafts, draft_len + 1 = {own}; "
            f"found {', '.join(map(str, widths))}: add {own}"
        )
    return widths


def _padded_prefill(recipe: Recipe, width: int) -> int:
    """Return how many rows a prefill run on a GPU has, whatever it is given; `width` are those of a decoding run.

    Raises:
        RecipeError: it is no multiple of the width, of which the lowered attention makes heads.
    """
    chunk = min(recipe.prefill_chunk, recipe.capacity)
    if chunk % width:
        nearest = max(1, round(chunk / width)) * width
        raise RecipeError(
            f"{recipe.path}: prefill_chunk: TensorRT reads prompts in multiples of draft_len + 1 = {width} tokens; "
            f"found {chunk}, choose {nearest}"
        )
    return chunk


def cache_rows(capacity: int, verify_len: int, block_size: int, padded_prefill: int = 0) -> int:
    """Return how many rows a cache needs so that no write of a round that begins within `capacity` leaves it.

    A round writes at most verify_len + 1 rows from its position on, or those of a padded prefill run, and its block
    after them.
    """
    return capacity + max(verify_len + 1, padded_prefill) + block_size
