"""From a recipe to compiled graphs: link, choose precision, lower, and weigh what each layer became."""

from __future__ import annotations

from dataclasses import dataclass

from forerun_compiler.pipeline import CompiledGraphs, OnStage, link_recipe, lower_linked
from forerun_compiler.precision_map import LayerPrecision
from forerun_compiler.recipe import Recipe


@dataclass(frozen=True)
class Compiled:
    """The graphs of an engine, and which layer of them has which precision."""

    graphs: CompiledGraphs
    precision_map: tuple[LayerPrecision, ...]


def compile_recipe(recipe: Recipe, on_stage: OnStage) -> Compiled:
    """Compile what a recipe names; `on_stage(name)` is called as each stage begins.

    Raises:
        ForerunError: of the class that belongs to the stage that failed.
    """
    linked = link_recipe(recipe, on_stage)
    graphs = lower_linked(linked, recipe.precision, recipe.engines[0], on_stage)
    return Compiled(graphs, ())
