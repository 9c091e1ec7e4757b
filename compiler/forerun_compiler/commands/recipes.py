"""The commands that begin with a recipe: build and tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from forerun_compiler.commands.shared import JSON, THREADS, calibrations, fields, print_result, progress_bar


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The bundle's folder.")
@click.option("--dry-run", is_flag=True, help="State what the build needs, check that it fits, and stop.")
@JSON
def build(recipe: Path, output: Path, dry_run: bool, as_json: bool) -> None:
    """Build a bundle from RECIPE; an earlier one at the output is replaced when the new one is complete.

    \b
    Example:  build-engine build recipes/demo.yaml -o artifacts/demo
    JSON:     bundle, needs {parameters, ram, disk, seconds}, seconds, files {NAME: {size, sha256}}
              (the last two not with --dry-run; sizes in bytes)
    """
    import time

    from forerun_compiler import build as building
    from forerun_compiler import report
    from forerun_compiler.recipe import load_recipe

    start = time.monotonic()
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
