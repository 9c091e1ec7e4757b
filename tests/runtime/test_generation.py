"""Text of a generation: streamed or whole, cut by stop strings, cancelled in every way there is."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import forerun
from forerun import rounds as rounds_module
from table_bundle import SCRIPT

DECODINGS = ("speculative", "padded", "plain")
TEXT = (SCRIPT * 5)[1:]  # what follows the prompt "xyza"


def generate(engine: forerun.Engine, **settings: Any) -> forerun.Generation:
    return engine.generate("xyza", **{"max_new_tokens": 60, **settings})


@pytest.mark.parametrize("decoding", DECODINGS)
def test_text_is_whole_for_every_length(engine: forerun.Engine, decoding: str) -> None:
    """Lengths 1 .. 25 cut the script inside each of its characters; the cut one becomes U+FFFD, nothing else does."""
    for length in range(1, 26):
        generation = generate(engine, decoding=decoding, max_new_tokens=length)
        assert generation.text == TEXT.encode()[:length].decode(errors="replace")
        assert generation.text == engine.decode(generation.tokens)
        assert generation.finish_reason == "length"


@pytest.mark.parametrize("temperature", [0.0, 1.7])
def test_stream_callback_and_whole_text_agree(engine: forerun.Engine, temperature: float) -> None:
    whole = generate(engine, temperature=temperature, seed=3)
    stream = generate(engine, temperature=temperature, seed=3, stream=True)
    chunks = list(stream)
    called: list[str] = []
    by_callback = generate(engine, temperature=temperature, seed=3, stream=called.append)
    assert "".join(chunks) == whole.text == stream.generation.text == by_callback.text
    assert chunks == called
    assert all(chunks)
    assert stream.generation.tokens == whole.tokens == by_callback.tokens
    assert len(chunks) > 5


def test_a_chunk_is_what_a_round_settles(engine: forerun.Engine) -> None:
    """A character that a round splits waits for its rest: no chunk of this text, three scripts long, shows U+FFFD."""
    length = len((SCRIPT * 3)[1:].encode())
    chunks = list(generate(engine, stream=True, max_new_tokens=length))
    rounds = list(engine.rounds("xyza", max_new_tokens=length))
    assert "".join(chunks) == (SCRIPT * 3)[1:]
    assert any("\ufffd" in engine.decode(one.committed) for one in rounds)
    assert len(chunks) <= len(rounds) < length / 2


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("stop", ["-", "d漢(", "é-d漢(e)", "🙂fgh!abc", "h", ")🙂", "!ab"])
def test_a_stop_string_is_cut_exactly(engine: forerun.Engine, decoding: str, stop: str) -> None:
    at = TEXT.index(stop)
    stream = generate(engine, decoding=decoding, stop=stop, stream=True)
    assert "".join(stream) == TEXT[:at]
    generation = stream.generation
    assert generation.text == TEXT[:at]
    assert bytes(generation.tokens).decode() == TEXT[: at + len(stop)]
    assert generation.finish_reason == "stop"
    assert generation.statistics.new_tokens == len(generation.tokens)


def test_stops_at_every_place_of_the_text(engine: forerun.Engine) -> None:
    for start in range(len(SCRIPT)):
        for length in (1, 2, 5):
            stop = TEXT[start : start + length]
            assert generate(engine, stop=[stop, "never"]).text == TEXT[: TEXT.index(stop)]


def test_what_only_looked_like_a_stop_is_in_the_text(engine: forerun.Engine) -> None:
    assert generate(engine, stop="bcé+", max_new_tokens=30).text == TEXT.encode()[:30].decode()
    assert generate(engine, stop="bcé-+", max_new_tokens=4).text == "bcé"


def test_an_end_token_has_no_text(ending_engine: forerun.Engine) -> None:
    generation = generate(ending_engine)
    assert generation.text == SCRIPT[1:]
    assert generation.finish_reason == "stop"
    assert len(generation.tokens) == len(SCRIPT[1:].encode()) + 1


def test_cancel_ends_a_stream_and_frees_the_engine(engine: forerun.Engine) -> None:
    stream = generate(engine, stream=True)
    first = next(stream)
    stream.cancel()
    assert list(stream) == []
    assert stream.generation.text == first
    assert stream.generation.finish_reason == "cancelled"
    assert generate(engine, max_new_tokens=2).text == "bc"


def test_cancel_after_the_end_changes_nothing(engine: forerun.Engine) -> None:
    stream = generate(engine, stream=True, max_new_tokens=2)
    assert list(stream) == ["b", "c"]
    stream.cancel()
    assert stream.generation.finish_reason == "length"
    assert stream.generation.text == "bc"


def test_a_callback_that_returns_false_cancels(engine: forerun.Engine) -> None:
    seen: list[str] = []

    def take(chunk: str) -> bool:
        seen.append(chunk)
        return len(seen) < 3

    generation = generate(engine, stream=take)
    assert len(seen) == 3
    assert generation.finish_reason == "cancelled"
    assert generation.text == "".join(seen)


def test_a_callback_that_raises_leaves_the_engine_usable(engine: forerun.Engine) -> None:
    def fail(chunk: str) -> None:
        raise KeyError(chunk)

    with pytest.raises(KeyError):
        generate(engine, stream=fail)
    assert generate(engine, max_new_tokens=2).text == "bc"


def test_cancel_from_another_thread(engine: forerun.Engine) -> None:
    stream = generate(engine, stream=True, max_new_tokens=190)
    started = threading.Event()

    def cancel() -> None:
        started.wait()
        stream.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    next(stream)
    started.set()
    thread.join()
    assert list(stream) == []
    assert stream.generation.finish_reason == "cancelled"


@pytest.fixture
def python_interrupts() -> Iterator[None]:
    """A process that a script started in the background ignores SIGINT, and so would the tests in it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_keyboard_interrupt_leaves_the_engine_usable(engine: forerun.Engine, python_interrupts: None) -> None:
    """A real SIGINT between two chunks of a running generation."""

    def interrupt(chunk: str) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        generate(engine, stream=interrupt)
    assert generate(engine, max_new_tokens=2).text == "bc"


def test_keyboard_interrupt_within_a_round_ends_the_stream(
    engine: forerun.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = generate(engine, stream=True)
    first = next(stream)

    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds_module.Guard, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert list(stream) == []
    assert (stream.generation.text, stream.generation.finish_reason) == (first, "cancelled")
    assert generate(engine, max_new_tokens=2).text == "bc"


def test_a_failed_round_has_no_result(engine: forerun.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = generate(engine, stream=True)
    next(stream)

    def failed(self: object) -> None:
        raise forerun.ForerunError("backend error", "out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(rounds_module.Guard, "step", failed)
        with pytest.raises(forerun.ForerunError, match="out of luck"):
            next(stream)
    stream.cancel()
    with pytest.raises(forerun.ForerunError, match="has no result"):
        _ = stream.generation
    assert generate(engine, max_new_tokens=2).text == "bc"


def test_the_result_is_not_there_before_the_end(engine: forerun.Engine) -> None:
    with generate(engine, stream=True) as stream:
        next(stream)
        with pytest.raises(forerun.ForerunError, match="not read to the end") as caught:
            _ = stream.generation
    assert caught.value.status == "invalid state"
    assert stream.generation.finish_reason == "cancelled"


def test_one_generation_at_a_time(engine: forerun.Engine) -> None:
    stream = generate(engine, stream=True)
    with pytest.raises(forerun.ForerunError, match="another generation is running on this engine") as caught:
        generate(engine)
    assert caught.value.status == "invalid state"
    del stream
    assert generate(engine, max_new_tokens=2).text == "bc"
