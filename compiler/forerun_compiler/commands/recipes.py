"""The commands that begin with a recipe: build and tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forerun_compiler.commands.shared import JSON, THREADS, calibrations, fields, print_result, progress_bar

if TYPE_CHECKING:
    from forerun_compiler.manifest import Manifest


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
@click.option("--dry-run", is_flag=True, help="State what the build needs, check that it fits, and stop.")
@click.option("--only", type=click.Choice(["engines"]), help="Add engines to the bundle at the output; no RECIPE.")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help='With --only engines: a compute capability ("8.6"), or tensorrt for this machine\'s GPU; may be given again.',
)
@JSON
def build(
    recipe: Path | None, output: Path, dry_run: bool, only: str | None, targets: tuple[str, ...], as_json: bool
) -> None:
    """Build a bundle from RECIPE; an earlier one at the output is replaced when the new one is complete.

    With --only engines, build engines for further GPUs from the graphs in the bundle at the output: no checkpoint is
    read and nothing is traced.

    \b
    Example:  build-engine build recipes/demo.yaml -o artifacts/demo
              build-engine build --only engines --target 8.6 -o artifacts/demo-tensorrt
    JSON:     bundle, needs {parameters, ram, disk, seconds}, seconds, files {NAME: {size, sha256}}
              (the last two not with --dry-run; sizes in bytes)
    """
    import time

    from forerun_compiler import build as building
    from forerun_compiler import report
    from forerun_compiler.recipe import load_recipe

    start = time.monotonic()
    if only is not None:
        if recipe is not None or dry_run or not targets:
            raise click.UsageError("--only engines takes --target and --output: leave out RECIPE and --dry-run")
        manifest = _add_engines(output, targets)
        result = {"bundle": str(output), "seconds": round(time.monotonic() - start, 3), "files": manifest.files}
        print_result(result, report.built_text(manifest, output), as_json)
        return
    if recipe is None or targets:
        raise click.UsageError("give RECIPE, and --target only with --only engines")
    parsed = load_recipe(recipe)
    needs = building.plan_build(parsed, output)
    click.echo(f"{parsed.name}: {report.needs_text(needs)}", err=True)
    if dry_run:
        print_result({"bundle": str(output), "needs": needs}, "it fits", as_json)
        return
    with progress_bar() as progress:
        manifest = building.build(parsed, output, progress, cache=calibrations())
    seconds = round(time.monotonic() - start, 3)
    result = {"bundle": str(output), "needs": needs, "seconds": seconds, "files": manifest.files}
    print_result(result, report.built_text(manifest, output), as_json)


def _add_engines(bundle: Path, targets: tuple[str, ...]) -> Manifest:
    from forerun_compiler.add_engines import add_engines

    with progress_bar() as progress:
        return add_engines(bundle, targets, progress)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The recipe to write.")
@click.option("--in-place", is_flag=True, help="Write it over RECIPE.")
@click.option("--prompts", type=click.IntRange(1), default=8, show_default=True, help="Prompts of the recipe.")
@click.option("--tokens", type=click.IntRange(2), default=64, show_default=True, help="New tokens of each.")
@THREADS
@JSON
def tune(recipe: Path, output: Path | None, in_place: bool, as_json: bool, **settings: Any) -> None:
    """Search the drafter's precision for RECIPE on this machine, and write the recipe with the fastest.

    Every scheme of the drafter's layers, then of the LM head as the drafter multiplies with it, decodes the same
    prompts in turn; most tokens per second wins. The target's scheme is yours: its cost in quality is reported only.

    \b
    Example:  build-engine tune recipes/demo.yaml -o recipes/demo-tuned.yaml
    JSON:     recipe, chosen {drafter, drafter_lm_head}, target, lm_head, machine {cpu, cores, threads, library},
              tried [{step, drafter, drafter_lm_head, acceptance_length, round_us, tokens_per_s}],
              quality null or {kl, perplexity, reference_perplexity, tokens}, held_out, prompts, tokens
    """
    from forerun_compiler.tuning import report_tune, tune_command
    from forerun_compiler.tuning.tune import Settings

    if in_place == (output is not None):
        raise click.UsageError("say where the tuned recipe goes: either -o FILE or --in-place")
    target = recipe if output is None else output
    with progress_bar() as progress:
        found = tune_command.tune_recipe(recipe, target, Settings(**settings), progress, calibrations())
    print_result({"recipe": str(target), **fields(found)}, report_tune.tune_text(found, target), as_json)
