"""The time of a plain round, and of a round of each verify width, in generations that take turns."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forerun_compiler.on_progress import OnProgress

PROMPTS, TOKENS = 6, 48
"""Of so many prompts, so many tokens for each width: medians then repeat within some hundredths on a quiet machine."""


@dataclass(frozen=True)
class RoundCosts:
    """Medians in microseconds: a plain round, and one of each verify width by its rows."""

    plain_us: float
    round_us: dict[int, float]


class Engine(Protocol):
    """The part of `forerun.Engine` that a measurement uses."""

    @property
    def facts(self) -> Any:
        """With draft_len and verify_widths."""

    def rounds(
        self,
        prompt: Sequence[int],
        *,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        decoding: Any,
        draft_len: int | None,
        planning: bool,
        lookup: bool,
    ) -> Iterable[Any]:
        """One generation, round by round."""


def measure_costs(
    engine: Engine, prompts: Sequence[Sequence[int]], temperature: float, on_progress: OnProgress
) -> RoundCosts:
    """Decode the prompts once plainly and once at each width; who begins changes from prompt to prompt.

    A width is what it costs to verify as many drafts as it holds, whatever becomes of them. The first prompt warms up.
    Rounds near the end of a generation count as well: their padding costs what drafts do. So widths that only looked up
    drafts fill are measured on padding alone: whether something is found would be left to the text.
    """
    ways = (1, *engine.facts.verify_widths)
    times: dict[int, list[float]] = {width: [] for width in ways}
    chosen = [prompts[0], *(prompts[index % len(prompts)] for index in range(PROMPTS))]
    for index, prompt in enumerate(chosen):
        on_progress("cost of a round", index, len(chosen))
        for turn in range(len(ways)):
            width = ways[(index + turn) % len(ways)]
            rounds = engine.rounds(
                prompt,
                max_new_tokens=TOKENS,
                temperature=temperature,
                seed=index,
                decoding=_decoding(width, engine.facts.draft_len),
                draft_len=None if width == 1 else width - 1,
                planning=False,
                lookup=False,
            )
            found = [finished.session_us + finished.loop_us for finished in rounds if finished.phase == "decode"]
            times[width] += found if index else []
    on_progress("cost of a round", len(chosen), len(chosen))
    medians = {width: statistics.median(found) for width, found in times.items() if found}
    return RoundCosts(medians.pop(1), medians)


def _decoding(width: int, draft_len: int) -> str:
    if width == 1:
        return "plain"
    return "speculative" if width <= draft_len + 1 else "padded"
