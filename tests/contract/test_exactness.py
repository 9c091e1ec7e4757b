"""Speculation keeps the target's law exactly: total variation 0 over all drafts and branches, and mutants are caught.

Tolerances: none. Everything is a Fraction.
"""

from fractions import Fraction as F
from itertools import product

import pytest
from enumerator import (
    Pair,
    constant_pair,
    fixed_law,
    generation_law,
    mean_accepted,
    random_pair,
    round_outcomes,
    target_law,
    total_variation,
)
from rules import DELTA, DELTA_MUTANTS, GREEDY, MUTANTS, RATIO, Block, Chain, greedy_row

TOY = constant_pair((F(1, 3), F(2, 3)), (F(2, 3), F(1, 3)))
PAIRS = [
    pytest.param(constant_pair((F(1, 2), F(3, 10), F(1, 5)), (F(1, 5), F(3, 10), F(1, 2))), id="reversed"),
    pytest.param(constant_pair((F(1), F(0), F(0)), (F(1, 3), F(1, 3), F(1, 3))), id="certain target"),
    pytest.param(constant_pair((F(1, 2), F(1, 2), F(0)), (F(0), F(0), F(1))), id="nothing in common"),
    pytest.param(constant_pair((F(1, 4), F(1, 4), F(1, 2)), (F(1, 4), F(1, 4), F(1, 2))), id="equal"),
    *(pytest.param(random_pair(seed, 3, 12, 3), id=f"random {seed}") for seed in range(12)),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("draft_len", [1, 2, 3])
def test_ratio_rule_keeps_the_law(pair: Pair, draft_len: int) -> None:
    assert total_variation(generation_law(pair, RATIO, 4, draft_len), target_law(pair, 4)) == 0


@pytest.mark.parametrize("draft_len", [1, 2, 3, 4])
def test_ratio_rule_keeps_the_law_over_many_rounds(draft_len: int) -> None:
    pair = random_pair(99, 2, 12, 6)
    assert total_variation(generation_law(pair, RATIO, 7, draft_len), target_law(pair, 7)) == 0


@pytest.mark.parametrize("pair", PAIRS)
def test_delta_rule_keeps_the_law_whatever_is_drafted(pair: Pair) -> None:
    for draft in product(range(pair.vocab), repeat=3):
        assert total_variation(fixed_law(pair, DELTA, draft), target_law(pair, 4)) == 0


@pytest.mark.parametrize("pair", PAIRS)
def test_greedy_rule_gives_the_greedy_tokens_whatever_is_drafted(pair: Pair) -> None:
    greedy = Pair(pair.vocab, lambda prefix: greedy_row(pair.target(prefix)), pair.draft)
    for draft in product(range(pair.vocab), repeat=3):
        assert total_variation(fixed_law(greedy, GREEDY, draft), target_law(greedy, 4)) == 0


@pytest.mark.parametrize(("n_draft", "accepted"), [(1, F(2, 3)), (2, F(10, 9)), (3, F(38, 27))])
def test_ratio_rule_accepts_as_much_as_it_should(n_draft: int, accepted: F) -> None:
    assert mean_accepted(TOY, RATIO, n_draft) == accepted


def test_one_draft_token_is_accepted_with_one_minus_total_variation() -> None:
    for seed in range(20):
        pair = random_pair(seed, 4, 20, 1)
        common = sum(map(min, pair.target(()), pair.draft(())), F(0))
        assert mean_accepted(pair, RATIO, 1) == common


@pytest.mark.parametrize(("n_draft", "accepted"), [(1, F(2, 3)), (2, F(11, 9)), (3, F(5, 3))])
def test_the_enumerator_accepts_another_right_rule(n_draft: int, accepted: F) -> None:
    assert total_variation(generation_law(TOY, Block(), n_draft + 1, n_draft), target_law(TOY, n_draft + 1)) == 0
    assert mean_accepted(TOY, Block(), n_draft) == accepted


@pytest.mark.parametrize("name", MUTANTS)
def test_ratio_mutants_are_caught(name: str) -> None:
    caught = [
        total_variation(generation_law(pair, MUTANTS[name], 3, 2), target_law(pair, 3)) > 0
        for pair in (random_pair(seed, 3, 12, 2) for seed in range(10))
    ]
    assert all(caught)


@pytest.mark.parametrize("name", DELTA_MUTANTS)
def test_delta_mutants_are_caught(name: str) -> None:
    pair = random_pair(3, 3, 12, 2)
    laws = [fixed_law(pair, DELTA_MUTANTS[name], draft) for draft in product(range(3), repeat=2)]
    assert any(total_variation(law, target_law(pair, 3)) > 0 for law in laws)


@pytest.mark.parametrize(
    ("n_draft", "accepted", "distance"),
    [(2, F(4, 3), F(1, 9)), (3, F(16, 9), F(5, 81)), (4, F(62, 27), F(29, 243))],
)
def test_raw_ratio_at_the_last_position_is_caught(n_draft: int, accepted: F, distance: F) -> None:
    """The rule that accepts more, and pays with the law: the known distances for this pair."""
    mutant = Block(capped_last=False)
    assert mean_accepted(TOY, mutant, n_draft) == accepted
    assert total_variation(one_round_law(TOY, mutant, n_draft), target_law(TOY, n_draft + 1)) == distance


def test_a_residual_of_another_row_is_caught() -> None:
    """The residual must come from the row of the rejected token, not from the next one."""

    class Shifted(Chain):
        def branches(self, p_target, p_draft, draft):  # type: ignore[no-untyped-def]
            for weight, n, own in RATIO.branches(p_target, p_draft, draft):
                yield weight, n, own if n == len(draft) else p_target[n + 1]

    pair = random_pair(5, 3, 12, 3)
    assert (
        total_variation(generation_law(pair, Shifted(RATIO.threshold, RATIO.residual), 4, 2), target_law(pair, 4)) > 0
    )


def one_round_law(pair: Pair, rule: Block, n_draft: int) -> dict[tuple[int, ...], F]:
    """One round, the target writes what is missing up to n_draft + 1 tokens."""
    law: dict[tuple[int, ...], F] = {}
    for weight, _, tokens in round_outcomes(pair, rule, (), n_draft):
        for rest in product(range(pair.vocab), repeat=n_draft + 1 - len(tokens)):
            share = weight
            for token in rest:
                share *= pair.target(())[token]
            law[tokens + rest] = law.get(tokens + rest, F(0)) + share
    return law
