"""The open bundle: what it generates, as text or round by round."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from forerun import _core
from forerun.chat import Message, render_chat
from forerun.costs import Costs
from forerun.device import Choice
from forerun.errors import refuse_argument
from forerun.generation import Generation, Stream
from forerun.prompt import Prompt, parse_prompt
from forerun.request import Decoding, parse_request
from forerun.rounds import Guard, Rounds
from forerun.statistics import StatisticsCounter
from forerun.text import TextAssembler, decode_tokens, parse_stops

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Engine:
    """A bundle, opened by `load`. One generation at a time; load the bundle again for another beside it."""

    def __init__(
        self, core: _core.Engine, folder: Path, choice: Choice, on_close: Callable[[], None] = lambda: None
    ) -> None:
        self.facts = core.describe()
        self.device = choice
        self._on_close = on_close
        self._core = core
        self._guard = Guard(core)
        self._folder = folder

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"<forerun.Engine {facts.name}: {facts.target_architecture} + {facts.drafter_family}, "
            f"{facts.backend} on {self.device.device}>"
        )

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        stop: str | Sequence[str] | None = ...,
        stream: Literal[False] | Callable[[str], bool | None] = ...,
        decoding: Decoding = ...,
        draft_len: int | None = ...,
        planning: bool = ...,
        lookup: bool = ...,
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        seed: int = ...,
        stop: str | Sequence[str] | None = ...,
        stream: Literal[True],
        decoding: Decoding = ...,
        draft_len: int | None = ...,
        planning: bool = ...,
        lookup: bool = ...,
    ) -> Stream: ...
    def generate(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
        stream: bool | Callable[[str], bool | None] = False,
        decoding: Decoding = "speculative",
        draft_len: int | None = None,
        planning: bool = True,
        lookup: bool = True,
    ) -> Generation | Stream:
        """Continues `prompt`: text, token ids, or chat messages (for bundles with a chat template).

        `temperature` 0 is greedy. `stop` strings end the text and are not part of it. With `stream` true the result
        is an iterator of text chunks (its `generation` holds the result at the end, `cancel()` ends it early); with a
        function, the function is called with every chunk and ends the generation by returning False.
        `draft_len` verifies at most so many of the drafter's tokens a round; with `planning`, and costs of this machine
        in the bundle (`build-engine bench --save`), a round verifies as many as pay, which may be none. With `lookup`,
        in a bundle with prompt lookup, what followed the text's last tokens before may be verified in their place.
        Raises ForerunError for what cannot be served, before anything runs.
        """
        stops = parse_stops(stop)
        if not isinstance(stream, bool) and not callable(stream):
            raise refuse_argument(f"stream: expected True, False or a function of one chunk, got {stream!r}")
        rounds = self.rounds(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            decoding=decoding,
            draft_len=draft_len,
            planning=planning,
            lookup=lookup,
        )
        counter = StatisticsCounter(rounds.prompt_tokens, max(self.facts.draft_len, self.facts.lookup_len))
        chunks = Stream(rounds, TextAssembler(self._core.token_bytes, stops), counter)
        if stream is True:
            return chunks
        with chunks:
            for chunk in chunks:
                if callable(stream) and stream(chunk) is False:
                    chunks.cancel()
        return chunks.generation

    def rounds(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        decoding: Decoding = "speculative",
        draft_len: int | None = None,
        planning: bool = True,
        lookup: bool = True,
    ) -> Rounds:
        """The same generation, round by round: what was committed, what was drafted, and the times.

        The first rounds read the prompt (`phase` is "prefill"); the last of these commits the first token.
        The engine is busy until the iterator is exhausted or closed.
        """
        request = parse_request(
            self.facts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            decoding=decoding,
            draft_len=draft_len,
            planning=planning,
            lookup=lookup,
        )
        ids = parse_prompt(prompt, self.facts, encode_text=self.encode, encode_chat=self._encode_chat)
        return Rounds(self._guard, ids, request)

    def set_costs(self, costs: Costs | None) -> None:
        """Plan the generations that begin from now on by these costs; None: verify every draft.

        `load` does this with what the bundle knows of this machine. `facts.has_costs` says whether there are any.
        """
        self._guard.set_costs(costs)
        self.facts = self._core.describe()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the special tokens that the tokenizer itself puts around a text."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`: their bytes joined and decoded as UTF-8, anything invalid as U+FFFD."""
        return decode_tokens(self._core.token_bytes, tokens)

    def close(self) -> None:
        """Frees the bundle's memory; an unfinished stream ends with an error. Calling it again is fine."""
        self._guard.close()
        self._on_close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_file(os.fspath(self._folder / "tokenizer.json"))

    @cached_property
    def _chat_template(self) -> str | None:
        """The template, if the manifest lists one: a file that the core did not hash is never read."""
        manifest = json.loads((self._folder / "manifest.json").read_text(encoding="utf-8"))
        if "chat_template.jinja" not in manifest["files"]:
            return None
        return (self._folder / "chat_template.jinja").read_text(encoding="utf-8")

    def _encode_chat(self, messages: Sequence[Message]) -> list[int]:
        if self._chat_template is None:
            raise refuse_argument(
                f"the bundle {self._folder} has no chat template, so it takes no chat messages; "
                "pass the prompt as text, or as token ids"
            )
        text = render_chat(self._chat_template, messages, special_tokens=self._special_tokens())
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _special_tokens(self) -> Mapping[str, str]:
        """The spelling of the special tokens that templates write themselves."""
        ids: dict[str, Any] = {
            "bos_token": self.facts.bos_token_id,
            "eos_token": next(iter(self.facts.eos_token_ids), None),
        }
        spelled = {name: self._tokenizer.id_to_token(token) for name, token in ids.items() if token is not None}
        return {name: text for name, text in spelled.items() if text is not None}
