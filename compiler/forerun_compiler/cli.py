"""The command line: parse, call one function, print. Only click is imported before a command runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forerun_compiler import __version__
from forerun_compiler.exit_codes import INTERRUPTED, TABLE, TERMINATED, explain

if TYPE_CHECKING:
    from forerun_compiler.generate import Request
    from forerun_compiler.progress import StageProgress

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
BUNDLE = click.argument("bundle", type=click.Path(path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on one stdout line.")
THREADS = click.option("--threads", type=click.IntRange(1), help="Threads a round may use. [default: all cores]")


@click.group(context_settings=SETTINGS, epilog=TABLE)
@click.version_option(__version__, prog_name="build-engine")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def commands(debug: bool) -> None:
    """Compile a target and its drafter into one bundle, run it, and prove it lossless.

    \b
    build-engine build recipes/demo.yaml -o artifacts/demo
    build-engine run artifacts/demo --prompt "import os"
    """


@commands.command()
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
        _print({"bundle": str(output), "needs": needs}, "it fits", as_json)
        return
    with _progress() as progress:
        manifest = building.build(parsed, output, progress, cache=_calibrations())
    seconds = round(time.monotonic() - start, 3)
    result = {"bundle": str(output), "needs": needs, "seconds": seconds, "files": manifest.files}
    _print(result, report.built_text(manifest, output), as_json)


@commands.command()
@BUNDLE
@click.option("-p", "--prompt", required=True, help="The text to continue; - reads it from standard input.")
@click.option("--chat", is_flag=True, help="Send the prompt as the user's message of a chat.")
@click.option("-n", "--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("-t", "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option(
    "--decoding", type=click.Choice(["speculative", "plain", "padded"]), default="speculative", show_default=True
)
@click.option("--compare", is_flag=True, help="Generate by plain decoding too and compare speed and output.")
@THREADS
@JSON
def run(bundle: Path, prompt: str, compare: bool, as_json: bool, **options: Any) -> None:
    """Generate from BUNDLE: the text on standard output as it comes, statistics on standard error.

    \b
    Example:  build-engine run artifacts/demo --prompt "import os" --compare
    JSON:     text, tokens, finish_reason, statistics {tokens_per_s, acceptance_length, ...};
              with --compare also plain {text, tokens, finish_reason, statistics}, equal, speedup
    """
    from forerun_compiler import generate, report

    text = sys.stdin.read() if prompt == "-" else prompt
    request = generate.Request(prompt=text, **options)
    if not compare:
        generation = generate.generate(bundle, request, _writer(request, as_json))
        _print(generation, report.generation_text(generation), as_json, err=True)
        return
    if request.decoding != "speculative":
        raise click.UsageError(f"--compare compares speculative with plain decoding; leave out {request.decoding}")
    versus = generate.compare(bundle, request, _writer(request, as_json))
    result = {**_fields(versus.speculative), "plain": versus.plain, "equal": versus.equal, "speedup": versus.speedup}
    _print(result, report.versus_text(versus), as_json, err=True)


@commands.command()
@BUNDLE
@click.option("--check", is_flag=True, help="Read every file and compare its hash, not the manifest alone.")
@click.option("--precision", is_flag=True, help="Show what each layer became instead, and why some stayed float32.")
@JSON
def inspect(bundle: Path, check: bool, precision: bool, as_json: bool) -> None:
    """Show what BUNDLE is: facts, files, precision, engines, proof, cost and recipe.

    \b
    Example:  build-engine inspect artifacts/demo
    JSON:     the keys of manifest.json (artifacts/README.md), without the seal; with --precision
              bytes, totals [{part, scheme, layers, parameters, bytes, share}],
              layers [{layer, part, scheme, parameters, bytes, sensitivity, reason}]
    """
    from forerun_compiler import report, report_precision
    from forerun_compiler.bundle import check_bundle, check_file, read_manifest
    from forerun_compiler.precision_map import FILE_NAME, read_precision_map

    manifest = check_bundle(bundle) if check else read_manifest(bundle)
    if precision:
        check_file(bundle, manifest, FILE_NAME)
        found = report_precision.summarize(read_precision_map(bundle))
        _print(found, report_precision.precision_text(found), as_json)
        return
    _print(manifest, report.inspect_text(manifest, bundle), as_json)


@commands.command()
@BUNDLE
@click.option("--prompts", type=click.IntRange(1), default=64, show_default=True, help="Prompts decoded greedily.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="New tokens of each.")
@click.option("--sampled-prompts", type=click.IntRange(1), default=4, show_default=True)
@click.option("--samples", type=click.IntRange(1), default=400, show_default=True, help="Samples of each of these.")
@JSON
def verify(bundle: Path, as_json: bool, **effort: int) -> None:
    """Prove that speculation does not change what BUNDLE writes, and store the proof in it.

    Compares greedy decoding with speculation on and off through the same kernels, with the plain graph and with a
    reference, and tests sampling against the reference's probabilities. The reference is Hugging Face in float32, or
    the bundle's own target graph if the target is quantized. Exit code 10 if it is not lossless.

    \b
    Example:  build-engine verify artifacts/demo
    JSON:     lossless, guarantee, reference, greedy_prompts, greedy_tokens, prompts_identical, plain_prompts,
              plain_identical, plain_ties, hf_prompts, hf_identical, hf_ties, graph_prompts, graph_identical,
              graph_ties, tie_tolerance, chi_square_p, chi_square_tests, chi_square_samples, kl_to_source,
              failures, not_run
    """
    from forerun_compiler import report
    from forerun_compiler.proof import prove

    with _progress() as progress:
        proof = prove.verify_bundle(bundle, prove.Effort(**effort), progress)
    _print(proof, report.proof_text(proof), as_json)
    if not proof.lossless:
        raise click.exceptions.Exit(10)


@commands.command()
@BUNDLE
@click.option("--prompts", type=click.IntRange(1), default=16, show_default=True, help="Prompts of the bundle.")
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, help="New tokens of each.")
@click.option("-t", "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--save", is_flag=True, help="Store this machine's cost table in the bundle.")
@THREADS
@JSON
def bench(bundle: Path, save: bool, as_json: bool, **settings: Any) -> None:
    """Measure plain against speculative decoding of BUNDLE on its prompts, and the cost of a round by width.

    \b
    Example:  build-engine bench artifacts/demo
    JSON:     plain {tokens_per_s, round_us}, speculative {tokens_per_s, acceptance_length, acceptance_per_position,
              round_us, session_us, loop_us}, verify_cost_us {ROWS: us}, speedup,
              machine {cpu, cores, threads, library}, prompts, tokens, temperature, seed
    """
    from forerun_compiler import measure, report

    with _progress() as progress:
        result = measure.bench_bundle(bundle, measure.Settings(**settings), save, progress)
    _print(result, report.bench_text(result), as_json)


@commands.command()
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
    with _progress() as progress:
        found = tune_command.tune_recipe(recipe, target, Settings(**settings), progress, _calibrations())
    _print({"recipe": str(target), **_fields(found)}, report_tune.tune_text(found, target), as_json)


def _writer(request: Request, as_json: bool) -> Callable[[str], None]:
    """Streams text to standard output, after the prompt, so that both read as one text."""
    before = "" if request.chat else request.prompt

    def write(text: str) -> None:
        nonlocal before
        if not as_json:
            click.echo(before + text, nl=False)
        before = ""

    return write


def _calibrations() -> Path:
    """Where calibrations are kept between builds: in the user's cache folder, as the XDG base directories have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forerun" / "calibrations"


def _progress() -> StageProgress:
    from forerun_compiler.progress import StageProgress

    return StageProgress(sys.stderr)


def _print(result: Any, text: str, as_json: bool, err: bool = False) -> None:
    if as_json:
        import json

        click.echo(json.dumps(result if isinstance(result, dict) else _fields(result), default=_fields))
        return
    if err:
        click.echo()  # ends the streamed text
    click.echo(text, err=err)


def _fields(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)


def execute(arguments: list[str]) -> int:
    """Run one command line; returns the exit code. Errors are one line on standard error, never a traceback."""
    try:
        # Not commands.main(): it would turn interrupts and closed pipes into exit codes of its own.
        with commands.make_context("build-engine", list(arguments)) as context:
            commands.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        click.echo("\ninterrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has left: nobody to tell, now and when Python flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in arguments:
            raise
        line, code = explain(error)
        click.echo(f"error: {line}", err=True)
        return code


def main() -> None:
    """The console script. Ended by SIGTERM it still removes what it keeps in temporary folders."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    sys.exit(execute(sys.argv[1:]))
