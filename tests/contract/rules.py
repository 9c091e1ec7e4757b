"""The acceptance rules in rational arithmetic, each written down once, and mutants that must be caught.

A row is a tuple of V Fractions; p_target has one row more than the draft has tokens, p_draft one per draft token.
A rule lists its branches: with which probability how many draft tokens are accepted, and what weights the own token
is then drawn from. `decide` walks one branch of a chain rule for given uniforms, as the runtime does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

Row = tuple[Fraction, ...]
Rows = Sequence[Row]
Branch = tuple[Fraction, int, Row]
"""(probability, accepted draft tokens, unnormalised weights of the own token)"""

ZERO, ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True)
class Chain:
    """A rule that tests the draft tokens in order, each with a uniform of its own, and stops at the first rejection.

    `threshold(p_row, q_row, token)`: accepted iff uniform < threshold, so that it is the acceptance probability.
    `residual(p_row, q_row, token)`: weights of the own token where `token` was rejected.
    `bonus(p_row, last q_row)`: weights of the own token after the last draft token.
    """

    threshold: Callable[[Row, Row, int], Fraction]
    residual: Callable[[Row, Row, int], Row]
    bonus: Callable[[Row, Row], Row] = lambda p, q: p

    def branches(self, p_target: Rows, p_draft: Rows, draft: Sequence[int]) -> Iterator[Branch]:
        """All branches of one round."""
        reached = ONE
        for i, token in enumerate(draft):
            accept = self.threshold(p_target[i], p_draft[i], token)
            yield reached * (1 - accept), i, self.residual(p_target[i], p_draft[i], token)
            reached *= accept
        yield reached, len(draft), self._last(p_target, p_draft, len(draft))

    def decide(
        self, p_target: Rows, p_draft: Rows, draft: Sequence[int], uniform: Sequence[Fraction], own: Fraction
    ) -> tuple[int, int]:
        """(accepted, own token) for these uniforms."""
        for i, token in enumerate(draft):
            if not uniform[i] < self.threshold(p_target[i], p_draft[i], token):
                return i, sample(self.residual(p_target[i], p_draft[i], token), own)
        return len(draft), sample(self._last(p_target, p_draft, len(draft)), own)

    def _last(self, p_target: Rows, p_draft: Rows, n_draft: int) -> Row:
        return self.bonus(p_target[n_draft], p_draft[n_draft - 1] if n_draft else p_target[0])


@dataclass(frozen=True)
class Block:
    """Block verification (Sun et al. 2024): the longest prefix whose own test passes. Not shipped; it shows that the
    enumerator accepts another right rule. `capped_last` False is the published variant that is not lossless: it
    accepts the last position with the raw product of ratios instead of the capped one.
    """

    capped_last: bool = True

    def branches(self, p_target: Rows, p_draft: Rows, draft: Sequence[int]) -> Iterator[Branch]:
        """All branches of one round."""
        capped, raw, tests, weights = ONE, ONE, [], [self._residual(ONE, p_target, p_draft, 0)]
        for i, token in enumerate(draft):
            ratio = p_target[i][token] / p_draft[i][token]
            capped, raw = min(ONE, capped * ratio), raw * ratio
            weights.append(self._residual(capped, p_target, p_draft, i + 1))
            if i + 1 < len(draft):
                left = sum(weights[-1])
                tests.append(left / (left + 1 - capped) if left + 1 - capped else ONE)
            else:
                tests.append(capped if self.capped_last else min(ONE, raw))
        failed_after = ONE
        for n in range(len(draft), 0, -1):
            yield failed_after * tests[n - 1], n, weights[n]
            failed_after *= 1 - tests[n - 1]
        yield failed_after, 0, weights[0]

    @staticmethod
    def _residual(scale: Fraction, p_target: Rows, p_draft: Rows, n: int) -> Row:
        if n == len(p_draft):
            return p_target[n]
        return tuple(max(scale * p - q, ZERO) for p, q in zip(p_target[n], p_draft[n], strict=True))


def sample(weights: Row, uniform: Fraction) -> int:
    """Inverse CDF: the number of ids whose cumulative weight is <= uniform * total."""
    cumulative, threshold = ZERO, uniform * sum(weights)
    for token, weight in enumerate(weights):
        cumulative += weight
        if cumulative > threshold:
            return token
    raise AssertionError("no weight is positive")


def greedy_row(row: Row) -> Row:
    """All probability on the largest entry, the lowest index on a tie."""
    best = max(range(len(row)), key=lambda i: (row[i], -i))
    return tuple(ONE if i == best else ZERO for i in range(len(row)))


def _clamped(p: Row, q: Row, token: int) -> Row:
    left = tuple(max(a - b, ZERO) for a, b in zip(p, q, strict=True))
    return left if any(left) else p


def _without(p: Row, q: Row, token: int) -> Row:
    left = tuple(ZERO if i == token else value for i, value in enumerate(p))
    return left if any(left) else p


def _ratio(p: Row, q: Row, token: int) -> Fraction:
    return min(ONE, p[token] / q[token]) if q[token] else ONE if p[token] else ZERO


RATIO = Chain(_ratio, _clamped)
DELTA = Chain(lambda p, q, token: p[token], _without)
GREEDY = Chain(lambda p, q, token: greedy_row(p)[token], lambda p, q, token: greedy_row(p), lambda p, q: greedy_row(p))

MUTANTS = {
    "no residual": Chain(_ratio, lambda p, q, token: p),
    "residual without clamp": Chain(_ratio, lambda p, q, token: tuple(abs(a - b) for a, b in zip(p, q, strict=True))),
    "residual without only the rejected token": Chain(_ratio, _without),
    "inverted ratio": Chain(lambda p, q, token: min(ONE, q[token] / p[token]) if p[token] else ONE, _clamped),
    "always accept": Chain(lambda p, q, token: ONE, _clamped),
    "accept by the target alone": Chain(lambda p, q, token: p[token], _clamped),
    "bonus from the draft": Chain(_ratio, _clamped, lambda p, q: q),
}
DELTA_MUTANTS = {
    "own token from the whole row": Chain(lambda p, q, token: p[token], lambda p, q, token: p),
    "always accept": Chain(lambda p, q, token: ONE, _without),
}
