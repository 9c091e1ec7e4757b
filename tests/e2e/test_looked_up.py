"""A bundle with prompt lookup: the text's own repetitions are verified in place of drafts, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import forerun
from tiny_pairs import PROMPTS, build_pair

TEXTS = (*PROMPTS, "abcabcabcabcabc", "x = [1, 1, 1, 1, 1")
COUNT = 120
LOOKUP_LEN = 11


@pytest.fixture(scope="module")
def looking_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[forerun.Engine]:
    folder = tmp_path_factory.mktemp("lookup")
    built = build_pair(folder, more=f"prompt_lookup: {{draft_len: {LOOKUP_LEN}, match_len: 2}}\n")
    with forerun.load(built.bundle, threads=1) as engine:
        yield engine


@pytest.fixture(autouse=True)
def without_costs(looking_up: forerun.Engine) -> Iterator[None]:
    yield
    looking_up.set_costs(None)


def test_the_bundle_says_what_it_looks_up(looking_up: forerun.Engine) -> None:
    facts = looking_up.facts
    assert (facts.draft_len, facts.lookup_len, facts.lookup_match) == (7, LOOKUP_LEN, 2)
    assert facts.verify_widths == (2, 4, 8, 12)


def test_greedy_output_is_that_of_plain_decoding(looking_up: forerun.Engine) -> None:
    accepted: list[int] = []
    fewer = 0
    for text in TEXTS:
        plain, found, without = (
            looking_up.generate(text, max_new_tokens=COUNT, **settings)  # type: ignore[arg-type]
            for settings in ({"decoding": "plain"}, {}, {"lookup": False})
        )
        assert plain.tokens == found.tokens == without.tokens
        assert plain.statistics.looked_up_share == without.statistics.looked_up_share == 0.0
        rounds = [it for it in looking_up.rounds(text, max_new_tokens=COUNT) if it.looked_up]
        assert all(it.phase == "decode" and it.graph == "round" and it.n_drafted < it.width for it in rounds)
        assert found.statistics.looked_up_share == pytest.approx(len(rounds) / found.statistics.rounds)
        accepted += [it.n_accepted for it in rounds]
        fewer += found.statistics.rounds < without.statistics.rounds
    assert fewer == len(TEXTS)
    assert {0, LOOKUP_LEN} <= set(accepted)  # refused at once, and kept as a whole


@pytest.mark.parametrize(
    ("costs", "pauses"),
    [((1.0, 1.0, 1.0, 1.0, 1.1), False), ((1.0, 1.0, 1.0, 1.0, 9.0), False), ((1.0, 1.5, 1.6, 1.7, 1.8), True)],
    ids=["cheap rounds", "too wide", "dear rounds"],
)
def test_a_plan_changes_no_token(looking_up: forerun.Engine, costs: tuple[float, ...], pauses: bool) -> None:
    """Where rounds are dear the drafter pauses, looked-up rounds go on, and it reads the text after them."""
    looking_up.set_costs(forerun.Costs(costs[0], costs[1:]))
    plain_rounds = looked_up = resumed = 0
    for text in TEXTS:
        expected = looking_up.generate(text, max_new_tokens=200, decoding="plain")
        rounds = list(looking_up.rounds(text, max_new_tokens=200))
        assert tuple(token for it in rounds for token in it.committed) == expected.tokens
        kinds = [(it.graph, it.looked_up) for it in rounds if it.phase == "decode"]
        paused = kinds[kinds.index(("plain", False)) :] if ("plain", False) in kinds else []
        plain_rounds += paused.count(("plain", False))
        resumed += paused.count(("round", False))
        looked_up += (paused if pauses else kinds).count(("round", True))
    assert looked_up > 50
    assert (plain_rounds > 0, resumed > 0) == (pauses, pauses)


def test_sampling_is_reproducible_by_its_seed(looking_up: forerun.Engine) -> None:
    for costs in (None, forerun.Costs(1.0, (1.0, 1.1, 1.2, 1.6))):
        looking_up.set_costs(costs)
        one, other, another = (
            looking_up.generate(TEXTS[3], max_new_tokens=60, temperature=0.3, seed=seed) for seed in (3, 3, 4)
        )
        assert one.tokens == other.tokens
        assert one.tokens != another.tokens
        assert one.statistics.looked_up_share > 0
