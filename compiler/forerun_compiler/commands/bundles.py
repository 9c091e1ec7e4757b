"""The commands that begin with a bundle: run, inspect, verify and bench."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forerun_compiler.commands.shared import (
    BUNDLE,
    DEVICE,
    JSON,
    THREADS,
    fields,
    print_result,
    progress_bar,
    show_device,
)

if TYPE_CHECKING:
    from forerun_compiler.generate import Request


@click.command()
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
@DEVICE
@THREADS
@JSON
def run(bundle: Path, prompt: str, compare: bool, as_json: bool, **options: Any) -> None:
    """Generate from BUNDLE: the text on standard output as it comes, statistics on standard error.

    On a GPU the package that built the engine must be installed, in that version: pip install forerun[tensorrt-rtx].

    \b
    Example:  build-engine run artifacts/demo --prompt "import os" --compare --device auto
    JSON:     text, tokens, finish_reason, statistics {tokens_per_s, acceptance_length, ...};
              with --compare also plain {text, tokens, finish_reason, statistics}, equal, speedup
    """
    from forerun_compiler import generate, report

    text = sys.stdin.read() if prompt == "-" else prompt
    request = generate.Request(prompt=text, **options)
    if not compare:
        generation = generate.generate(bundle, request, _writer(request, as_json), show_device)
        print_result(generation, report.generation_text(generation), as_json, err=True)
        return
    if request.decoding != "speculative":
        raise click.UsageError(f"--compare compares speculative with plain decoding; leave out {request.decoding}")
    versus = generate.compare(bundle, request, _writer(request, as_json), show_device)
    result = {**fields(versus.speculative), "plain": versus.plain, "equal": versus.equal, "speedup": versus.speedup}
    print_result(result, report.versus_text(versus), as_json, err=True)


@click.command()
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
              layers [{layer, part, scheme, parameters, bytes, sensitivity, reason, rounding}]
    """
    from forerun_compiler import report, report_precision
    from forerun_compiler.bundle import check_bundle, check_file, read_manifest
    from forerun_compiler.precision_map import FILE_NAME, read_precision_map

    manifest = check_bundle(bundle) if check else read_manifest(bundle)
    if precision:
        check_file(bundle, manifest, FILE_NAME)
        found = report_precision.summarize(read_precision_map(bundle))
        print_result(found, report_precision.precision_text(found), as_json)
        return
    print_result(manifest, report.inspect_text(manifest, bundle), as_json)


@click.command()
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
              failures, not_run, planned_prompts, planned_identical, planned_ties,
              lookup_prompts, lookup_identical, lookup_ties, lookup_rounds, lookup_sampled_rounds
    """
    from forerun_compiler import report
    from forerun_compiler.proof import gate_runs, prove

    with progress_bar() as progress:
        proof = prove.verify_bundle(bundle, gate_runs.Effort(**effort), progress)
    print_result(proof, report.proof_text(proof), as_json)
    if not proof.lossless:
        raise click.exceptions.Exit(10)


@click.command()
@BUNDLE
@click.option("--prompts", type=click.IntRange(1), default=16, show_default=True, help="Prompts of the bundle.")
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, help="New tokens of each.")
@click.option("-t", "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--save", is_flag=True, help="Store this machine's costs in the bundle: generations are planned by them.")
@click.option("--planning/--no-planning", default=True, help="Plan by the costs measured here, or verify every draft.")
@DEVICE
@THREADS
@JSON
def bench(bundle: Path, save: bool, as_json: bool, **settings: Any) -> None:
    """Measure plain against speculative decoding of BUNDLE on its prompts, and the cost of a round by width.

    \b
    Example:  build-engine bench artifacts/demo
    JSON:     plain {tokens_per_s, round_us}, speculative {tokens_per_s, acceptance_length, acceptance_per_position,
              verified_width, plain_share, looked_up_share, looked_up_accepted, round_us, session_us, loop_us},
              plain_cost_us,
              verify_cost_us {ROWS: us}, planning, speedup,
              machine {cpu, cores, threads, library}, prompts, tokens, temperature, seed
    """
    from forerun_compiler import measure, report

    with progress_bar() as progress:
        result = measure.bench_bundle(bundle, measure.Settings(**settings), save, progress, show_device)
    print_result(result, report.bench_text(result), as_json)


def _writer(request: Request, as_json: bool) -> Callable[[str], None]:
    """Streams text to standard output, after the prompt, so that both read as one text."""
    before = "" if request.chat else request.prompt

    def write(text: str) -> None:
        nonlocal before
        if not as_json:
            click.echo(before + text, nl=False)
        before = ""

    return write
