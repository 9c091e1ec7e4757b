"""An engine at rest takes no processor: each graph has threads of its own, which would spin against the other's."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

import forerun
from tiny_pairs import PROMPTS, BuiltPair

THREADS = Path("/proc/self/task")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _busy_ns(threads: set[str]) -> int:
    """Processor time that threads have had, in nanoseconds."""
    return sum(int((THREADS / thread / "schedstat").read_text().split()[0]) for thread in threads)


@pytest.mark.parametrize("decoding", ["plain", "speculative"])
def test_threads_sleep_between_rounds(pair: BuiltPair, decoding: str) -> None:
    before = {path.name for path in THREADS.iterdir()}
    with forerun.load(pair.bundle, threads=2) as engine:
        rounds = engine.rounds(PROMPTS[0], max_new_tokens=16, decoding=decoding)  # type: ignore[arg-type]
        for _ in range(4):
            next(rounds)
        own = {path.name for path in THREADS.iterdir()} - before
        assert own, "the engine has threads of its own"
        time.sleep(0.01)  # to fall asleep, also where they have to wait for a processor to do it
        start = _busy_ns(own)
        time.sleep(0.2)
        # A thread that spins has some ten milliseconds; one that sleeps has none.
        assert _busy_ns(own) - start < 1_000_000
