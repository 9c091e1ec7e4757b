"""Planning keeps the target's law exactly if it decides slot by slot, in order; a plan that looks ahead is caught.

Tolerances: none. Everything is a Fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction as F

import pytest
from enumerator import Pair, Tokens, random_pair, target_law, total_variation
from plans import Plan, all_at_once, in_order, one_too_far, planned_law

STAIRS = {
    "flat": (F(1), F(1), F(1), F(1)),
    "linear": (F(1), F(3, 2), F(2), F(5, 2)),
    "stairs": (F(1), F(1), F(8, 5), F(8, 5)),
    "late step": (F(1), F(6, 5), F(6, 5), F(2)),
}
RATES = (F(3, 4), F(1, 2), F(2, 3))
LENGTH, DRAFT_LEN = 4, 3


def distance(pair: Pair, plan: Plan) -> F:
    return total_variation(planned_law(pair, plan, LENGTH, DRAFT_LEN), target_law(pair, LENGTH))


def cut(plan: str, cost: Sequence[F]) -> Plan:
    """A plan for the drafts that there are: near the end of a generation they are fewer."""

    def run(prefix: Tokens, draft: Tokens, confidences: Sequence[F]) -> int:
        n = len(draft)
        made = {
            "in order": in_order(cost[: n + 1], RATES[:n]),
            "all at once": all_at_once(cost[: n + 1]),
            "one too far": one_too_far(cost[: n + 1], RATES[:n]),
        }
        return made[plan](prefix, draft, confidences)

    return run


@pytest.mark.parametrize("name", STAIRS)
@pytest.mark.parametrize("seed", range(6))
def test_deciding_in_order_keeps_the_law(name: str, seed: int) -> None:
    assert distance(random_pair(seed, 3, 12, LENGTH - 1), cut("in order", STAIRS[name])) == 0


def test_it_is_a_choice_that_depends_on_the_draft() -> None:
    """What is proven above is not one number of drafts in every round."""
    pair, chosen = random_pair(0, 3, 12, LENGTH - 1), set()
    inner = cut("in order", STAIRS["linear"])

    def watched(prefix: Tokens, draft: Tokens, confidences: Sequence[F]) -> int:
        n = inner(prefix, draft, confidences)
        chosen.add((prefix, n))
        return n

    planned_law(pair, watched, LENGTH, DRAFT_LEN)
    assert len({n for prefix, n in chosen if prefix == ()}) > 1


def test_pauses_by_what_was_committed_keep_the_law() -> None:
    inner = cut("in order", STAIRS["stairs"])

    def plan(prefix: Tokens, draft: Tokens, confidences: Sequence[F]) -> int:
        return 0 if sum(prefix) % 2 else inner(prefix, draft, confidences)

    for seed in range(4):
        assert distance(random_pair(seed, 3, 12, LENGTH - 1), plan) == 0


def telling_pair() -> Pair:
    """After the drafted token 0 target and drafter agree, after 1 they have nothing in common."""
    rows = {0: (F(1, 2), F(1, 2)), 1: (F(0), F(1))}

    def target(prefix: Tokens) -> tuple[F, ...]:
        return rows[prefix[-1]] if prefix else (F(1, 4), F(3, 4))

    def draft(prefix: Tokens) -> tuple[F, ...]:
        return (F(1), F(0)) if prefix and prefix[-1] else (F(1, 2), F(1, 2))

    return Pair(2, target, draft)


@pytest.mark.parametrize(("plan", "kept"), [("in order", True), ("all at once", False), ("one too far", False)])
def test_plans_that_look_at_what_they_decide_about_are_caught(plan: str, kept: bool) -> None:
    """Verifying one token does not pay, two pay if the first is 0: who looks ahead tests no other first token."""
    cost = (F(1), F(2), F(2), F(2))
    assert (distance(telling_pair(), cut(plan, cost)) == 0) is kept


def test_a_plan_by_the_drawn_token_is_caught() -> None:
    """Verifying a draft only up to the first token 0: the wrong rule at its plainest."""

    def plan(prefix: Tokens, draft: Tokens, confidences: Sequence[F]) -> int:
        return next((i for i, token in enumerate(draft) if token == 0), len(draft))

    assert all(distance(random_pair(seed, 3, 12, LENGTH - 1), plan) > 0 for seed in range(4))
