"""The arithmetic of statistics, on rounds that are written down by hand and on a real generation."""

from types import SimpleNamespace
from typing import Any

import pytest

import forerun
from forerun.statistics import StatisticsCounter


def finished(
    phase: str,
    committed: int,
    drafted: int,
    accepted: int,
    session_us: float,
    loop_us: float,
    graph: str = "round",
    looked_up: bool = False,
) -> Any:
    return SimpleNamespace(
        phase=phase,
        graph=graph,
        width=drafted + 1,
        committed=(0,) * committed,
        n_drafted=drafted,
        n_accepted=accepted,
        looked_up=looked_up,
        session_us=session_us,
        loop_us=loop_us,
    )


def test_every_figure_by_hand() -> None:
    counter = StatisticsCounter(prompt_tokens=9, draft_len=3)
    for one in [
        finished("prefill", 0, 0, 0, 100.0, 10.0),
        finished("prefill", 1, 0, 0, 50.0, 5.0),
        finished("decode", 4, 3, 3, 20.0, 2.0),
        finished("decode", 1, 3, 0, 22.0, 1.0),
        finished("decode", 2, 3, 1, 24.0, 3.0),
        finished("decode", 1, 1, 1, 18.0, 2.0),  # cut after an end token inside the draft
        finished("decode", 1, 0, 0, 7.0, 1.0, "plain"),
    ]:
        counter.add(one)
    total = counter.total(new_tokens=9)
    assert (total.prompt_tokens, total.new_tokens, total.rounds, total.drafted, total.accepted) == (9, 9, 5, 10, 5)
    assert total.acceptance_length == 1.8
    assert total.acceptance_per_position == (0.6, 0.2, 0.2)
    assert (total.verified_width, total.plain_share) == (3.5, 0.2)
    assert (total.prefill_us, total.decode_us, total.session_us, total.loop_us) == (165.0, 100.0, 18.2, 1.8)
    assert total.tokens_per_s == pytest.approx(9 / 100e-6, rel=1e-12)


def test_looked_up_rounds_are_counted_apart() -> None:
    counter = StatisticsCounter(prompt_tokens=9, draft_len=5)
    for one in [
        finished("prefill", 1, 0, 0, 50.0, 5.0),
        finished("decode", 6, 5, 5, 20.0, 2.0, looked_up=True),
        finished("decode", 3, 3, 2, 22.0, 1.0),
        finished("decode", 1, 5, 0, 20.0, 2.0, looked_up=True),
        finished("decode", 1, 0, 0, 7.0, 1.0, "plain"),
    ]:
        counter.add(one)
    total = counter.total(new_tokens=12)
    assert (total.looked_up_share, total.looked_up_accepted) == (0.5, 2.5)
    assert (total.drafted, total.accepted) == (13, 7)
    assert total.acceptance_per_position == (0.5, 0.5, 0.25, 0.25, 0.25)


def test_no_round_gives_zeros() -> None:
    counter = StatisticsCounter(prompt_tokens=1, draft_len=2)
    counter.add(finished("prefill", 1, 0, 0, 5.0, 1.0))
    total = counter.total(new_tokens=1)
    assert (total.rounds, total.acceptance_length, total.tokens_per_s, total.session_us) == (0, 0.0, 0.0, 0.0)
    assert total.acceptance_per_position == ()
    assert (total.verified_width, total.plain_share) == (0.0, 0.0)
    assert (total.looked_up_share, total.looked_up_accepted) == (0.0, 0.0)


def test_plain_decoding_has_an_acceptance_length_of_one_and_no_positions(engine: forerun.Engine) -> None:
    for decoding in ("plain", "padded"):
        statistics = engine.generate("abc", max_new_tokens=9, decoding=decoding).statistics
        assert (statistics.rounds, statistics.drafted, statistics.acceptance_length) == (8, 0, 1.0)
        assert statistics.acceptance_per_position == ()


def test_a_generation_counts_what_its_rounds_did(engine: forerun.Engine) -> None:
    rounds = [r for r in engine.rounds("xyza", max_new_tokens=60) if r.phase == "decode"]
    statistics = engine.generate("xyza", max_new_tokens=60).statistics
    assert statistics.rounds == len(rounds)
    assert statistics.drafted == sum(r.n_drafted for r in rounds)
    assert statistics.accepted == sum(r.n_accepted for r in rounds)
    assert statistics.acceptance_length == sum(len(r.committed) for r in rounds) / len(rounds)
    assert statistics.acceptance_per_position == tuple(
        sum(r.n_accepted > slot for r in rounds) / len(rounds) for slot in range(4)
    )
    assert (statistics.prompt_tokens, statistics.new_tokens) == (4, 60)
    assert statistics.session_us > 0
    assert statistics.loop_us > 0
    assert statistics.prefill_us > 0
