"""The whole compile on one page: load, trace, link, share, choose precision, lower; each stage named and checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler.bundle import ModelFacts
from forerun_compiler.checkpoint_files import local_folder
from forerun_compiler.drafters import TargetSide, load_drafter
from forerun_compiler.errors import PassError, RecipeError
from forerun_compiler.finite_weights import check_finite
from forerun_compiler.graph import check_graph
from forerun_compiler.manifest import INT8_CACHE, EngineTarget, Override, Precision
from forerun_compiler.model_facts import model_facts
from forerun_compiler.passes.assign_precision import Choice, assign_precision, layer_names, named_by
from forerun_compiler.passes.link_round import Parts, link_plain, link_round
from forerun_compiler.passes.lower_ort import lower_ort, passes_for
from forerun_compiler.passes.lower_tensorrt import lower_tensorrt
from forerun_compiler.passes.lower_tensorrt import passes_for as tensorrt_passes
from forerun_compiler.passes.name_products import name_products
from forerun_compiler.passes.quantize_caches import quantize_caches
from forerun_compiler.passes.quantize_int4 import NEAREST, Rounded
from forerun_compiler.passes.share_weights import share_weights
from forerun_compiler.recipe import Recipe
from forerun_compiler.schemes import ONNXRUNTIME
from forerun_compiler.target import Target, load_target, trace_target

OnStage = Callable[[str], None]
SetRanges = Callable[[ir.Model], object]


@dataclass(frozen=True)
class LinkedGraphs:
    """The fused round and plain decoding in the dialect, with named linear layers in float32: nothing chosen yet."""

    round: ir.Model
    plain: ir.Model
    facts: ModelFacts


@dataclass(frozen=True)
class CompiledGraphs:
    """What an engine is written from: both graphs, lowered, the facts, and the scheme that each layer got."""

    round: ir.Model
    plain: ir.Model
    facts: ModelFacts
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class _Stage:
    """A rewrite of both graphs, in place."""

    name: str
    run: Callable[[ir.Model], object]


def link_recipe(recipe: Recipe, on_stage: OnStage) -> LinkedGraphs:
    """Load, trace and link what a recipe names; `on_stage(name)` is called as each stage begins.

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
    parts = Parts(traced, drafter.trace(facts.draft_len, facts.cache_rows), facts.draft_len, facts.lookup_len)
    linked = link_parts(parts, facts, on_stage)
    check_overrides(recipe, linked)
    return linked


def link_parts(parts: Parts, facts: ModelFacts, on_stage: OnStage) -> LinkedGraphs:
    """Link the parts to the round and the plain graph, name the linear layers and store equal weights once.

    Raises:
        PassError: the parts do not fit together.
        CheckpointError: a weight is not finite.
    """
    on_stage("link the round")
    graphs = (link_round(parts), link_plain(parts.target))
    for graph in graphs:
        check_graph(graph, "link the round")
    _run(_NAME_AND_SHARE, graphs, on_stage)
    on_stage("check weights")
    check_finite(graphs[0])
    return LinkedGraphs(*graphs, facts)


def lower_linked(
    linked: LinkedGraphs,
    precision: Precision,
    engine: EngineTarget,
    on_stage: OnStage,
    set_ranges: SetRanges | None = None,
    rounded: Rounded = NEAREST,
) -> CompiledGraphs:
    """Choose each layer's scheme and bring clones of both graphs to the form that the engine runs.

    `set_ranges` gives the layers of calibrated schemes the range of their inputs; `rounded` are int4 layers whose codes
    are chosen already.
    """
    graphs = (linked.round.clone(), linked.plain.clone())
    choices = lower_graphs(graphs, linked.facts, precision, engine, on_stage, set_ranges, rounded)
    return CompiledGraphs(*graphs, linked.facts, choices)


