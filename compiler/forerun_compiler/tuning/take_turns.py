"""Several bundles decode the same prompts in turn, so that what the machine does meanwhile meets all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forerun_compiler.errors import BundleError


class Engine(Protocol):
    """The part of `forerun.Engine` that taking turns uses."""

    @property
    def facts(self) -> Any:
        """With capacity, threads, backend and backend_version."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def rounds(self, prompt: Sequence[int], *, max_new_tokens: int, temperature: float) -> Iterable[Any]:
        """One generation, round by round."""

    def close(self) -> None:
        """Free the bundle's memory."""


@dataclass(frozen=True)
class Figures:
    """Of one bundle: committed tokens per round over all rounds, and the median of a round's time in microseconds."""

    acceptance_length: float
    round_us: float


def decode_in_turn(
    engines: Sequence[Engine], texts: Sequence[str], tokens: int, on_progress: Callable[[int, int], None]
) -> list[Figures]:
    """Let every engine decode `tokens` tokens greedily after each text; who goes first changes with the text.

    The first text is decoded once more beforehand, which warms up and does not count.

    Raises:
        BundleError: no text leaves a round to measure.
    """
    facts = engines[0].facts
    count = min(tokens, facts.capacity // 2)
    prompts = [engines[0].encode(text)[: facts.capacity - count - 1] for text in texts]
    prompts = [prompt for prompt in prompts if prompt]
    seen: list[list[Any]] = [[] for _ in engines]
    for place, prompt in enumerate([*prompts[:1], *prompts]):
        on_progress(place, len(prompts) + 1)
        for turn in range(len(engines)):
            number = (place + turn) % len(engines)
            rounds = engines[number].rounds(prompt, max_new_tokens=count, temperature=0.0)
            decoded = [finished for finished in rounds if finished.phase == "decode"]
            if place:
                seen[number] += decoded
    on_progress(len(prompts) + 1, len(prompts) + 1)
    if not all(seen):
        raise BundleError("no prompt gives more than one token, so there is nothing to measure; give other prompts")
    return [_figures(rounds) for rounds in seen]


def _figures(rounds: Sequence[Any]) -> Figures:
    return Figures(
        acceptance_length=sum(len(finished.committed) for finished in rounds) / len(rounds),
        round_us=statistics.median(finished.session_us + finished.loop_us for finished in rounds),
    )
