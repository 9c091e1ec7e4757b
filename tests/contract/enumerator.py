"""The exact law of what speculation puts out: all drafts, all branches of the rule, rational arithmetic."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product
from typing import Protocol

from rules import ONE, ZERO, Branch, Row, Rows

Tokens = tuple[int, ...]
Law = Mapping[Tokens, Fraction]


class Rule(Protocol):
    def branches(self, p_target: Rows, p_draft: Rows, draft: Tokens) -> Iterator[Branch]: ...


@dataclass(frozen=True)
class Pair:
    """A target and a drafter as tables: the next token's row after every prefix of the generation."""

    vocab: int
    target: Callable[[Tokens], Row]
    draft: Callable[[Tokens], Row]


def target_law(pair: Pair, length: int) -> Law:
    """The law that speculation must keep: `length` tokens from the target alone."""
    law: dict[Tokens, Fraction] = {}
    for tokens in product(range(pair.vocab), repeat=length):
        weight = ONE
        for i, token in enumerate(tokens):
            weight *= pair.target(tokens[:i])[token]
        law[tokens] = weight
    return law


def round_outcomes(pair: Pair, rule: Rule, prefix: Tokens, n_draft: int) -> Iterator[tuple[Fraction, int, Tokens]]:
    """(probability, accepted, committed tokens) of one round after `prefix`, with drafts sampled from the drafter."""
    for draft in product(range(pair.vocab), repeat=n_draft):
        p_draft = [pair.draft(prefix + draft[:i]) for i in range(n_draft)]
        drafted = ONE
        for row, token in zip(p_draft, draft, strict=True):
            drafted *= row[token]
        if drafted:
            for weight, accepted, tokens in fixed_outcomes(pair, rule, prefix, draft, p_draft):
                yield drafted * weight, accepted, tokens


def fixed_outcomes(
    pair: Pair, rule: Rule, prefix: Tokens, draft: Tokens, p_draft: Rows
) -> Iterator[tuple[Fraction, int, Tokens]]:
    """The same for one given draft."""
    p_target = [pair.target(prefix + draft[:i]) for i in range(len(draft) + 1)]
    for weight, accepted, own in rule.branches(p_target, p_draft, draft):
        if weight:
            total = sum(own)
            for token, share in enumerate(own):
                if share:
                    yield weight * share / total, accepted, (*draft[:accepted], token)


def generation_law(pair: Pair, rule: Rule, length: int, draft_len: int) -> Law:
    """The law of `length` tokens generated round by round, as the loop does: never more verified than still fit."""
    done: defaultdict[Tokens, Fraction] = defaultdict(lambda: ZERO)
    open_: dict[Tokens, Fraction] = {(): ONE}
    while open_:
        prefix, weight = open_.popitem()
        if len(prefix) == length:
            done[prefix] += weight
            continue
        for share, _, tokens in round_outcomes(pair, rule, prefix, min(draft_len, length - len(prefix) - 1)):
            key = prefix + tokens
            open_[key] = open_.get(key, ZERO) + weight * share
    return done


def fixed_law(pair: Pair, rule: Rule, draft: Tokens) -> Law:
    """The law of len(draft) + 1 tokens when the first round verifies this very draft; the target writes the rest."""
    length = len(draft) + 1
    nothing = [tuple(ONE for _ in range(pair.vocab))] * len(draft)
    law: defaultdict[Tokens, Fraction] = defaultdict(lambda: ZERO)
    for weight, _, tokens in fixed_outcomes(pair, rule, (), draft, nothing):
        for rest in product(range(pair.vocab), repeat=length - len(tokens)):
            share, whole = weight, tokens
            for token in rest:
                share *= pair.target(whole)[token]
                whole = (*whole, token)
            law[whole] += share
    return law


def total_variation(a: Law, b: Law) -> Fraction:
    """Half the sum of absolute differences."""
    return sum((abs(a.get(k, ZERO) - b.get(k, ZERO)) for k in {*a, *b}), ZERO) / 2


def mean_accepted(pair: Pair, rule: Rule, n_draft: int) -> Fraction:
    """Expected accepted draft tokens of the first round."""
    return sum((weight * accepted for weight, accepted, _ in round_outcomes(pair, rule, (), n_draft)), ZERO)


def constant_pair(p: Row, q: Row) -> Pair:
    """The same rows after every prefix."""
    return Pair(len(p), lambda prefix: p, lambda prefix: q)


def random_pair(seed: int, vocab: int, denominator: int, depth: int) -> Pair:
    """Rows of multiples of 1 / denominator, zeros included, another for every prefix of up to `depth` tokens."""
    source = random.Random(seed)
    prefixes = [prefix for n in range(depth + 1) for prefix in product(range(vocab), repeat=n)]
    target = {prefix: random_row(source, vocab, denominator) for prefix in prefixes}
    draft = {prefix: random_row(source, vocab, denominator) for prefix in prefixes}
    return Pair(vocab, target.__getitem__, draft.__getitem__)


def random_row(source: random.Random, vocab: int, denominator: int) -> Row:
    """A distribution on `vocab` ids in multiples of 1 / denominator."""
    cuts = sorted(source.randint(0, denominator) for _ in range(vocab - 1))
    edges = [0, *cuts, denominator]
    return tuple(Fraction(high - low, denominator) for low, high in pairwise(edges))
