"""From a recipe to a bundle on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from forerun_compiler import __version__
from forerun_compiler.bundle import FORMAT, GraphInterface, Manifest, Source, check_output, write_bundle
from forerun_compiler.checkpoint_files import TokenizerFiles, read_tokenizer, source_name
from forerun_compiler.errors import ResourceError
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.precision_map import FILE_NAME as PRECISION_MAP
from forerun_compiler.precision_map import render_precision_map
from forerun_compiler.prompts import BUILT_IN, read_prompts, render_prompts
from forerun_compiler.prompts import FILE_NAME as PROMPTS
from forerun_compiler.recipe import Recipe
from forerun_compiler.resources import Needs, check_fits, estimate, this_machine
from forerun_compiler.schemes import ONNXRUNTIME
from forerun_compiler.vocabulary import encode_vocabulary

if TYPE_CHECKING:
    from forerun_compiler.compilation import Compiled, DeviceGraphs
    from forerun_compiler.manifest import EngineTarget
    from forerun_compiler.pipeline import CompiledGraphs


@dataclass(frozen=True)
class Toolchain:
    """What compiles a recipe, and what writes graphs, or the engine of a GPU, into the folder of a bundle."""

    compile_recipe: Callable[[Recipe, Path | None, OnProgress], Compiled]
    write_graphs: Callable[[CompiledGraphs, Path], Mapping[str, GraphInterface]]
    write_device_engine: Callable[[DeviceGraphs, Path, OnProgress], EngineTarget]


def _toolchain() -> Toolchain:
    from forerun_compiler.compilation import compile_recipe
    from forerun_compiler.device_engines import write_device_engine
    from forerun_compiler.engines import onnxruntime

    return Toolchain(compile_recipe, onnxruntime.write, write_device_engine)


def plan_build(recipe: Recipe, output: Path) -> Needs:
    """What the build needs, before it begins.

    Raises:
        ResourceError: this machine cannot hold it.
        BundleError: `output` holds something that a build must not replace.
        EngineError: an engine of the recipe cannot be built here, or not with its precision.
    """
    check_output(output)
    check_devices(recipe)
    needs = estimate(recipe)
    check_fits(needs, this_machine(output), output)
    return needs


def check_devices(recipe: Recipe) -> None:
    """Refuse engines of GPUs that the recipe's precisions, or what is installed here, do not allow.

    Raises:
        EngineError: says what is missing and what to change.
    """
    for engine in recipe.engines:
        if engine.backend != ONNXRUNTIME:
            from forerun_compiler.device_engines import check_device_engine

            check_device_engine(engine, engine.precision or recipe.precision)


def build(
    recipe: Recipe,
    output: Path,
    on_progress: OnProgress,
    toolchain: Toolchain | None = None,
    cache: Path | None = None,
) -> Manifest:
    """Compile the recipe and write the bundle to `output` in one piece (see `bundle.write_bundle`).

    `on_progress(stage, done, total)` is called as each stage begins, and within long ones. Calibrations are kept in the
    folder `cache`. `toolchain` is for tests.

    Raises:
        ForerunError: of the class that belongs to the stage that failed; nothing is left behind.
    """
    toolchain = toolchain or _toolchain()
    check_output(output)
    on_progress("read prompts and tokenizer", 0, 0)
    _read_texts(recipe)  # before the long part, so that a mistake is told at once
    try:
        compiled = toolchain.compile_recipe(recipe, cache, on_progress)
    except MemoryError:
        raise ResourceError("the compile ran out of memory; end other programs or use a larger machine") from None
    return write_compiled(recipe, compiled, output, on_progress, toolchain)


def write_compiled(
    recipe: Recipe, compiled: Compiled, output: Path, on_progress: OnProgress, toolchain: Toolchain | None = None
) -> Manifest:
    """Write what a recipe was compiled to as a bundle, in one piece."""
    toolchain = toolchain or _toolchain()
    prompts, tokenizer = _read_texts(recipe)
    vocabulary = encode_vocabulary(tokenizer.tokenizer, compiled.facts.vocab_size, recipe.target.model)

    def fill(staging: Path) -> Manifest:
        interfaces: Mapping[str, GraphInterface] = {}
        if compiled.graphs is not None:
            on_progress("write graphs and weights", 0, 0)
            interfaces = toolchain.write_graphs(compiled.graphs, staging)
        devices = [toolchain.write_device_engine(device, staging, on_progress) for device in compiled.devices]
        on_progress("write tokenizer and manifest", 0, 0)
        (staging / "tokenizer.json").write_text(tokenizer.tokenizer, encoding="utf-8")
        if tokenizer.chat_template is not None:
            (staging / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
        (staging / "vocab.bin").write_bytes(vocabulary)
        (staging / PROMPTS).write_bytes(render_prompts(prompts))
        (staging / PRECISION_MAP).write_bytes(render_precision_map(compiled.precision_map))
        return Manifest(
            format=FORMAT,
            forerun=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={},
            model=compiled.facts,
            graphs=dict(interfaces),
            precision=recipe.precision,
            engines=(*(engine for engine in recipe.engines if engine.backend == ONNXRUNTIME), *devices),
            recipe=recipe.text,
            source=Source(source_name(recipe.target, output), source_name(recipe.drafter, output)),
            cost=(),
            proof=None,
        )

    return write_bundle(output, fill)


def _read_texts(recipe: Recipe) -> tuple[tuple[str, ...], TokenizerFiles]:
    prompts = read_prompts(recipe.prompts) if recipe.prompts else BUILT_IN
    if recipe.calibration.prompts is not None:
        read_prompts(recipe.calibration.prompts)
    return prompts, read_tokenizer(recipe.target)
