"""The extension itself, on the core's table backend: no file and no execution library is involved."""

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import forerun
from forerun import _core

SETTINGS = {"max_new_tokens": 8, "temperature": 0.0, "seed": 0, "decoding": "speculative", "draft_len": 0}


def chain(shift: int) -> np.ndarray:
    """[5, 5] float32: every token is followed by the one `shift` further on."""
    return np.roll(np.eye(5, dtype=np.float32), shift, axis=1)


def open_chain(capacity: int = 60) -> _core.Engine:
    return _core.Engine(chain(1), chain(1), draft_len=2, capacity=capacity, prefill_chunk=4, eos_token_ids=[])


@pytest.fixture
def slow_switching() -> Iterator[None]:
    """From here on a thread runs Python code only when another gives up the interpreter lock by itself."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def test_a_table_engine_runs_the_same_loop() -> None:
    core = open_chain()
    core.start(np.array([3], np.int64), **SETTINGS)
    rounds = [core.step()]
    while rounds[-1].finish is None:
        rounds.append(core.step())
    assert [one.committed for one in rounds] == [(4,), (0, 1, 2), (3, 4, 0), (1,)]
    assert [one.phase for one in rounds] == ["prefill", "decode", "decode", "decode"]
    assert rounds[-1].finish == "length"
    facts = core.describe()
    assert (facts.backend, facts.vocab_size, facts.eos_token_ids) == ("reference", 5, ())


@pytest.mark.parametrize(
    "prompt", [np.array([1], np.int32), np.array([1.0]), np.array([[1]], np.int64), np.arange(4)[::2], [1]]
)
def test_a_prompt_of_another_type_or_layout_is_never_converted(prompt: np.ndarray) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        open_chain().start(prompt, **SETTINGS)


@pytest.mark.parametrize("table", [chain(1).astype(np.float64), chain(1).T, chain(1)[0]])
def test_a_table_of_another_type_or_layout_is_never_converted(table: np.ndarray) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _core.Engine(table, chain(1), draft_len=2, capacity=9, prefill_chunk=4, eos_token_ids=[])


def test_tables_of_different_size_are_refused() -> None:
    with pytest.raises(forerun.ForerunError, match="both tables must be"):
        _core.Engine(chain(1), np.zeros((4, 4), np.float32), draft_len=2, capacity=9, prefill_chunk=4, eos_token_ids=[])


def test_a_refusal_of_the_core_keeps_its_status_and_words() -> None:
    core = open_chain()
    with pytest.raises(forerun.ForerunError, match="decoding must be 'speculative'") as caught:
        core.start(np.array([1], np.int64), **{**SETTINGS, "decoding": "fast"})
    assert caught.value.status == "invalid argument"
    with pytest.raises(forerun.ForerunError, match="max_new_tokens must be at least 1, found 0") as caught:
        core.start(np.array([1], np.int64), **{**SETTINGS, "max_new_tokens": 0})
    assert caught.value.status == "invalid argument"
    with pytest.raises(forerun.ForerunError) as caught:
        core.step()
    assert caught.value.status == "invalid state"
    core.close()
    core.close()
    with pytest.raises(forerun.ForerunError, match="the engine is closed"):
        core.describe()


def test_a_round_runs_without_the_interpreter_lock(slow_switching: None) -> None:
    """Another thread can count only while a call has released the lock: at least once in many rounds it does."""
    core = open_chain(capacity=4000)
    counted, done = 0, threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0)

    thread = threading.Thread(target=count)
    thread.start()
    seen_in_steps = False
    for _ in range(200):
        core.start(np.array([3], np.int64), **{**SETTINGS, "max_new_tokens": 3900})
        before = counted
        for _ in range(1000):
            core.step()
        seen_in_steps = counted > before
        if seen_in_steps:
            break
    done.set()
    thread.join()
    assert seen_in_steps


def test_a_table_can_be_looked_up_and_a_generation_can_do_without() -> None:
    core = _core.Engine(
        chain(1),
        chain(2),  # a drafter that is never right
        draft_len=2,
        capacity=60,
        prefill_chunk=4,
        eos_token_ids=[],
        lookup_len=5,
        lookup_match=2,
    )
    facts = core.describe()
    assert (facts.lookup_len, facts.lookup_match, facts.verify_widths) == (5, 2, (3, 6))
    core.start(np.array([0, 1, 2, 0, 1], np.int64), **SETTINGS)
    core.step()
    core.step()
    assert core.step().looked_up
    core.start(np.array([0, 1, 2, 0, 1], np.int64), **SETTINGS, drafter_only=True)
    core.step()
    core.step()
    assert not core.step().looked_up
