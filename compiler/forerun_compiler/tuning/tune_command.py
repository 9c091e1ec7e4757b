"""`build-engine tune`: link and calibrate a recipe once, build its candidates, search, and write the best recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forerun_compiler.build import write_compiled
from forerun_compiler.manifest import Precision
from forerun_compiler.recipe import Recipe, load_recipe
from forerun_compiler.tuning.report_tune import table_lines
from forerun_compiler.tuning.take_turns import Engine
from forerun_compiler.tuning.tune import OnProgress, OpenEngine, Settings, Tools, Tuning, Workshop, tune
from forerun_compiler.tuning.tuned_recipe import check_place, write_tuned

if TYPE_CHECKING:
    from forerun_compiler.activation_range import Calibration
    from forerun_compiler.pipeline import LinkedGraphs


def tune_recipe(
    path: Path,
    output: Path,
    settings: Settings,
    on_progress: OnProgress,
    cache: Path | None = None,
    workshop: Workshop | None = None,
    open_engine: OpenEngine | None = None,
) -> Tuning:
    """Search on this machine and write the recipe with the best precision to `output`.

    Calibrations are kept in the folder `cache`. `workshop` and `open_engine` are for tests.

    Raises:
        RecipeError: the recipe cannot be read, or `output` cannot hold it.
        ForerunError: as `tune`.
    """
    recipe = load_recipe(path)
    check_place(recipe, output)
    tools = Tools(workshop or RecipeWorkshop(recipe, cache, on_progress), open_engine or _open_engine, on_progress)
    found = tune(recipe, settings, tools)
    write_tuned(recipe, found.chosen.drafter, found.chosen.drafter_lm_head, table_lines(found), output)
    return found


class RecipeWorkshop:
    """Links and calibrates a recipe when the first bundle is built, and lowers the same graphs for every other.

    Only these two are told as stages: the rest is short, and comes with every candidate.
    """

    def __init__(self, recipe: Recipe, cache: Path | None, on_progress: OnProgress) -> None:
        self._recipe, self._cache, self._on_progress = recipe, cache, on_progress
        self._linked: LinkedGraphs | None = None
        self._calibration: Calibration | None = None

    def build(self, precision: Precision, folder: Path) -> None:
        """Write the recipe's bundle at another precision."""
        from forerun_compiler.compilation import calibrate_linked, compile_linked
        from forerun_compiler.pipeline import link_recipe

        recipe, on_progress = self._recipe, self._on_progress
        if self._linked is None:
            self._linked = link_recipe(recipe, lambda stage: on_progress(stage, 0, 0))
        quantized = precision.is_quantized
        if quantized and self._calibration is None:
            self._calibration = calibrate_linked(recipe, self._linked, self._cache, on_progress)
        calibration = self._calibration if precision.is_quantized else None
        compiled = compile_linked(recipe, self._linked, precision, calibration, _quiet)
        write_compiled(replace(recipe, precision=precision), compiled, folder, _quiet)


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def _open_engine(folder: Path, threads: int | None) -> Engine:
    import forerun

    return forerun.load(folder, threads=threads)
