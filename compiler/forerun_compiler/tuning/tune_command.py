"""`build-engine tune`: link and calibrate a recipe once, build its candidates, search, and write the best recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from forerun_compiler.build import write_compiled
from forerun_compiler.manifest import Precision
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.recipe import Recipe, load_recipe
from forerun_compiler.tuning.report_tune import table_lines
from forerun_compiler.tuning.take_turns import Engine
from forerun_compiler.tuning.tune import OpenEngine, Settings, Tools, Tuning, Workshop, tune
from forerun_compiler.tuning.tuned_recipe import check_place, write_tuned


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
    """Builds the candidates of a recipe from one trace.

    Only linking and calibration are told as stages: the rest is short, and comes with every candidate.
    """

    def __init__(self, recipe: Recipe, cache: Path | None, on_progress: OnProgress) -> None:
        from forerun_compiler.compilation import RecipeCompiler

        self._recipe, self._compiler = recipe, RecipeCompiler(recipe, cache, on_progress)

    def build(self, precision: Precision, folder: Path) -> None:
        """Write the recipe's bundle at another precision."""
        recipe = replace(self._recipe, precision=precision)
        write_compiled(recipe, self._compiler.compile(recipe, _quiet), folder, _quiet)


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def _open_engine(folder: Path, threads: int | None) -> Engine:
    import forerun

    return forerun.load(folder, threads=threads)
