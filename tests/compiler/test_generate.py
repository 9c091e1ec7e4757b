"""The comparison of both decodings, on an engine that only says how fast it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forerun_compiler import generate

SPEEDS = {"speculative": [90, 10, 50, 70, 30, 20, 80], "plain": [9, 1, 5, 7, 3, 2, 8]}


class FakeStream:
    """A finished generation that streams its text in two pieces."""

    def __init__(self, tokens: tuple[int, ...], speed: float) -> None:
        self.generation = SimpleNamespace(tokens=tokens, statistics=SimpleNamespace(tokens_per_s=speed))

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def __iter__(self) -> Any:
        return iter(("a", "b"))


@dataclass
class FakeEngine:
    """Takes the speeds of SPEEDS in order and remembers what it was asked."""

    plain_tokens: tuple[int, ...] = (1, 2)
    asked: list[str] = field(default_factory=list)
    device: str = "a choice"

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def generate(self, prompt: str, *, decoding: str, stream: bool = False, **unused: object) -> FakeStream | None:
        if not stream:
            return None
        self.asked.append(decoding)
        tokens = (1, 2) if decoding == "speculative" else self.plain_tokens
        return FakeStream(tokens, SPEEDS[decoding][self.asked.count(decoding) - 1])


def compare(monkeypatch: pytest.MonkeyPatch, engine: FakeEngine) -> tuple[generate.Versus, list[str]]:
    import forerun

    monkeypatch.setattr(forerun, "load", lambda folder, device, threads: engine)
    written: list[str] = []
    return generate.compare(Path("bundle"), generate.Request("x"), written.append), written


def test_both_ways_take_turns_and_their_medians_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    versus, written = compare(monkeypatch, engine)
    assert engine.asked == ["speculative", "plain"] * generate.COMPARISONS
    assert (versus.speculative.statistics.tokens_per_s, versus.plain.statistics.tokens_per_s) == (50, 5)
    assert (versus.speedup, versus.equal) == (10, True)
    assert written == ["a", "b"]  # the first speculative text, once


def test_other_tokens_are_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not compare(monkeypatch, FakeEngine(plain_tokens=(1, 3)))[0].equal


def test_slow_generations_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "COMPARISON_SECONDS", 0)
    engine = FakeEngine()
    compare(monkeypatch, engine)
    assert engine.asked == ["speculative", "plain"]
