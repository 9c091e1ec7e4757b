"""The losslessness gate: runs every check on a bundle and writes what it found into the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from forerun_compiler.bundle import FILE_NAME, Manifest, Proof, check_bundle, update_manifest
from forerun_compiler.checkpoint_files import find_source
from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import Guarantee, ProofReference
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.prompts import FILE_NAME as PROMPTS
from forerun_compiler.prompts import read_prompts
from forerun_compiler.proof.chi_square import ChiSquare
from forerun_compiler.proof.gates import (
    Comparison,
    Engine,
    Reference,
    Tokens,
    check_sampling,
    compare,
    generate,
    plan_pauses,
    plan_widths,
)
from forerun_compiler.proof.own_target import OwnTarget, Source, divergence, target_schemes
from forerun_compiler.proof.ties import tie_tolerance
from forerun_compiler.schemes import SCHEMES

LEAST_P = 1e-4


class SourceModel(Reference, Source, Protocol):
    """The source checkpoint in float32: a reference, and what a quantized target is measured against."""


@dataclass(frozen=True)
class Effort:
    """How much is tested: prompts decoded greedily, tokens of each; prompts sampled, samples of each, their length.

    `paused_prompts` are decoded by a plan that pauses, up to `paused_tokens` each: more than the longest first pause.
    """

    prompts: int = 64
    tokens: int = 64
    sampled_prompts: int = 4
    samples: int = 400
    sampled_prompt_tokens: int = 24
    paused_prompts: int = 2
    paused_tokens: int = 200


@dataclass(frozen=True)
class Sampling:
    """The chi-square gate: p of all tests together, the degrees of freedom that drafts had a part in, samples."""

    p: float
    tests: int
    drafted_freedom: int
    samples: int


@dataclass(frozen=True)
class Basis:
    """What a bundle is compared with, and how near logits must lie for a tie.

    `tie` is for ways of decoding that compute rows at different widths, `same_width_tie` for speculation on and off:
    None where the kernels compute the very same numbers, so that every difference is a fault.
    """

    name: ProofReference
    reference: Reference | None
    tie: float
    same_width_tie: float | None


def verify_bundle(
    folder: Path,
    effort: Effort,
    on_progress: OnProgress,
    open_engine: Callable[[Path], Engine] | None = None,
    open_source: Callable[[Manifest, Path], SourceModel | None] | None = None,
) -> Proof:
    """Run the gates on the bundle in `folder` and write the proof into its manifest.

    `open_engine` and `open_source` are for tests.

    Raises:
        BundleError: the bundle is damaged, or its prompts are.
        CheckpointError: the source checkpoint is there but cannot be loaded.
    """
    on_progress("check files", 0, 1)
    manifest = check_bundle(folder)
    if PROMPTS not in manifest.files:
        raise BundleError(
            f"{folder / FILE_NAME}: expected {PROMPTS} among the files, found none; build the bundle again"
        )
    engine = (open_engine or _open_engine)(folder)
    tokens = min(effort.tokens, engine.facts.capacity // 2)
    # A text that a capacity or an end token cuts would end the comparison early, so long prompts are cut beforehand.
    texts = (tuple(engine.encode(text)) for text in read_prompts(folder / PROMPTS, BundleError))
    prompts = [text[: engine.facts.capacity - tokens - 1] for text in texts if text]
    source = (open_source or _open_source)(manifest, folder)
    schemes = target_schemes(folder, manifest)
    own = OwnTarget(folder, manifest, engine.facts.threads) if schemes else None
    basis = choose_basis(schemes, own, source)
    proof = prove(engine, basis, prompts, replace(effort, tokens=tokens), on_progress, manifest.source.target)
    if own is not None and source is not None:
        on_progress("divergence from the source", 0, 1)
        proof = replace(proof, kl_to_source=divergence(own.round, source, prompts))
    update_manifest(folder, lambda current: replace(current, proof=proof))
    return proof


def choose_basis(schemes: frozenset[str], own: Reference | None, source: Reference | None) -> Basis:
    """The source model where the target is float32, else the bundle's own target graph.

    `schemes` are those of the target's quantized layers; for these `own` must be there.
    """
    tie = tie_tolerance(schemes)
    if not schemes:
        return Basis("none" if source is None else "Hugging Face", source, tie, tie)
    by_row = all(SCHEMES[scheme].by_row for scheme in schemes)
    return Basis("the bundle's own target graph", own, tie, None if by_row else tie)


def prove(
    engine: Engine, basis: Basis, prompts: Sequence[Tokens], effort: Effort, on_progress: OnProgress, source: str
) -> Proof:
    """Run the gates; `source` names the source checkpoint where the reference is missing."""
    padded, plain, other, greedy_tokens = _greedy(engine, basis, prompts[: effort.prompts], effort.tokens, on_progress)
    planned = _planned(engine, basis, prompts[: effort.prompts], effort, on_progress)
    sampling = None if basis.reference is None else _sampling(engine, basis.reference, prompts, effort, on_progress)
    not_run = () if basis.reference is not None else _missing(source)
    if not padded.prompts:
        not_run += ("no prompt has a token: nothing was compared",)
    if sampling is not None and not sampling.drafted_freedom:
        not_run += ("chi-square test: no prefix occurred often enough for a test of drafted tokens; use more samples",)
    failures = padded.failures + plain.failures + other.failures + planned.failures
    if sampling is not None and sampling.p < LEAST_P:
        failures += (f"speculative sampling does not follow the reference's probabilities: p = {sampling.p:.2g}",)
    by_source = other if basis.name == "Hugging Face" else Comparison()
    by_graph = other if basis.name == "the bundle's own target graph" else Comparison()
    return Proof(
        lossless=not failures and not not_run,
        guarantee=_guarantee(padded),
        reference=basis.name,
        greedy_prompts=padded.prompts,
        greedy_tokens=greedy_tokens,
        prompts_identical=padded.identical,
        plain_prompts=plain.prompts,
        plain_identical=plain.identical,
        plain_ties=plain.ties,
        hf_prompts=by_source.prompts,
        hf_identical=by_source.identical,
        hf_ties=by_source.ties,
        graph_prompts=by_graph.prompts,
        graph_identical=by_graph.identical,
        graph_ties=by_graph.ties,
        tie_tolerance=basis.tie,
        chi_square_p=None if sampling is None else sampling.p,
        chi_square_tests=0 if sampling is None else sampling.tests,
        chi_square_samples=0 if sampling is None else sampling.samples,
        kl_to_source=None,
        failures=failures,
        not_run=not_run,
        planned_prompts=planned.prompts,
        planned_identical=planned.identical,
        planned_ties=planned.ties,
    )


def _greedy(
    engine: Engine, basis: Basis, prompts: Sequence[Tokens], count: int, on_progress: OnProgress
) -> tuple[Comparison, Comparison, Comparison, int]:
    """Speculative against padded, plain and the reference's own decoding, and the number of speculative tokens."""
    ways: dict[str, Callable[[Tokens], Tokens]] = {
        "padded": lambda prompt: generate(engine, prompt, count, "padded"),
        "plain": lambda prompt: generate(engine, prompt, count, "plain"),
    }
    other = basis.name.removeprefix("the bundle's own ")
    reference = basis.reference
    if reference is not None:
        ways[other] = lambda prompt: reference.greedy(prompt, count)
    results = {other: Comparison()} | dict.fromkeys(ways, Comparison())
    total = 0
    for index, prompt in enumerate(prompts):
        on_progress("greedy identity", index, len(prompts))
        found = generate(engine, prompt, count, "speculative")
        total += len(found)
        for what, decode in ways.items():
            name = f"prompt {index}: speculative and {what} decoding"
            tie = basis.same_width_tie if what == "padded" else basis.tie
            results[what] += compare(name, prompt, found, decode(prompt), reference, tie)
    on_progress("greedy identity", len(prompts), len(prompts))
    return results["padded"], results["plain"], results[other], total


