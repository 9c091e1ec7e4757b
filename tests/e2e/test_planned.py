"""Planned generations of the tiny pair on ONNX Runtime: narrower rounds, pauses, and the reading after them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

import forerun
from tiny_pairs import PROMPTS, BuiltPair


@dataclass(frozen=True)
class Counted:
    """The tokens of a generation, and how many rounds were plain, narrow, or read what plain ones left out."""

    tokens: tuple[int, ...]
    plain: int
    narrow: int
    read: int


def count(engine: forerun.Engine, prompt: str, decoding: str, **request: object) -> Counted:
    most = engine.facts.capacity - len(engine.encode(prompt)) - 1
    rounds = list(engine.rounds(prompt, max_new_tokens=most, decoding=decoding, **request))  # type: ignore[arg-type]
    decoded = [finished for finished in rounds if finished.phase == "decode"]
    fused = [finished for finished in decoded if finished.graph == "round"]
    return Counted(
        tokens=tuple(token for finished in rounds for token in finished.committed),
        plain=len(decoded) - len(fused),
        narrow=sum(finished.width < engine.facts.draft_len + 1 for finished in fused),
        read=sum(one.graph == "plain" and other.graph == "round" for one, other in pairwise(decoded)),
    )


@pytest.mark.parametrize(
    ("costs", "plain", "read"),
    [
        (forerun.Costs(1.0, (1.0, 1.2, 1.6)), False, False),
        (forerun.Costs(1.0, (1.5, 1.6, 1.7)), True, True),
        (forerun.Costs(0.1, (1.0, 1.0, 1.0)), True, False),
    ],
    ids=["cheap rounds", "dear rounds", "nothing pays"],
)
def test_greedy_output_is_that_of_plain_decoding(
    pair: BuiltPair, costs: forerun.Costs, plain: bool, read: bool
) -> None:
    total = Counted((), 0, 0, 0)
    with forerun.load(pair.bundle, threads=1) as engine:
        assert engine.facts.verify_widths == (2, 4, 8)
        for prompt in (*PROMPTS, "nothing that the drafter has seen"):
            expected = count(engine, prompt, "plain")
            engine.set_costs(costs)
            found = count(engine, prompt, "speculative")
            assert found.tokens == expected.tokens
            total = replace(
                total, plain=total.plain + found.plain, narrow=total.narrow + found.narrow, read=total.read + found.read
            )
            again = count(engine, prompt, "speculative")
            assert again == found
            fixed = count(engine, prompt, "speculative", planning=False)
            assert (fixed.tokens, fixed.plain, fixed.narrow) == (expected.tokens, 0, 0)
    assert (total.plain > 0, total.read > 0) == (plain, read)
    assert (total.narrow > 0) or plain


def test_planned_sampling_is_reproducible_by_its_seed(pair: BuiltPair) -> None:
    with forerun.load(pair.bundle, threads=1) as engine:
        engine.set_costs(forerun.Costs(1.0, (1.2, 1.4, 2.0)))
        one, other, another = (
            engine.generate(PROMPTS[0], max_new_tokens=40, temperature=1.0, seed=seed) for seed in (3, 3, 4)
        )
    assert one.tokens == other.tokens
    assert one.tokens != another.tokens
    assert 2 <= one.statistics.verified_width <= 8
