"""Committed tokens become text, a round at a time: UTF-8 safe, stop strings trimmed exactly.

The text of a generation is defined without reference to rounds: the bytes of its tokens, joined, decoded as UTF-8 with
every invalid sequence replaced by U+FFFD, cut before the stop string that *ends* first. So the same tokens give the
same text however many of them a round commits: streamed or not, with speculation or without.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from forerun.errors import refuse_argument


def decode_tokens(token_bytes: Callable[[int], bytes], tokens: Sequence[int]) -> str:
    """The text of `tokens`: their bytes joined, then decoded as UTF-8; an invalid sequence becomes U+FFFD."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", errors="replace")


def parse_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """`stop` as a tuple of strings; refuses anything that is not a string, and the empty string."""
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    for position, text in enumerate(stops):
        if not isinstance(text, str):
            raise refuse_argument(f"stop[{position}]: expected a string, got {type(text).__name__}")
        if not text:
            raise refuse_argument(f"stop[{position}]: the empty string would stop before the first token; leave it out")
    return stops


class TextAssembler:
    """Takes tokens in order and gives the text that no later token can change any more.

    Held back are an incomplete UTF-8 sequence and any end of the text that could still grow into a stop string.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stops: tuple[str, ...] = ()) -> None:
        self._token_bytes = token_bytes
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self.stopped = False

    def push(self, tokens: Sequence[int]) -> tuple[str, int]:
        """Adds tokens; returns the text that is settled by them and how many of them were used.

        Fewer are used than given only where a stop string was completed: the token that completed it is the last one
        used, and `stopped` is true from then on.
        """
        settled: list[str] = []
        for used, token in enumerate(tokens, start=1):
            settled.append(self._settle(self._decoder.decode(self._token_bytes(token))))
            if self.stopped:
                return "".join(settled), used
        return "".join(settled), len(tokens)

    def finish(self) -> str:
        """Ends the text: returns what was held back, an incomplete sequence as U+FFFD; empty after a stop."""
        if self.stopped:
            return ""
        settled = self._settle(self._decoder.decode(b"", final=True))
        rest, self._pending = self._pending, ""
        return settled if self.stopped else settled + rest

    def _settle(self, text: str) -> str:
        self._pending += text
        end = self._first_stop()
        if end is not None:
            settled, self._pending, self.stopped = self._pending[:end], "", True
            return settled
        cut = len(self._pending) - self._held_back()
        settled, self._pending = self._pending[:cut], self._pending[cut:]
        return settled

    def _first_stop(self) -> int | None:
        """Where the text must be cut: the start of the stop string that ends first, of equals the longest."""
        found = [(at + len(stop), at) for stop in self._stops if (at := self._pending.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _held_back(self) -> int:
        """Length of the longest end of the pending text that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._pending)), 0, -1):
            tail = self._pending[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                return length
        return 0
