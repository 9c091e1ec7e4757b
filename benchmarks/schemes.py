"""Every quantization scheme on one pair: bytes, quality, acceptance, the time of a round, tokens a second.

    python benchmarks/schemes.py --pair demo                            # builds the bundles, prints the table
    python benchmarks/schemes.py --pair 120m --write                    # inflates the demo pair first; see inflate.py
    python benchmarks/schemes.py --pair 600m --schemes float32 int8 --quality-tokens 500 --write

Everything that is timed is open at once and takes turns, in blocks of runs and prompt by prompt. Schemes that this
processor can only emulate give their bytes, quality and acceptance, one after the other, and no times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from decoding import Decoded, decode_in_turn
from in_turn import Blocks, bind_graph, cached_tokens, feed_widths, make_states, time_in_turn
from pair_bundles import PAIRS, Bundle, PairBuilder, check_memory, count_parameters, held_out_tokens, prepare_pair
from result_files import command_line, machine_name, versions, write_results
from scheme_recipes import CANDIDATES
from scheme_table import WIDTHS, Report, Row, Times, render_json, render_markdown

import forerun
from forerun_compiler.bundle import read_manifest
from forerun_compiler.errors import ForerunError
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.ort_session import open_session
from forerun_compiler.progress import StageProgress
from forerun_compiler.proof.gate_runs import Effort
from forerun_compiler.proof.prove import verify_bundle
from forerun_compiler.proof.quality import Quality, measure_quality
from forerun_compiler.schemes import DENSE

WORK = Path("artifacts/schemes")
VERIFY = Effort(prompts=16, tokens=48, sampled_prompts=2, samples=200)
"""Of --verify: less than `build-engine verify` does by itself."""


@dataclass(frozen=True)
class Settings:
    """How much is measured."""

    threads: int
    prompts: int
    tokens: int
    quality_tokens: int
    blocks: Blocks


def measure_rounds(
    bundles: Sequence[Bundle], settings: Settings, on_progress: OnProgress
) -> dict[str, dict[int, float]]:
    """Median microseconds by bundle and token rows; 0 rows is a step of the plain graph."""
    calls = {}
    for done, bundle in enumerate(bundles):
        on_progress("open sessions", done, len(bundles))
        facts, graphs = bundle.manifest.model, bundle.manifest.graphs
        feeds = {0: (1, 0), **feed_widths(facts, WIDTHS)}
        for kind, rows in (("plain", [0]), ("round", [width for width in feeds if width])):
            graph = graphs[kind]
            session = open_session(bundle.folder / graph.file, settings.threads)
            states = make_states(graph)
            calls.update({(bundle.name, n): bind_graph(session, graph, facts, states, feeds[n]) for n in rows})
    medians: dict[str, dict[int, float]] = {bundle.name: {} for bundle in bundles}
    for (name, rows), times in time_in_turn(calls, settings.blocks, on_progress).items():
        medians[name][rows] = statistics.median(times)
    return medians


def decode(
    bundles: Sequence[Bundle], prompts: Sequence[Sequence[int]], settings: Settings, on_progress: OnProgress
) -> dict[str, Decoded]:
    """Decode with bundles that this processor has kernels for in turn, then with the emulated ones, one at a time."""
    timed = [bundle for bundle in bundles if not bundle.candidate.is_emulated]
    found: dict[str, Decoded] = {}
    for group in (timed, *([bundle] for bundle in bundles if bundle.candidate.is_emulated)):
        if not group:
            continue
        with ExitStack() as stack:
            engines = {
                bundle.name: stack.enter_context(forerun.load(bundle.folder, threads=settings.threads))
                for bundle in group
            }
            found |= decode_in_turn(engines, prompts, settings.tokens, on_progress)
    return found


def measure_qualities(
    bundles: Sequence[Bundle], texts: Sequence[Sequence[int]], threads: int, on_progress: OnProgress
) -> dict[str, Quality]:
    """Every bundle against the float32 one, which against itself must come out as zero."""
    reference = bundles[0].folder
    found = {}
    for bundle in bundles:

        def show(stage: str, done: int, total: int, name: str = bundle.name) -> None:
            on_progress(f"{name}: {stage}", done, total)

        found[bundle.name] = measure_quality(bundle.folder, reference, texts, show, threads)
    return found


def make_rows(
    bundles: Sequence[Bundle],
    qualities: dict[str, Quality],
    rounds: dict[str, dict[int, float]],
    decoded: dict[str, Decoded],
) -> list[Row]:
    rows = []
    for bundle in bundles:
        quality, answers, times = qualities[bundle.name], decoded[bundle.name], None
        if bundle.name in rounds:
            medians = dict(rounds[bundle.name])
            plain_us = medians.pop(0)
            times = Times(
                plain_us, medians, answers.plain_tokens_per_s, answers.speculative_tokens_per_s, answers.speedup
            )
        proof = bundle.manifest.proof
        rows.append(
            Row(
                scheme=bundle.name,
                weight_bytes=bundle.weight_bytes,
                file_bytes=bundle.file_bytes,
                kl=quality.kl,
                perplexity=quality.perplexity,
                reference_perplexity=quality.reference_perplexity,
                acceptance_length=answers.acceptance_length,
                prompts=answers.prompts,
                prompts_equal=answers.prompts_equal,
                guarantee=None if proof is None else proof.guarantee,
                times=times,
            )
        )
    return rows


def measure_pair(
    pair: str, bundles: Sequence[Bundle], recipes: Path, settings: Settings, on_progress: OnProgress
) -> Report:
    """Measure all bundles of a pair; the first one is the float32 one."""
    timed = [bundle for bundle in bundles if not bundle.candidate.is_emulated]
    check_memory(timed, recipes)
    prompts, texts = held_out_tokens(bundles[0].folder, settings.prompts, settings.quality_tokens)
    qualities = measure_qualities(bundles, texts, settings.threads, on_progress)
    rounds = measure_rounds(timed, settings, on_progress)
    decoded = decode(bundles, prompts, settings, on_progress)
    facts = bundles[0].manifest.model
    target, drafter = count_parameters(pair)
    return Report(
        pair=pair,
        target_parameters=target,
        drafter_parameters=drafter,
        machine=machine_name(settings.threads),
        versions=versions(),
        command=command_line(),
        created=datetime.now(UTC).date().isoformat(),
        draft_len=facts.draft_len,
        cached_tokens=cached_tokens(facts),
        quality_tokens=next(iter(qualities.values())).tokens,
        prompts=len(prompts),
        tokens=settings.tokens,
        feeds=feed_widths(facts, WIDTHS),
        rows=make_rows(bundles, qualities, rounds, decoded),
    )


def run_pair(pair: str, names: Sequence[str], asked: argparse.Namespace, settings: Settings) -> None:
    """Build, prove if asked to, measure, print, and write if asked to."""
    with StageProgress(sys.stderr) as progress:
        recipes = prepare_pair(pair, asked.work)
        builder, bundles = PairBuilder(recipes, progress), []
        for name in names:
            folder = asked.work / "bundles" / f"{pair}-{name}"
            bundle = builder.build(CANDIDATES[name], folder, asked.keep)
            if asked.verify:
                verify_bundle(folder, VERIFY, progress)
                bundle = replace(bundle, manifest=read_manifest(folder))
            bundles.append(bundle)
        report = measure_pair(pair, bundles, recipes, settings, progress)
    print(render_markdown(report))
    if asked.write:
        write_results(f"schemes-{pair}", settings.threads, render_json(report), render_markdown(report))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, nargs="+", default=["demo"])
    parser.add_argument("--schemes", choices=CANDIDATES, nargs="+", default=list(CANDIDATES), metavar="SCHEME")
    parser.add_argument("--work", type=Path, default=WORK, help="where inflated pairs and bundles are put")
    parser.add_argument("--keep", action="store_true", help="take bundles of the same recipes that are there already")
    parser.add_argument("--verify", action="store_true", help="also run a short `verify` on every bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128, help="tokens decoded after each prompt")
    parser.add_argument("--quality-tokens", type=int, default=4000)
    parser.add_argument("--blocks", type=int, default=Blocks.count)
    parser.add_argument("--write", action="store_true", help="write the table of each pair to benchmarks/results")
    asked = parser.parse_args()
    settings = Settings(asked.threads, asked.prompts, asked.tokens, asked.quality_tokens, Blocks(asked.blocks))
    names = [DENSE, *(name for name in asked.schemes if name != DENSE)]
    try:
        for pair in asked.pair:
            run_pair(pair, names, asked, settings)
    except ForerunError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
