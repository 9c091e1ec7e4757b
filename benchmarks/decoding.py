"""Greedy decoding of the same prompts by several bundles, plain and speculative, all of them taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forerun_compiler.measure import Engine
from forerun_compiler.on_progress import OnProgress

WAYS = ("plain", "speculative")


@dataclass(frozen=True)
class Run:
    """The decode rounds of one generation; reading the prompt is not in them."""

    tokens: tuple[int, ...]
    rounds: int
    time_us: float

    @property
    def tokens_per_s(self) -> float:
        return len(self.tokens) / self.time_us * 1e6


@dataclass(frozen=True)
class Decoded:
    """All prompts of one bundle; rates and `speedup` are medians over them."""

    plain_tokens_per_s: float
    speculative_tokens_per_s: float
    speedup: float
    acceptance_length: float
    prompts: int
    prompts_equal: int


def decode_in_turn(
    engines: Mapping[str, Engine], prompts: Sequence[Sequence[int]], tokens: int, on_progress: OnProgress
) -> dict[str, Decoded]:
    """Decode `tokens` tokens after each prompt; who goes first changes, and the first prompt is decoded twice to warm.

    Raises:
        ValueError: no prompt gave a token to decode after the first.
    """
    pairs: dict[str, list[tuple[Run, Run]]] = {name: [] for name in engines}
    names = list(engines)
    for index, prompt in enumerate([prompts[0], *prompts]):
        on_progress("decode", index, len(prompts) + 1)
        first = index % len(names)
        for name in names[first:] + names[:first]:
            runs = {}
            for way in WAYS if index % 2 else WAYS[::-1]:
                runs[way] = _decode(engines[name], prompt, tokens, way)
            if index and all(run.rounds for run in runs.values()):
                pairs[name].append((runs["plain"], runs["speculative"]))
    on_progress("decode", len(prompts) + 1, len(prompts) + 1)
    return {name: _summary(name, found) for name, found in pairs.items()}


def _decode(engine: Engine, prompt: Sequence[int], tokens: int, way: str) -> Run:
    rounds = engine.rounds(prompt, max_new_tokens=tokens, temperature=0.0, seed=0, decoding=way)
    decoded = [finished for finished in rounds if finished.phase == "decode"]
    return Run(
        tokens=tuple(token for finished in decoded for token in finished.committed),
        rounds=len(decoded),
        time_us=sum(finished.session_us + finished.loop_us for finished in decoded),
    )


def _summary(name: str, pairs: Sequence[tuple[Run, Run]]) -> Decoded:
    if not pairs:
        raise ValueError(f"{name}: no prompt gave more than one token, so there is nothing to measure")
    plain, speculative = zip(*pairs, strict=True)
    return Decoded(
        plain_tokens_per_s=statistics.median(run.tokens_per_s for run in plain),
        speculative_tokens_per_s=statistics.median(run.tokens_per_s for run in speculative),
        speedup=statistics.median(fast.tokens_per_s / slow.tokens_per_s for slow, fast in pairs),
        acceptance_length=sum(len(run.tokens) for run in speculative) / sum(run.rounds for run in speculative),
        prompts=len(pairs),
        prompts_equal=sum(slow.tokens == fast.tokens for slow, fast in pairs),
    )
