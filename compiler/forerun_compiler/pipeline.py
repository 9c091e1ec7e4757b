"""The whole compile on one page: load, trace, link, share, lower; every stage named, its result checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.bundle import ModelFacts
from forerun_compiler.checkpoint_files import local_folder
from forerun_compiler.drafters import Drafter, TargetSide, load_drafter
from forerun_compiler.errors import RecipeError
from forerun_compiler.graph import check_graph
from forerun_compiler.passes.link_round import Parts, link_plain, link_round
from forerun_compiler.passes.lower_ort import lower_ort
from forerun_compiler.passes.share_weights import share_weights
from forerun_compiler.recipe import Recipe
from forerun_compiler.target import Target, load_target, trace_target

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class CompiledGraphs:
    """What a compile gives: the fused round, plain decoding with the same weights, and the facts of the model."""

    round: ir.Model
    plain: ir.Model
    facts: ModelFacts


@dataclass(frozen=True)
class _Stage:
    """A rewrite of both graphs, in place."""

    name: str
    run: Callable[[ir.Model], object]


STAGES = (
    _Stage("share equal weights", share_weights),
    _Stage("lower to ONNX Runtime", lower_ort),
    _Stage("share equal constants", share_weights),
)


def compile_recipe(recipe: Recipe, on_stage: OnStage) -> CompiledGraphs:
    """Load, trace and compile what a recipe names; `on_stage(name)` is called as each stage begins.

    Raises:
        ForerunError: of the class that belongs to the stage that failed.
    """
    on_stage("load the target")
    target = load_target(local_folder(recipe.target))
    on_stage("load the drafter")
    drafter = load_drafter(local_folder(recipe.drafter), recipe.drafter.family, target_side(target))
    facts = model_facts(recipe, target, drafter)
    on_stage("trace the target")
    traced = trace_target(target, drafter.taps, facts.cache_rows)
    on_stage("trace the drafter")
    parts = Parts(traced, drafter.trace(facts.draft_len, facts.cache_rows), facts.draft_len)
    return compile_graphs(parts, facts, on_stage)


def compile_graphs(parts: Parts, facts: ModelFacts, on_stage: OnStage) -> CompiledGraphs:
    """Link the parts to the round and the plain graph, and bring both to the form that the engine runs."""
    on_stage("link the round")
    graphs = (link_round(parts), link_plain(parts.target))
    for graph in graphs:
        check_graph(graph, "link the round")
    for stage in STAGES:
        on_stage(stage.name)
        for graph in graphs:
            stage.run(graph)
            check_graph(graph, stage.name)
    return CompiledGraphs(*graphs, facts)


def target_side(target: Target) -> TargetSide:
    """Return what a drafter may know of its target."""
    return TargetSide(
        name=target.source,
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        num_layers=target.layers,
        embedding=target.model.get_input_embeddings().weight,
        lm_head=target.model.get_output_embeddings().weight,
    )


def model_facts(recipe: Recipe, target: Target, drafter: Drafter) -> ModelFacts:
    """Return the sizes of a build.

    Raises:
        RecipeError: `draft_len` is longer than the drafter's block.
    """
    draft_len = recipe.draft_len or drafter.block_size
    if draft_len > drafter.block_size:
        raise RecipeError(
            f"{recipe.path}: draft_len: the drafter drafts at most {drafter.block_size} tokens at once "
            f"(its block size); found {draft_len}"
        )
    return ModelFacts(
        name=recipe.name,
        target_architecture=target.architecture,
        drafter_family=drafter.family,
        vocab_size=target.vocab_size,
        hidden_size=target.hidden_size,
        draft_len=draft_len,
        block_size=drafter.block_size,
        capacity=recipe.capacity,
        cache_rows=cache_rows(recipe.capacity, draft_len, drafter.block_size),
        prefill_chunk=recipe.prefill_chunk,
        taps=drafter.taps,
        eos_token_ids=target.eos_token_ids,
        bos_token_id=target.bos_token_id,
        mask_token_id=drafter.mask_token_id,
    )


def cache_rows(capacity: int, draft_len: int, block_size: int) -> int:
    """Return how many rows a cache needs so that no write of a round that begins within `capacity` leaves it.

    A round writes at most draft_len + 1 rows from its position on, and its block after them.
    """
    return capacity + draft_len + 1 + block_size
