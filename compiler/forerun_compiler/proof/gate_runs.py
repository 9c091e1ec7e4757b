"""The gates of a proof, each run over all of its prompts: how much is tested, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forerun_compiler.manifest import ProofReference
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.proof.chi_square import ChiSquare
from forerun_compiler.proof.gates import (
    Comparison,
    Engine,
    Reference,
    Tokens,
    check_sampling,
    compare,
    drafter_ways,
    generate,
    plan_pauses,
    plan_widths,
)
from forerun_compiler.proof.lookup_gates import check_greedy, check_looked_up_sampling


@dataclass(frozen=True)
class Effort:
    """How much is tested: prompts decoded greedily, tokens of each; prompts sampled, samples of each, their length.

    `paused_prompts` are decoded by a plan that pauses, up to `paused_tokens` each: more than the longest first pause.
    In a bundle that looks up, `lookup_prompts` are decoded so that it finds something, `lookup_sampled` sampled.
    """

    prompts: int = 64
    tokens: int = 64
    sampled_prompts: int = 4
    samples: int = 400
    sampled_prompt_tokens: int = 24
    paused_prompts: int = 2
    paused_tokens: int = 200
    lookup_prompts: int = 8
    lookup_sampled: int = 2


@dataclass(frozen=True)
class Sampling:
    """The chi-square gate: p of all tests together, the degrees of freedom that drafts had a part in, samples."""

    p: float
    tests: int
    drafted_freedom: int
    samples: int
    looked_up: int


@dataclass(frozen=True)
class Lookup:
    """Greedy decoding with prompt lookup against plain decoding, and the rounds that looked up."""

    compared: Comparison
    rounds: int


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


def greedy_gate(
    engine: Engine, basis: Basis, prompts: Sequence[Tokens], count: int, on_progress: OnProgress
) -> tuple[Comparison, Comparison, Comparison, int]:
    """Speculative against padded, plain and the reference's own decoding, and the number of speculative tokens."""
    ways: dict[str, Callable[[Tokens], Tokens]] = {
        "padded": lambda prompt: generate(engine, prompt, count, "padded").tokens,
        "plain": lambda prompt: generate(engine, prompt, count, "plain").tokens,
    }
    other = basis.name.removeprefix("the bundle's own ")
    reference = basis.reference
    if reference is not None:
        ways[other] = lambda prompt: reference.greedy(prompt, count)
    results = {other: Comparison()} | dict.fromkeys(ways, Comparison())
    total = 0
    for index, prompt in enumerate(prompts):
        on_progress("greedy identity", index, len(prompts))
        found = generate(engine, prompt, count, "speculative").tokens
        total += len(found)
        for what, decode in ways.items():
            name = f"prompt {index}: speculative and {what} decoding"
            tie = basis.same_width_tie if what == "padded" else basis.tie
            results[what] += compare(name, prompt, found, decode(prompt), reference, tie)
    on_progress("greedy identity", len(prompts), len(prompts))
    return results["padded"], results["plain"], results[other], total


def planned_gate(
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
        found, plain = (
            generate(engine, text, count, way, planning=True, lookup=True).tokens for way in ("speculative", "plain")
        )
        name = f"prompt {index % len(prompts)}: planned and plain decoding"
        result += compare(name, text, found, plain, basis.reference, basis.tie)
    on_progress("planned decoding", len(prompts) + last, len(prompts) + last)
    return result


def lookup_gate(
    engine: Engine, basis: Basis, prompts: Sequence[Tokens], effort: Effort, on_progress: OnProgress
) -> Lookup:
    """Greedy decoding with prompt lookup, of every draft that is found; nothing in a bundle without it."""
    result, rounds = Comparison(), 0
    chosen = prompts[: effort.lookup_prompts] if engine.facts.lookup_len else ()
    for index, prompt in enumerate(chosen):
        on_progress("prompt lookup", index, len(chosen))
        found, looked_up = check_greedy(engine, basis.reference, prompt, effort.tokens, basis.tie, f"prompt {index}")
        result, rounds = result + found, rounds + looked_up
    return Lookup(result, rounds)


def sampling_gate(
    engine: Engine, reference: Reference, prompts: Sequence[Tokens], effort: Effort, on_progress: OnProgress
) -> Sampling:
    """Chi-square tests of sampling by the drafter's drafts, and in a bundle that looks up by those that it finds."""
    chosen = [prompt[: effort.sampled_prompt_tokens] for prompt in prompts[: effort.sampled_prompts]]
    found = chosen[: effort.lookup_sampled] if engine.facts.lookup_len else []
    total, done, tests, drafted, looked_up = ChiSquare(), 0, 0, 0, 0

    def on_sample() -> None:
        nonlocal done
        done += 1
        on_progress("sampling", done, (len(chosen) + len(found)) * effort.samples)

    for index, prompt in enumerate((*chosen, *found)):
        seed, count = index << 32, effort.samples
        if index < len(chosen):
            sampled = check_sampling(engine, reference, prompt, count, seed, on_sample, drafter_ways(engine))
            drafted += sum(test.freedom for test in sampled.tests[1:])
        else:
            sampled = check_looked_up_sampling(engine, reference, prompt, count, seed, on_sample)
            looked_up += sampled.looked_up
        total = sum(sampled.tests, total)
        tests += sum(test.freedom > 0 for test in sampled.tests)
    return Sampling(total.p, tests, drafted, done, looked_up)
