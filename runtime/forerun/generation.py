"""A generation as text: streamed in chunks of a round, or taken whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from forerun.errors import refuse_state
from forerun.rounds import FinishReason, Rounds
from forerun.statistics import Statistics, StatisticsCounter
from forerun.text import TextAssembler


@dataclass(frozen=True, slots=True)
class Generation:
    """What came out.

    `tokens` are all tokens of the generation, an end token or the tokens of a stop string included; `text` is their
    text without the stop string. Of a cancelled generation `text` is what had been delivered.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    statistics: Statistics


class Stream(Iterator[str]):
    """The text of one generation, chunk by chunk; joined, the chunks are `generation.text` exactly.

    A chunk is what a round settled: never half a character, never part of a stop string, never empty. The engine is
    busy until the stream is exhausted, cancelled or closed; `with` closes it.
    """

    def __init__(self, rounds: Rounds, assembler: TextAssembler, counter: StatisticsCounter) -> None:
        self._rounds = rounds
        self._assembler = assembler
        self._counter = counter
        self._lock = threading.RLock()
        self._delivered: list[str] = []
        self._tokens: list[int] = []
        self._generation: Generation | None = None
        self._ended = False

    def __next__(self) -> str:
        with self._lock:
            try:
                while not self._ended:
                    chunk = self._advance()
                    if chunk:
                        return chunk
            except KeyboardInterrupt:
                self._end("cancelled")
                raise
            except BaseException:
                self._end(None)
                raise
            raise StopIteration

    @property
    def generation(self) -> Generation:
        """The result; raises ForerunError ("invalid state") before the stream has ended, or when a round failed."""
        if self._generation is None:
            raise refuse_state("the generation has no result: its stream was not read to the end, or a round failed")
        return self._generation

    def cancel(self) -> None:
        """Ends the generation as "cancelled"; any thread, any time. The engine is free when this returns."""
        self._rounds.cancel()
        with self._lock:
            self._end("cancelled")

    close = cancel

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _advance(self) -> str:
        current = next(self._rounds, None)
        if current is None:
            self._end(self._rounds.finish_reason)
            return ""
        self._counter.add(current)
        chunk, used = self._assembler.push(current.committed)
        self._tokens += current.committed[:used]
        reason: FinishReason | None = "stop" if self._assembler.stopped else current.finish
        if reason is not None:
            chunk += self._assembler.finish()
        if chunk:
            self._delivered.append(chunk)
        if reason is not None:
            self._end("stop" if self._assembler.stopped else reason)
        return chunk

    def _end(self, reason: FinishReason | None) -> None:
        """Frees the engine; the result stands unless a round failed (None). Only the first call counts."""
        if self._ended:
            return
        self._ended = True
        self._rounds.close()
        if reason is not None:
            self._generation = Generation(
                text="".join(self._delivered),
                tokens=tuple(self._tokens),
                finish_reason=reason,
                statistics=self._counter.total(len(self._tokens)),
            )
