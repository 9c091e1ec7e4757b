"""An engine at rest takes no processor: each graph has threads of its own, which would spin against the other's."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import forerun
from tiny_pairs import PROMPTS, BuiltPair

THREADS = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _busy_ns(threads: set[str]) -> int:
    """Processor time that threads have had, in nanoseconds."""
    return sum(int((THREADS / thread / "schedstat").read_text().split()[0]) for thread in threads)


def _busy_at_rest(rounds: Iterator[object], threads: set[str]) -> int:
    """Processor time of the threads, in nanoseconds, in a rest after one more round."""
    next(rounds)
    time.sleep(0.01)  # to fall asleep, also where they have to wait for a processor to do it
    start = _busy_ns(threads)
    time.sleep(0.05)
    return _busy_ns(threads) - start


@pytest.mark.parametrize("decoding", ["plain", "speculative"])
def test_threads_sleep_between_rounds(pair: BuiltPair, decoding: str) -> None:
    before = {path.name for path in THREADS.iterdir()}
    with forerun.load(pair.bundle, threads=2) as engine:
        rounds = engine.rounds(PROMPTS[0], max_new_tokens=32, decoding=decoding)  # type: ignore[arg-type]
        next(rounds)
        own = {path.name for path in THREADS.iterdir()} - before
        assert own, "the engine has threads of its own"
        # A thread that spins has some ten milliseconds; one that sleeps has none. The library's thread misses now and
        # then that it was told to sleep, and spins once.
        assert statistics.median(_busy_at_rest(rounds, own) for _ in range(5)) < 1_000_000
