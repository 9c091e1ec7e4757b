"""The losslessness gate: runs every check on a bundle and writes what it found into the manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from forerun_compiler.bundle import FILE_NAME, Manifest, Proof, check_bundle, update_manifest
from forerun_compiler.checkpoint_files import find_source
from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import Guarantee
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.prompts import FILE_NAME as PROMPTS
from forerun_compiler.prompts import read_prompts
from forerun_compiler.proof.gate_runs import (
    Basis,
    Effort,
    Lookup,
    Sampling,
    greedy_gate,
    lookup_gate,
    planned_gate,
    sampling_gate,
)
from forerun_compiler.proof.gates import Comparison, Engine, Reference, Tokens
from forerun_compiler.proof.own_target import OwnTarget, Source, divergence, target_schemes
from forerun_compiler.proof.ties import tie_tolerance
from forerun_compiler.schemes import SCHEMES

LEAST_P = 1e-4


class SourceModel(Reference, Source, Protocol):
    """The source checkpoint in float32: a reference, and what a quantized target is measured against."""


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
    chosen = prompts[: effort.prompts]
    padded, plain, other, greedy_tokens = greedy_gate(engine, basis, chosen, effort.tokens, on_progress)
    planned = planned_gate(engine, basis, chosen, effort, on_progress)
    lookup = lookup_gate(engine, basis, prompts, effort, on_progress)
    sampling = None if basis.reference is None else sampling_gate(engine, basis.reference, prompts, effort, on_progress)
    not_run = () if basis.reference is not None else _missing(source)
    if not padded.prompts:
        not_run += ("no prompt has a token: nothing was compared",)
    if sampling is not None and not sampling.drafted_freedom:
        not_run += ("chi-square test: no prefix occurred often enough for a test of drafted tokens; use more samples",)
    if engine.facts.lookup_len:
        not_run += _nothing_found(lookup, sampling)
    failures = padded.failures + plain.failures + other.failures + planned.failures + lookup.compared.failures
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
        lookup_prompts=lookup.compared.prompts,
        lookup_identical=lookup.compared.identical,
        lookup_ties=lookup.compared.ties,
        lookup_rounds=lookup.rounds,
        lookup_sampled_rounds=0 if sampling is None else sampling.looked_up,
    )


def _guarantee(padded: Comparison) -> Guarantee:
    if not padded.prompts or padded.failures:
        return "none"
    return "bit-identical" if padded.identical == padded.prompts else "equal-up-to-ties"


def _nothing_found(lookup: Lookup, sampling: Sampling | None) -> tuple[str, ...]:
    """A gate that tested nothing has not run."""
    reason = "in no round was anything found in the text; use other prompts"
    greedy = () if lookup.rounds else (f"greedy decoding with prompt lookup: {reason}",)
    if sampling is None or sampling.looked_up:
        return greedy
    return *greedy, f"chi-square test of prompt lookup: {reason}"


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
