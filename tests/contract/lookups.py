"""Generations in which prompt lookup takes the drafter's place, enumerated: what is found, who is verified, and how.

A history is what earlier rounds did: (looked up?, tokens verified, tokens accepted) of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from enumerator import Law, Pair, Rule, Tokens, fixed_outcomes
from plans import best_plan, drafts
from rules import DELTA, ONE, RATIO, ZERO

History = tuple[tuple[bool, int, int], ...]
Choice = Callable[[Tokens, History, Tokens, Tokens], int]
"""(text, history, what was found, the drafter's tokens) -> looked-up tokens to verify; 0 = the drafter's instead."""


def find(text: Tokens, match: int, count: int) -> Tokens:
    """`count` tokens that followed the last `match` tokens of the text before; empty if these are new to it.

    Of several places the one with the most tokens in common before it, of these the last.
    """
    places = [end for end in range(match - 1, len(text) - 1) if _common(text, end) >= match]
    if not places:
        return ()
    at, grown = max(places, key=lambda end: (_common(text, end), end)), list(text)
    for i in range(count):
        grown.append(grown[at + 1 + i])
    return tuple(grown[len(text) :])


def _common(text: Tokens, end: int) -> int:
    """Tokens that the text up to `end` and the whole text end with alike."""
    return next((n for n in range(end + 1) if text[end - n] != text[-1 - n]), end + 1)


@dataclass(frozen=True)
class Setting:
    """A pair after a prompt, and how much is drafted and looked up a round."""

    pair: Pair
    prompt: Tokens
    draft_len: int = 2
    lookup_len: int = 3
    match: int = 2


def looked_up_law(setting: Setting, choice: Choice, length: int, looked_up_rule: Rule = DELTA) -> Law:
    """The law of `length` tokens after the prompt; `looked_up_rule` verifies what was found, the ratio rule drafts."""
    law: dict[Tokens, Fraction] = {}
    open_: dict[tuple[Tokens, History], Fraction] = {((), ()): ONE}
    while open_:
        (prefix, history), weight = open_.popitem()
        if len(prefix) == length:
            law[prefix] = law.get(prefix, ZERO) + weight
            continue
        room, text = length - len(prefix) - 1, setting.prompt + prefix
        found = find(text, setting.match, min(setting.lookup_len, room))
        for draft, drawn in drafts(setting.pair, prefix, min(setting.draft_len, room)):
            n = choice(text, history, found, draft) if found else 0
            rows = [setting.pair.draft(prefix + draft[:i]) for i in range(len(draft))]
            tested, rule = (found[:n], looked_up_rule) if n else (draft, RATIO)
            rows = rows if not n else [setting.pair.draft(prefix + found[:i]) for i in range(n)]
            for share, accepted, tokens in fixed_outcomes(setting.pair, rule, prefix, tested, rows):
                key = (prefix + tokens, (*history, (n > 0, len(tested), accepted)))
                open_[key] = open_.get(key, ZERO) + weight * drawn * share
    return law


def always(text: Tokens, history: History, found: Tokens, draft: Tokens) -> int:
    """Whatever was found."""
    return len(found)


def by_rates(cost: Sequence[Fraction]) -> Choice:
    """The planner's: the better of both by what earlier rounds kept, and as many looked-up tokens as pay."""

    def choose(text: Tokens, history: History, found: Tokens, draft: Tokens) -> int:
        own, others = (_rates(history, kind, max(len(found), len(draft))) for kind in (True, False))
        n = best_plan(own[: len(found)], cost[: len(found) + 1])
        m = best_plan(others[: len(draft)], cost[: len(draft) + 1])
        return n if _promised(own, cost, n) > _promised(others, cost, m) else 0

    return choose


def _rates(history: History, kind: bool, count: int) -> list[Fraction]:
    """Slot by slot the share that was kept of those tested, with a prior of 4 tests, better for what is looked up."""
    kept, tested = [Fraction(16, 5) if kind else Fraction(3)] * count, [Fraction(4)] * count
    for looked_up, n, accepted in history:
        for slot in range(min(n, accepted + 1, count)) if looked_up is kind else ():
            kept[slot] += slot < accepted
            tested[slot] += 1
    return [k / t for k, t in zip(kept, tested, strict=True)]


def _promised(chances: Sequence[Fraction], cost: Sequence[Fraction], n: int) -> Fraction:
    tokens, survival = ONE, ONE
    for chance in chances[:n]:
        survival *= chance
        tokens += survival
    return tokens / cost[n]
