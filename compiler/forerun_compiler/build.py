"""From a recipe to a bundle on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from forerun_compiler import __version__
from forerun_compiler.bundle import FORMAT, GraphInterface, Manifest, Source, check_output, write_bundle
from forerun_compiler.checkpoint_files import read_tokenizer, source_name
from forerun_compiler.errors import ResourceError
from forerun_compiler.precision_map import FILE_NAME as PRECISION_MAP
from forerun_compiler.precision_map import render_precision_map
from forerun_compiler.prompts import BUILT_IN, read_prompts, render_prompts
from forerun_compiler.prompts import FILE_NAME as PROMPTS
from forerun_compiler.recipe import Recipe
from forerun_compiler.resources import Needs, check_fits, estimate, this_machine
from forerun_compiler.vocabulary import encode_vocabulary

if TYPE_CHECKING:
    from forerun_compiler.compilation import Compiled
    from forerun_compiler.pipeline import CompiledGraphs

OnStage = Callable[[str], None]


@dataclass(frozen=True)
class Toolchain:
    """What compiles a recipe, and what writes the graphs of an engine into a folder."""

    compile_recipe: Callable[[Recipe, OnStage], Compiled]
    write_engine: Callable[[CompiledGraphs, Path], Mapping[str, GraphInterface]]


def _toolchain() -> Toolchain:
    from forerun_compiler.compilation import compile_recipe
    from forerun_compiler.engines import onnxruntime

    return Toolchain(compile_recipe, onnxruntime.write)


def plan_build(recipe: Recipe, output: Path) -> Needs:
    """What the build needs, before it begins.

    Raises:
        ResourceError: this machine cannot hold it.
        BundleError: `output` holds something that a build must not replace.
    """
    check_output(output)
    needs = estimate(recipe)
    check_fits(needs, this_machine(output), output)
    return needs


def build(
    recipe: Recipe,
    output: Path,
    on_stage: OnStage,
    toolchain: Toolchain | None = None,
) -> Manifest:
    """Compile the recipe and write the bundle to `output` in one piece (see `bundle.write_bundle`).

    `on_stage(name)` is called as each stage begins. `toolchain` is for tests.

    Raises:
        ForerunError: of the class that belongs to the stage that failed; nothing is left behind.
    """
    toolchain = toolchain or _toolchain()
    check_output(output)
    on_stage("read prompts and tokenizer")
    prompts = read_prompts(recipe.prompts) if recipe.prompts else BUILT_IN
    tokenizer = read_tokenizer(recipe.target)
    try:
        compiled = toolchain.compile_recipe(recipe, on_stage)
    except MemoryError:
        raise ResourceError("the compile ran out of memory; end other programs or use a larger machine") from None
    vocabulary = encode_vocabulary(tokenizer.tokenizer, compiled.graphs.facts.vocab_size, recipe.target.model)

    def fill(staging: Path) -> Manifest:
        on_stage("write graphs and weights")
        interfaces = toolchain.write_engine(compiled.graphs, staging)
        on_stage("write tokenizer and manifest")
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
            model=compiled.graphs.facts,
            graphs=dict(interfaces),
            precision=recipe.precision,
            engines=recipe.engines,
            recipe=recipe.text,
            source=Source(source_name(recipe.target, output), source_name(recipe.drafter, output)),
            cost=(),
            proof=None,
        )

    return write_bundle(output, fill)
