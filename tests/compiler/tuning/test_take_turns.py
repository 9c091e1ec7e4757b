"""Taking turns, on engines that count: who goes first, what counts, and what the figures are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from forerun_compiler.errors import BundleError
from forerun_compiler.tuning.take_turns import Figures, decode_in_turn


@dataclass
class Counter:
    """Commits `length` tokens a round of `time_us`, the first of a generation ten times slower."""

    name: str
    length: int
    time_us: float
    log: list[tuple[str, int, int]] = field(default_factory=list)
    facts = SimpleNamespace(capacity=100)

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def rounds(self, prompt: Sequence[int], *, max_new_tokens: int, temperature: float) -> Iterator[SimpleNamespace]:
        assert temperature == 0.0
        self.log.append((self.name, len(prompt), max_new_tokens))
        yield SimpleNamespace(phase="prefill", committed=(0,), session_us=1e9, loop_us=0.0)
        left, time = max_new_tokens - 1, 10 * self.time_us
        while left > 0:
            count = min(left, self.length)
            yield SimpleNamespace(phase="decode", committed=(0,) * count, session_us=time - 1, loop_us=1.0)
            left, time = left - count, self.time_us

    def close(self) -> None:
        pass


def test_figures_and_order() -> None:
    log: list[tuple[str, int, int]] = []
    engines = [Counter("a", 4, 100.0, log), Counter("b", 2, 70.0, log)]
    steps: list[tuple[int, int]] = []
    found = decode_in_turn(engines, ["xy", "", "xyz"], 17, lambda *step: steps.append(step))
    assert found == [Figures(4.0, 100.0), Figures(2.0, 70.0)]
    # A first pass over the first prompt that does not count, then another engine begins with each prompt.
    assert [name for name, _, _ in log] == ["a", "b", "b", "a", "a", "b"]
    assert [length for _, length, _ in log] == [2, 2, 2, 2, 3, 3]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_the_context_cannot_hold_is_cut() -> None:
    engine = Counter("a", 4, 100.0)
    decode_in_turn([engine], ["x" * 500], 1000, lambda *step: None)
    assert engine.log[0] == ("a", 49, 50)


def test_nothing_to_measure() -> None:
    for texts, tokens in (([""], 10), (["x"], 1), ([], 10)):
        with pytest.raises(BundleError, match="no prompt gives more than one token"):
            decode_in_turn([Counter("a", 4, 100.0)], texts, tokens, lambda *step: None)
