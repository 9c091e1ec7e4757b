"""Which drafts of a round are verified: the rules that may look at a draft, as exact functions of its confidences.

A confidence is the chance that a slot is kept if those before are, computed from the tokens before the slot: here it is
exact, the sum of the smaller of both probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from enumerator import Law, Pair, Tokens, fixed_outcomes
from rules import ONE, RATIO, ZERO

Plan = Callable[[Tokens, Tokens, Sequence[Fraction]], int]
"""(committed tokens, the draft, its confidences) -> how many drafts are verified."""


def best_plan(chances: Sequence[Fraction], cost: Sequence[Fraction], first: int = 0) -> int:
    """The number of drafts, at least `first`, with the most expected tokens for its cost; the smallest of equals."""
    survival, tokens, rates = ONE, ONE, [ONE / cost[0]]
    for chance, price in zip(chances, cost[1:], strict=True):
        survival *= chance
        tokens += survival
        rates.append(tokens / price)
    return max(range(first, len(cost)), key=lambda n: (rates[n], -n))


def in_order(cost: Sequence[Fraction], rates: Sequence[Fraction]) -> Plan:
    """Slot after slot: stops where no longer plan is better, by the confidences so far and earlier rounds' rates."""

    def plan(prefix: Tokens, draft: Tokens, confidences: Sequence[Fraction]) -> int:
        for slot in range(len(confidences)):
            known = [*confidences[: slot + 1], *rates[slot + 1 :]]
            if best_plan(known, cost, slot) == slot:
                return slot
        return len(confidences)

    return plan


def all_at_once(cost: Sequence[Fraction]) -> Plan:
    """The best plan by all confidences: that of a slot depends on the tokens before it, which it decides about."""
    return lambda prefix, draft, confidences: best_plan(confidences, cost)


def one_too_far(cost: Sequence[Fraction], rates: Sequence[Fraction]) -> Plan:
    """In order, but each slot is decided with the confidence of the next, which its token has made."""

    def plan(prefix: Tokens, draft: Tokens, confidences: Sequence[Fraction]) -> int:
        for slot in range(len(confidences)):
            known = [*confidences[: slot + 2], *rates[slot + 2 :]]
            if best_plan(known, cost, slot) == slot:
                return slot
        return len(confidences)

    return plan


def planned_law(pair: Pair, plan: Plan, length: int, draft_len: int) -> Law:
    """The law of `length` tokens generated in rounds whose drafts are planned, by the ratio rule."""
    done: dict[Tokens, Fraction] = {}
    open_: dict[Tokens, Fraction] = {(): ONE}
    while open_:
        prefix, weight = open_.popitem()
        if len(prefix) == length:
            done[prefix] = done.get(prefix, ZERO) + weight
            continue
        for draft, drafted in drafts(pair, prefix, min(draft_len, length - len(prefix) - 1)):
            rows = [pair.draft(prefix + draft[:i]) for i in range(len(draft))]
            kept = [sum(map(min, pair.target(prefix + draft[:i]), row), ZERO) for i, row in enumerate(rows)]
            n = plan(prefix, draft, kept)
            for share, _, tokens in fixed_outcomes(pair, RATIO, prefix, draft[:n], rows[:n]):
                open_[prefix + tokens] = open_.get(prefix + tokens, ZERO) + weight * drafted * share
    return done


def drafts(pair: Pair, prefix: Tokens, count: int) -> list[tuple[Tokens, Fraction]]:
    """Every draft of `count` tokens and its probability."""
    found: list[tuple[Tokens, Fraction]] = [((), ONE)]
    for _ in range(count):
        found = [
            ((*draft, token), weight * share)
            for draft, weight in found
            for token, share in enumerate(pair.draft(prefix + draft))
            if share
        ]
    return found
