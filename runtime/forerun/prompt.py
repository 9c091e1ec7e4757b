"""A prompt in any of its three forms (text, token ids, chat messages) becomes checked token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from forerun._core import Facts
from forerun.errors import refuse_argument

Prompt = str | Sequence[int] | npt.NDArray[np.integer[Any]] | Sequence[Mapping[str, Any]]
Ids = npt.NDArray[np.int64]


def parse_prompt(
    prompt: Prompt,
    facts: Facts,
    *,
    encode_text: Callable[[str], list[int]],
    encode_chat: Callable[[Sequence[Mapping[str, Any]]], list[int]],
) -> Ids:
    """int64 ids [n], 1 <= n < capacity, each within the vocabulary; raises ForerunError ("invalid argument")."""
    if isinstance(prompt, str):
        return check_ids(encode_text(prompt), facts, "the prompt's text has no token; give at least one character")
    if isinstance(prompt, bytes | Mapping):
        raise refuse_argument(
            f"the prompt is of type {type(prompt).__name__}; give a string, token ids, or a list of chat messages"
        )
    items: list[Any] = prompt.tolist() if isinstance(prompt, np.ndarray) else list(prompt)
    if items and isinstance(items[0], Mapping):
        return check_ids(encode_chat(items), facts, "the chat template gave an empty prompt for these messages")
    return check_ids(items, facts, "the prompt is empty; give at least one token or chat message")


def check_ids(items: Sequence[Any], facts: Facts, if_empty: str) -> Ids:
    """The items as int64 ids [n]; refuses none at all, anything but integers, ids out of range, too many."""
    if not items:
        raise refuse_argument(if_empty)
    for place, item in enumerate(items):
        if isinstance(item, bool) or not hasattr(item, "__index__"):
            raise refuse_argument(f"token {place} of the prompt: expected an integer id, got {item!r}")
        if not 0 <= int(item) < facts.vocab_size:
            raise refuse_argument(
                f"token {place} of the prompt: expected an id in 0 .. {facts.vocab_size - 1}, got {int(item)}"
            )
    if len(items) >= facts.capacity:
        raise refuse_argument(
            f"the prompt has {len(items)} tokens; this bundle holds {facts.capacity} with at least one new token "
            f"among them: shorten the prompt to {facts.capacity - 1}, or build with a larger `capacity`"
        )
    return np.asarray([int(item) for item in items], dtype=np.int64)
