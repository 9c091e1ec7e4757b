"""Results as text for people. Machines read the JSON of the same dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from forerun_compiler import report_engines
from forerun_compiler.bundle import Manifest, ModelFacts, Proof
from forerun_compiler.generate import Versus
from forerun_compiler.manifest import DTYPE_BYTES
from forerun_compiler.measure import Bench, SpeculativeFigures
from forerun_compiler.resources import Needs, in_gib

if TYPE_CHECKING:
    from forerun import Generation


def needs_text(needs: Needs) -> str:
    """One line, before a build."""
    minutes = max(1, round(needs.seconds / 60))
    return (
        f"{needs.parameters / 1e6:,.1f} M parameters; needs about {in_gib(needs.ram)} of memory, "
        f"{in_gib(needs.disk)} of disk and {minutes} minute{'s' if minutes > 1 else ''}"
    )


def built_text(manifest: Manifest, output: Path) -> str:
    """One line, after a build."""
    size = sum(entry.size for entry in manifest.files.values())
    return f"built {output}: {manifest.model.name}, {in_gib(size)}; next: build-engine verify {output}"


def inspect_text(manifest: Manifest, folder: Path) -> str:
    """Facts, files, precision, engines, proof, cost and recipe."""
    model = manifest.model
    facts = [
        ("bundle", f"{folder}, format {manifest.format}, built {manifest.created} by forerun {manifest.forerun}"),
        ("target", f"{model.target_architecture} from {manifest.source.target}"),
        ("drafter", f"{model.drafter_family} from {manifest.source.drafter}, reads layers {_list(model.taps)}"),
        ("draft", f"{model.draft_len} tokens a round, trained for {model.block_size}"),
        *([("prompt lookup", _lookup_text(model))] if model.lookup_len else []),
        ("verify widths", f"{_list(model.verify_widths)} rows"),
        ("capacity", f"{model.capacity} tokens, prompt read {model.prefill_chunk} at a time"),
        ("caches", f"{cache_bytes(manifest):,} bytes a token"),
        ("vocabulary", f"{model.vocab_size} tokens, end {_list(model.eos_token_ids) or 'none'}"),
        ("precision", ", ".join(f"{part} {value}" for part, value in vars(manifest.precision).items())),
    ]
    lines = [f"{model.name}", *_table(facts), "", "engines", *report_engines.engines_text(manifest), "", "files"]
    lines += _table((name, f"{entry.size:>13,} bytes  {entry.sha256[:16]}") for name, entry in manifest.files.items())
    lines += ["", "proof", *(proof_text(manifest.proof).splitlines() if manifest.proof else ["  none yet: run verify"])]
    none = ["  none yet, so every draft is verified: run bench --save on the machine that runs the bundle"]
    lines += ["", "cost", *(none if not manifest.cost else [])]
    for row in manifest.cost:
        rounds = ", ".join(f"{width}: {time:,.0f}" for width, time in row.round_us.items())
        lines += [f"  {row.fingerprint}", f"    plain {row.plain_us:,.0f} us; round by verified rows, us: {rounds}"]
    return "\n".join([*lines, "", "recipe", *_indent(manifest.recipe)])


def _lookup_text(model: ModelFacts) -> str:
    return f"up to {model.lookup_len} tokens that followed the last {model.lookup_match} of the text before"


def cache_bytes(manifest: Manifest) -> int:
    """What a token of context takes in all caches of the first engine, scales too."""
    graphs = manifest.graphs or next((engine.graphs for engine in manifest.engines if engine.graphs), {})
    states = graphs["round"].states if "round" in graphs else ()
    sizes = [[size for size in state.shape if isinstance(size, int)] for state in states]
    rows = manifest.model.cache_rows
    return sum(
        math.prod(size) // rows * DTYPE_BYTES[state.dtype]
        for state, size in zip(states, sizes, strict=True)
        if len(size) > 2 and size[2] == rows
    )


def proof_text(proof: Proof) -> str:
    """The verdict, then each gate."""
    samples = f"{proof.chi_square_samples} samples, {proof.chi_square_tests} tests"
    rows = [
        ("lossless", "yes" if proof.lossless else "NO" if proof.failures else "not proven"),
        ("guarantee", proof.guarantee),
        ("reference", proof.reference),
        ("speculation on = off", f"{proof.prompts_identical} of {proof.greedy_prompts} prompts, bit for bit"),
        ("tokens compared", str(proof.greedy_tokens)),
        ("plain decoding", _counts(proof.plain_identical, proof.plain_ties, proof.plain_prompts)),
        ("planned decoding", _counts(proof.planned_identical, proof.planned_ties, proof.planned_prompts)),
        *([("prompt lookup", _lookup_proof_text(proof))] if proof.lookup_prompts else []),
        *_reference_rows(proof),
        ("sampling", "not tested" if proof.chi_square_p is None else f"p = {proof.chi_square_p:.3g} ({samples})"),
    ]
    return "\n".join(
        [*_table(rows)]
        + [f"  failed: {failure}" for failure in proof.failures]
        + [f"  not run: {reason}" for reason in proof.not_run]
    )


def _lookup_proof_text(proof: Proof) -> str:
    counts = _counts(proof.lookup_identical, proof.lookup_ties, proof.lookup_prompts)
    return f"{counts}; {proof.lookup_rounds} greedy and {proof.lookup_sampled_rounds} sampled rounds looked up"


def _reference_rows(proof: Proof) -> list[tuple[str, str]]:
    """The comparison with the reference, and for a quantized target how far it is from its source."""
    if proof.reference != "the bundle's own target graph":
        return [("Hugging Face", _counts(proof.hf_identical, proof.hf_ties, proof.hf_prompts))]
    far = "not measured: the source checkpoint is not there"
    if proof.kl_to_source is not None:
        far = f"{proof.kl_to_source:.3g} nats a token from the source in float32 (no gate)"
    return [
        ("target graph", _counts(proof.graph_identical, proof.graph_ties, proof.graph_prompts)),
        ("divergence", far),
    ]


def bench_text(bench: Bench) -> str:
    """Rates, acceptance, and the cost by width."""
    fast = bench.speculative
    per_position = " ".join(f"{share:.2f}" for share in fast.acceptance_per_position)
    cost = ", ".join(f"{width}: {time:,.0f}" for width, time in bench.verify_cost_us.items())
    what = "greedy" if bench.temperature == 0 else f"temperature {bench.temperature:g}"
    rows = [
        ("machine", bench.machine.fingerprint),
        ("measured", f"{bench.prompts} prompts, {bench.tokens} tokens, {what}"),
        ("plain", f"{bench.plain.tokens_per_s:,.1f} tokens/s"),
        ("speculative", f"{fast.tokens_per_s:,.1f} tokens/s"),
        ("speedup", f"{bench.speedup:.2f} x"),
        ("plan", _plan_text(bench)),
        *([("looked up", _looked_up_text(fast))] if fast.looked_up_share else []),
        ("acceptance length", f"{fast.acceptance_length:.2f} tokens a round"),
        ("accepted by position", per_position),
        ("round", f"{fast.round_us:,.0f} us: library {fast.session_us:,.0f}, loop {fast.loop_us:,.1f}"),
        ("round by rows, us", f"plain {bench.plain_cost_us:,.0f}; {cost}"),
    ]
    return "\n".join(_table(rows))


def _looked_up_text(fast: SpeculativeFigures) -> str:
    return f"{fast.looked_up_share:.0%} of rounds, {fast.looked_up_accepted:.2f} of their draft tokens kept"


def _plan_text(bench: Bench) -> str:
    if not bench.planning:
        return "fixed: every draft is verified"
    fast = bench.speculative
    return f"by these costs: {fast.verified_width:.1f} rows a verifying round, {fast.plain_share:.0%} of rounds plain"


def generation_text(generation: Generation) -> str:
    """One line of statistics."""
    found = generation.statistics
    return (
        f"{found.new_tokens} tokens in {found.rounds} rounds ({generation.finish_reason}), "
        f"acceptance length {found.acceptance_length:.2f}, {found.tokens_per_s:,.1f} tokens/s"
    )


def versus_text(versus: Versus) -> str:
    """What a demo ends with."""
    fast, slow = versus.speculative.statistics, versus.plain.statistics
    rows = [
        ("acceptance length", f"{fast.acceptance_length:.2f} tokens a round"),
        ("plain", f"{slow.tokens_per_s:,.1f} tokens/s"),
        ("speculative", f"{fast.tokens_per_s:,.1f} tokens/s"),
        ("ratio", f"{versus.speedup:.2f} x"),
        ("output", "equal" if versus.equal else "different"),
    ]
    return "\n".join(_table(rows))


def _counts(identical: int, ties: int, total: int) -> str:
    if not total:
        return "not compared"
    return f"{identical} of {total} prompts equal" + (f", {ties} parted at a tie" if ties else "")


def _table(rows: Iterable[tuple[str, str]]) -> list[str]:
    entries = list(rows)
    width = max((len(name) for name, _ in entries), default=0)
    return [f"  {name:{width}}  {value}" for name, value in entries]


def _indent(text: str) -> list[str]:
    return [f"  {line}".rstrip() for line in text.splitlines()]


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, values))
