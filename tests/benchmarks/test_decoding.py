"""Bundles that take turns, with engines that only say what they were asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from decoding import decode_in_turn
from in_turn import Blocks, time_in_turn


@dataclass(frozen=True)
class FakeRound:
    phase: str
    committed: tuple[int, ...]
    session_us: float = 8.0
    loop_us: float = 2.0


class FakeEngine:
    """Plain decoding commits a token a round, speculative decoding two; `calls` is shared and keeps the order."""

    def __init__(self, name: str, calls: list[tuple[str, int, str]], wrong: bool = False) -> None:
        self.name, self.calls, self.wrong = name, calls, wrong

    def rounds(
        self, prompt: Sequence[int], *, max_new_tokens: int, temperature: float, seed: int, decoding: str
    ) -> Iterator[FakeRound]:
        self.calls.append((self.name, prompt[0], decoding))
        step = 2 if decoding == "speculative" else 1
        yield FakeRound("prefill", (0,), session_us=1000.0)
        for start in range(1, max_new_tokens, step):
            shift = 1 if self.wrong and decoding == "speculative" else 0
            yield FakeRound("decode", tuple(range(start + shift, start + shift + step)))


def _ignore(stage: str, done: int, total: int) -> None:
    pass


def test_rates_count_decode_rounds_only() -> None:
    calls: list[tuple[str, int, str]] = []
    engines = {"a": FakeEngine("a", calls), "b": FakeEngine("b", calls, wrong=True)}
    found = decode_in_turn(engines, [[7], [8], [9]], 9, _ignore)
    assert found["a"].plain_tokens_per_s == pytest.approx(1e5)  # a token in 10 microseconds
    assert found["a"].speculative_tokens_per_s == pytest.approx(2e5)
    assert found["a"].speedup == pytest.approx(2.0)
    assert found["a"].acceptance_length == 2.0
    assert (found["a"].prompts, found["a"].prompts_equal, found["b"].prompts_equal) == (3, 3, 0)


def test_every_bundle_goes_first_in_its_turn() -> None:
    calls: list[tuple[str, int, str]] = []
    decode_in_turn({name: FakeEngine(name, calls) for name in "ab"}, [[7], [8]], 4, _ignore)
    assert [prompt for _, prompt, _ in calls] == [7] * 8 + [8] * 4  # the first prompt twice: it warms up
    assert [name for name, _, _ in calls[::4]] == ["a", "b", "a"]
    assert [way for _, _, way in calls[::4]] == ["speculative", "plain", "speculative"]


def test_blocks_take_turns_and_warm_up() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = time_in_turn(calls, Blocks(count=2, runs=2, warm=1), _ignore)
    assert order == list("aaabbbaaabbb")
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4}
