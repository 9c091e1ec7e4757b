"""Prompt lookup keeps the target's law exactly, whoever chooses by the text and by earlier rounds; wrong rules are
caught.

Tolerances: none. Everything is a Fraction.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction as F

import numpy as np
import pytest
from enumerator import Tokens, random_pair, target_law, total_variation
from lookups import Choice, History, Setting, always, by_rates, find, looked_up_law
from rules import DELTA_MUTANTS, RATIO, Chain

from forerun import _core

LENGTH = 4
COSTS = {
    "flat": (F(1),) * 4,
    "a step": (F(1), F(1), F(1), F(7, 4)),
    "narrow": (F(1), F(1), F(2), F(2)),
    "dear": (F(1), F(2), F(2), F(4)),
}
PROMPTS: tuple[Tokens, ...] = ((0, 1, 0, 1), (0, 0, 1, 1, 0, 0), (2, 0, 1, 2, 0))


def setting(seed: int, prompt: Tokens) -> Setting:
    return Setting(random_pair(seed, 3, 12, LENGTH - 1), prompt)


def distance(it: Setting, choice: Choice, rule: Chain | None = None) -> F:
    law = looked_up_law(it, choice, LENGTH) if rule is None else looked_up_law(it, choice, LENGTH, rule)
    return total_variation(law, target_law(it.pair, LENGTH))


@pytest.mark.parametrize(
    ("text", "match", "expected"),
    [
        ((0, 1, 2), 2, ()),
        ((0, 1, 2, 0, 1), 2, (2, 0, 1, 2)),
        ((7, 0, 1, 8, 0, 1, 7, 0, 1), 2, (8, 0, 1, 7)),  # 7 before it too
        ((3, 3), 1, (3, 3, 3, 3)),
    ],
)
def test_what_is_found(text: Tokens, match: int, expected: Tokens) -> None:
    assert find(text, match, 4) == expected


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("seed", range(3))
def test_verifying_whatever_is_found_keeps_the_law(seed: int, prompt: Tokens) -> None:
    assert distance(setting(seed, prompt), always) == 0


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_planners_choice_keeps_the_law(cost: str, prompt: Tokens) -> None:
    for seed in range(3):
        assert distance(setting(seed, prompt), by_rates(COSTS[cost])) == 0


def test_the_choices_are_choices() -> None:
    """What is proven above looks up in some rounds, drafts in others, and cuts what it finds."""
    seen = set()
    for cost in COSTS.values():
        inner = by_rates(cost)

        def watched(text: Tokens, history: History, found: Tokens, draft: Tokens, inner: Choice = inner) -> int:
            n = inner(text, history, found, draft)
            seen.add((n > 0, n < len(found)))
            return n

        for prompt in PROMPTS:
            looked_up_law(setting(0, prompt), watched, LENGTH)
    assert seen >= {(True, False), (True, True), (False, True)}


RULES = {
    "ratio test with the drafter's probabilities": RATIO,
    "residual with the rejected token": DELTA_MUTANTS["own token from the whole row"],
    "always accept": DELTA_MUTANTS["always accept"],
}


@pytest.mark.parametrize("name", RULES)
def test_wrong_rules_for_looked_up_tokens_are_caught(name: str) -> None:
    assert all(distance(setting(seed, PROMPTS[0]), always, RULES[name]) > 0 for seed in range(4))


def where_the_drafter_agrees(text: Tokens, history: History, found: Tokens, draft: Tokens) -> int:
    return len(found) if draft[:1] == found[:1] else 0


def where_the_drafter_disagrees(text: Tokens, history: History, found: Tokens, draft: Tokens) -> int:
    return len(found) if draft[:1] != found[:1] else 0


def unless_the_drafter_drew_zero(text: Tokens, history: History, found: Tokens, draft: Tokens) -> int:
    return 0 if 0 in draft else len(found)


@pytest.mark.parametrize(
    "choice", [where_the_drafter_agrees, where_the_drafter_disagrees, unless_the_drafter_drew_zero]
)
def test_a_choice_by_what_was_drawn_is_caught(choice: Choice) -> None:
    assert all(distance(setting(seed, PROMPTS[0]), choice) > 0 for seed in range(4))


def test_cutting_what_was_found_by_what_was_drawn_does_no_harm() -> None:
    """A draft that is never verified is noise, and the delta rule holds for any number of looked-up tokens."""

    def cut(text: Tokens, history: History, found: Tokens, draft: Tokens) -> int:
        return 1 if draft[:1] == found[:1] else len(found)

    assert distance(setting(1, PROMPTS[0]), cut) == 0


@pytest.mark.parametrize("temperature", [0.8, 1.5])
def test_the_cores_choice_is_a_function_of_the_text_and_of_earlier_rounds(temperature: float) -> None:
    """Over many seeds: generations that agree so far verify the same number of tokens of the same origin next."""
    chosen: dict[object, tuple[bool, int]] = {}
    again = 0
    core = _table()
    core.set_costs(1.0, [1.0, 1.1, 1.6])
    for seed in range(1500):
        core.start(np.array([0, 1, 2, 0, 1], np.int64), 12, temperature, seed, "speculative", 0)
        past: list[object] = []
        finish = None
        while finish is None:
            done = core.step()
            finish = done.finish
            if done.phase == "decode" and done.looked_up:
                again += tuple(past) in chosen
                assert chosen.setdefault(tuple(past), (True, done.n_drafted)) == (True, done.n_drafted)
            elif done.phase == "decode":
                assert chosen.setdefault(tuple(past), (False, 0))[0] is False
            past.append((done.committed, done.looked_up, done.n_drafted, done.n_accepted, done.graph))
    assert again > 300
    assert {looked_up for looked_up, _ in chosen.values()} == {True, False}


def _table() -> _core.Engine:
    """Three tokens that mostly follow each other in turn; the drafter thinks so less often."""
    turn: Callable[[float], np.ndarray] = lambda weight: np.roll(np.eye(3, dtype=np.float32) * weight, 1, axis=1)  # noqa: E731
    return _core.Engine(
        turn(np.float32(1.5)),
        turn(np.float32(0.7)),
        2,
        60,
        4,
        [],
        lookup_len=4,
        lookup_match=2,
        verify_widths=[2, 3, 5],
    )
