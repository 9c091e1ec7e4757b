"""From a recipe to compiled graphs: link, calibrate, choose precision, lower, and weigh what each layer became.

The graphs of ONNX Runtime are lowered at once, those of each GPU engine when they are asked for: so that the weights of
one engine are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from forerun_compiler.activation_range import Calibration
from forerun_compiler.calibrate import calibrate
from forerun_compiler.calibration_cache import calibration_key, load_or_run
from forerun_compiler.calibration_text import TEXTS
from forerun_compiler.checkpoint_files import read_tokenizer
from forerun_compiler.int4_rounding import MOMENT_TOKENS, int4_layers, round_layers
from forerun_compiler.manifest import EngineTarget, ModelFacts, Precision
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.passes.assign_precision import assign_precision
from forerun_compiler.passes.quantize_int4 import NEAREST, Rounded, RoundedLayer
from forerun_compiler.passes.set_ranges import set_ranges
from forerun_compiler.pipeline import CompiledGraphs, LinkedGraphs, SetRanges, link_recipe, lower_linked
from forerun_compiler.precision_map import LayerPrecision
from forerun_compiler.prompts import read_prompts
from forerun_compiler.recipe import Recipe
from forerun_compiler.schemes import ONNXRUNTIME
from forerun_compiler.teacher_forcing import CalibrationSettings, cut_texts, encode_texts
from forerun_compiler.weigh_layers import weigh_layers


@dataclass(frozen=True)
class DeviceGraphs:
    """An engine of a GPU, the precision of its layers, and what gives its graphs."""

    engine: EngineTarget
    precision: Precision
    facts: ModelFacts
    lower: Callable[[], CompiledGraphs]


@dataclass(frozen=True)
class Compiled:
    """What the engines of a recipe run, and which layer has which precision.

    `graphs` are those of ONNX Runtime on the CPU, None where no engine is one; the map is theirs, else that of the
    first engine.
    """

    facts: ModelFacts
    graphs: CompiledGraphs | None
    precision_map: tuple[LayerPrecision, ...]
    devices: tuple[DeviceGraphs, ...] = field(default=())


class RecipeCompiler:
    """Compiles a recipe, and the same pair at other precisions: linked and calibrated once, when first needed."""

    def __init__(self, recipe: Recipe, cache: Path | None, on_progress: OnProgress) -> None:
        """`cache` is the folder where calibrations are kept; None keeps none."""
        self._recipe, self._cache, self._on_progress = recipe, cache, on_progress
        self._linked: LinkedGraphs | None = None
        self._calibration: Calibration | None = None
        self._rounded: dict[tuple[str, str], RoundedLayer] = {}

    def compile(self, recipe: Recipe, on_progress: OnProgress) -> Compiled:
        """Compile `recipe`, which differs from the first one in precision and engines only.

        Raises:
            ForerunError: of the class that belongs to the stage that failed.
        """
        if self._linked is None:
            self._linked = link_recipe(self._recipe, lambda stage: self._on_progress(stage, 0, 0))
        quantized = any(precision_of(recipe, engine).is_quantized for engine in recipe.engines)
        if quantized and self._calibration is None:
            self._calibration = calibrate_linked(self._recipe, self._linked, self._cache, self._on_progress)
        calibration = self._calibration if quantized else None
        rounded = self._round(recipe, self._linked) if recipe.calibration.rounding == "compensated" else NEAREST
        return compile_linked(recipe, self._linked, calibration, on_progress, rounded)

    def _round(self, recipe: Recipe, linked: LinkedGraphs) -> Rounded:
        """The int4 layers of the recipe's engines; each is rounded when it is first asked for."""
        precisions = dict.fromkeys(precision_of(recipe, engine) for engine in recipe.engines)
        wanted = {key for precision in precisions for key in int4_layers(linked.round, precision)}
        if waiting := wanted - self._rounded.keys():
            settings = CalibrationSettings(tokens=max(self._recipe.calibration.tokens, MOMENT_TOKENS))
            texts = cut_texts(_calibration_tokens(self._recipe), linked.facts, settings)
            self._rounded |= round_layers(linked.round, linked.facts, texts, waiting, self._on_progress)
        return self._rounded


def compile_recipe(recipe: Recipe, cache: Path | None, on_progress: OnProgress) -> Compiled:
    """Compile what a recipe names; see `RecipeCompiler`."""
    return RecipeCompiler(recipe, cache, on_progress).compile(recipe, on_progress)


def precision_of(recipe: Recipe, engine: EngineTarget) -> Precision:
    """The engine's own precision, else the recipe's."""
    return engine.precision if engine.precision is not None else recipe.precision


def compile_linked(
    recipe: Recipe,
    linked: LinkedGraphs,
    calibration: Calibration | None,
    on_progress: OnProgress,
    rounded: Rounded = NEAREST,
) -> Compiled:
    """Lower linked graphs for the engines of a recipe; the linked graphs stay as they are.

    `rounded` are the int4 layers whose codes were chosen on text; all others are rounded to the nearest.
    """
    ranges: SetRanges | None = None
    if calibration is not None:
        ranges = partial(set_ranges, calibration=calibration, method=recipe.calibration.method)

    def lower(engine: EngineTarget) -> CompiledGraphs:
        precision = precision_of(recipe, engine)
        return lower_linked(linked, precision, engine, lambda stage: on_progress(stage, 0, 0), ranges, rounded)

    on_cpu = [engine for engine in recipe.engines if engine.backend == ONNXRUNTIME]
    graphs = lower(on_cpu[0]) if on_cpu else None
    on_progress("weigh the layers", 0, 0)
    first = recipe.engines[0]
    choices = (
        graphs.choices
        if graphs is not None
        else assign_precision(linked.round.clone(), precision_of(recipe, first), first.backend)
    )
    return Compiled(
        facts=linked.facts,
        graphs=graphs,
        precision_map=weigh_layers(linked.round, choices, calibration, rounded),
        devices=tuple(
            DeviceGraphs(engine, precision_of(recipe, engine), linked.facts, partial(lower, engine))
            for engine in recipe.engines
            if engine.backend != ONNXRUNTIME
        ),
    )


def calibrate_linked(recipe: Recipe, linked: LinkedGraphs, cache: Path | None, on_progress: OnProgress) -> Calibration:
    """Measure the linear layers' inputs on the recipe's calibration text, or read what an equal build measured."""
    sequences = _calibration_tokens(recipe)
    settings = CalibrationSettings(tokens=recipe.calibration.tokens)

    def run() -> Calibration:
        return calibrate(linked.round, linked.facts, sequences, settings, on_progress)

    if cache is None:
        return run()
    key = calibration_key(linked.round, sequences, settings)
    return load_or_run(key, cache, run, lambda message: on_progress(message, 0, 0))


def _calibration_tokens(recipe: Recipe) -> tuple[tuple[int, ...], ...]:
    texts = read_prompts(recipe.calibration.prompts) if recipe.calibration.prompts else TEXTS
    return encode_texts(texts, read_tokenizer(recipe.target).tokenizer)