def _planned(
    engine: Engine, basis: Basis, prompts: Sequence[Tokens], effort: Effort, on_progress: OnProgress
) -> Comparison:
    """Planned against plain decoding: rounds of all widths, and for some prompts pauses and what follows them."""
    result, last = Comparison(), min(effort.paused_prompts, len(prompts))
    for index, prompt in enumerate((*prompts, *prompts[:last])):
        on_progress("planned decoding", index, len(prompts) + last)
        pauses = index >= len(prompts)
        (plan_pauses if pauses else plan_widths)(engine)
        count = min(effort.paused_tokens, engine.facts.capacity // 2) if pauses else effort.tokens
        text = prompt[: max(1, engine.facts.capacity - count - 1)]
        found, plain = (generate(engine, text, count, way, planning=True) for way in ("speculative", "plain"))
        name = f"prompt {index % len(prompts)}: planned and plain decoding"
        result += compare(name, text, found, plain, basis.reference, basis.tie)
    on_progress("planned decoding", len(prompts) + last, len(prompts) + last)
    return result


def _sampling(
    engine: Engine, reference: Reference, prompts: Sequence[Tokens], effort: Effort, on_progress: OnProgress
) -> Sampling:
    chosen = [prompt[: effort.sampled_prompt_tokens] for prompt in prompts[: effort.sampled_prompts]]
    total, done, tests, drafted = ChiSquare(), 0, 0, 0

    def on_sample() -> None:
        nonlocal done
        done += 1
        on_progress("sampling", done, len(chosen) * effort.samples)

    for index, prompt in enumerate(chosen):
        first, *others = check_sampling(engine, reference, prompt, effort.samples, index << 32, on_sample)
        total = sum(others, total + first)
        tests += sum(test.freedom > 0 for test in (first, *others))
        drafted += sum(test.freedom for test in others)
    return Sampling(total.p, tests, drafted, done)


def _guarantee(padded: Comparison) -> Guarantee:
    if not padded.prompts or padded.failures:
        return "none"
    return "bit-identical" if padded.identical == padded.prompts else "equal-up-to-ties"


def _missing(source: str) -> tuple[str, ...]:
    where = f"the source checkpoint {source} is not there"
    return f"comparison with Hugging Face: {where}", f"chi-square test: {where}"


def _open_engine(folder: Path) -> Engine:
    import forerun

    return forerun.load(folder)


def _open_source(manifest: Manifest, folder: Path) -> SourceModel | None:
    source = find_source(manifest.source.target, folder)
    if source is None:
        return None
    from forerun_compiler.proof.hugging_face import HuggingFaceReference

    return HuggingFaceReference(source, manifest.model.eos_token_ids)