def lower_graphs(
    graphs: tuple[ir.Model, ...],
    facts: ModelFacts,
    precision: Precision,
    engine: EngineTarget,
    on_stage: OnStage,
    set_ranges: SetRanges | None = None,
    rounded: Rounded = NEAREST,
) -> tuple[Choice, ...]:
    """Lower graphs in the dialect, in place; see `lower_linked`. Returns the schemes of the first graph's layers."""
    on_stage("choose precision")
    choices = [assign_precision(graph, precision, engine.backend) for graph in graphs]
    if precision.cache == INT8_CACHE and engine.backend != ONNXRUNTIME:
        raise PassError(f"caches in {precision.cache} are lowered for {ONNXRUNTIME} only; {engine.backend} has none")
    if facts.lookup_len and engine.backend != ONNXRUNTIME:
        raise PassError(f"prompt lookup is lowered for {ONNXRUNTIME} only; {engine.backend} keeps drafts on its device")
    stages = (
        *((_Stage("set activation ranges", set_ranges),) if set_ranges is not None else ()),
        *((_Stage("quantize caches", quantize_caches),) if precision.cache == INT8_CACHE else ()),
        _lowering(engine, facts, rounded),
        _Stage("share equal constants", share_weights),
    )
    _run(stages, graphs, on_stage)
    return choices[0]


def _lowering(engine: EngineTarget, facts: ModelFacts, rounded: Rounded) -> _Stage:
    if engine.backend == ONNXRUNTIME:
        return _Stage("lower to ONNX Runtime", lambda model: lower_ort(model, passes_for(engine, rounded)))
    passes = tensorrt_passes(engine.dtype, narrower=len(facts.verify_widths) > 1, rounded=rounded)
    return _Stage("lower to TensorRT", lambda model: lower_tensorrt(model, passes))


def _run(stages: tuple[_Stage, ...], graphs: tuple[ir.Model, ...], on_stage: OnStage) -> None:
    for stage in stages:
        on_stage(stage.name)
        for graph in graphs:
            stage.run(graph)
            check_graph(graph, stage.name)


def _must_name(model: ir.Model) -> None:
    if not name_products(model):
        raise PassError(
            f"pass 'name linear layers' found nothing to rewrite in {model.graph.name!r}, which it must: "
            "the graph is not of the form that the trace gives"
        )


# Named before they are shared: a weight that two layers share keeps the name of one of them only.
_NAME_AND_SHARE = (_Stage("name linear layers", _must_name), _Stage("share equal weights", share_weights))


def check_overrides(recipe: Recipe, linked: LinkedGraphs) -> None:
    """Refuse a pattern of the recipe that names no layer, or only layers that cannot have its scheme.

    Raises:
        RecipeError: with the line, and some names that there are, or why the layers cannot have it.
    """
    graphs = (linked.round, linked.plain)
    names = layer_names(graphs)
    for where, override, backend in _overrides(recipe):
        found = named_by(override, graphs, backend)
        if not found:
            raise RecipeError(
                f"{where}: {override.layers!r} matches none of the {len(names)} linear layers, which are named like "
                f"{names[0]}, {names[len(names) // 2]} and {names[-1]}; patterns are shell style: *, ? and [...]"
            )
        if None not in found.values():
            reasons = "; ".join(f"{layer}: {reason}" for layer, reason in list(found.items())[:3])
            raise RecipeError(
                f"{where}: {override.layers!r} matches {len(found)} of the {len(names)} linear layers, and "
                f"{override.scheme} for {'it' if len(found) == 1 else 'any of them'} is not possible ({reasons}); "
                "remove the entry or let it name other layers"
            )


def _overrides(recipe: Recipe) -> Iterator[tuple[str, Override, str]]:
    """Where an override of the recipe or of an engine's own precision stands, the override, and a backend with it."""
    backends = [engine.backend for engine in recipe.engines if engine.precision is None]
    shared = ONNXRUNTIME if ONNXRUNTIME in backends or not backends else backends[0]
    for index, override in enumerate(recipe.precision.overrides):
        yield f"{recipe.path}:{recipe.override_lines[index]}: precision.overrides[{index}].layers", override, shared
    for number, (engine, lines) in enumerate(zip(recipe.engines, recipe.engine_override_lines, strict=False)):
        for index, override in enumerate(engine.precision.overrides if engine.precision is not None else ()):
            where = f"{recipe.path}:{lines[index]}: engines[{number}].precision.overrides[{index}].layers"
            yield where, override, engine.backend


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
