"""The generation loop at its lowest level: an iterator of rounds that holds the engine while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Literal

from forerun import _core
from forerun.costs import Costs
from forerun.errors import ForerunError, refuse_state
from forerun.prompt import Ids
from forerun.request import Request

FinishReason = Literal["stop", "length", "capacity", "cancelled"]


class Guard:
    """Keeps the calls of one core engine apart: one generation at a time, one call at a time, none after closing."""

    def __init__(self, core: _core.Engine) -> None:
        self._core = core
        self._call = threading.RLock()  # reentrant: a signal handler may close in the middle of a step
        self._claim = threading.Lock()
        self._closed = False

    def start(self, prompt: Ids, request: Request) -> None:
        """Claims the engine and begins a generation.

        Raises ForerunError: "invalid state" while another one runs or after closing, else what the core refuses.
        """
        if self._closed:
            raise refuse_state("the engine is closed; load the bundle again")
        if not self._claim.acquire(blocking=False):
            raise refuse_state(
                "another generation is running on this engine; finish it, or cancel() or close() its stream, "
                "or load the bundle a second time"
            )
        try:
            with self._call:
                self._core.start(
                    prompt,
                    request.max_new_tokens,
                    request.temperature,
                    request.seed,
                    request.decoding,
                    request.draft_len,
                    not request.planning,
                    not request.lookup,
                )
        except BaseException:
            self._claim.release()
            raise

    def set_costs(self, costs: Costs | None) -> None:
        """From the next generation on; None forgets those before."""
        with self._call:
            self._core.set_costs(*((0.0, []) if costs is None else (costs.plain, list(costs.rounds))))

    def step(self) -> _core.Round:
        """One round of the generation that holds the claim."""
        with self._call:
            return self._core.step()

    def release(self) -> None:
        """Gives the claim back."""
        self._claim.release()

    def close(self) -> None:
        """Frees the core engine after the round that may be running; again is fine."""
        self._closed = True
        with self._call:
            self._core.close()


class Rounds(Iterator[_core.Round]):
    """The rounds of one generation, prefill first (`phase`); the last one has `finish` set.

    Ends early by `cancel()` (any thread) or `close()`; closed by itself when it is exhausted, when a round fails, when
    used as a context manager, and when nothing refers to it any more. Until then no other generation can run.
    `finish_reason` is None while it runs, and stays None when a round failed.
    """

    def __init__(self, guard: Guard, prompt: Ids, request: Request) -> None:
        self._open = self._cancelled = False
        self._guard = guard
        self._lock = threading.RLock()  # reentrant: a signal handler may cancel in the middle of __next__
        self.finish_reason: FinishReason | None = None
        self.prompt_tokens = len(prompt)
        guard.start(prompt, request)
        self._open = True

    def __next__(self) -> _core.Round:
        with self._lock:
            if self._cancelled:
                self._end("cancelled")
            if not self._open:
                raise StopIteration
            try:
                current = self._guard.step()
            except ForerunError:
                self._end(None)
                raise
            except BaseException:  # KeyboardInterrupt: the round may be lost, the engine must not be
                self._end("cancelled")
                raise
            if current.finish is not None:
                self._end(current.finish)
            return current

    def cancel(self) -> None:
        """Ends the generation as "cancelled"; a round that runs in another thread is waited for."""
        self._cancelled = True  # seen by a thread that would otherwise win the lock for another round
        with self._lock:
            self._end("cancelled")

    close = cancel

    def __enter__(self) -> Rounds:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_open", False):
            self.close()

    def _end(self, reason: FinishReason | None) -> None:
        if self._open:
            self._open = False
            self.finish_reason = reason
            self._guard.release()
