"""What a caller asks of one generation, checked before the core sees it."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal, SupportsFloat, SupportsIndex, get_args

import numpy as np

from forerun._core import Facts
from forerun.errors import refuse_argument

Decoding = Literal["speculative", "plain", "padded"]
"""speculative: verify a draft every round; plain: one token a round, nothing of the drafter runs; padded: the fused
graph as wide as for `draft_len` tokens without a draft, which is speculation off through the very same kernels."""


@dataclass(frozen=True, slots=True)
class Request:
    """One generation's settings; `draft_len` 0 is all that is drafted, `planning` leaves out what costs too much,
    `lookup` takes drafts from the text where it repeats itself."""

    max_new_tokens: int
    temperature: float
    seed: int
    decoding: Decoding
    draft_len: int
    planning: bool
    lookup: bool


def parse_request(
    facts: Facts,
    *,
    max_new_tokens: SupportsIndex,
    temperature: SupportsFloat,
    seed: SupportsIndex,
    decoding: str,
    draft_len: SupportsIndex | None,
    planning: bool,
    lookup: bool,
) -> Request:
    """Checks the settings against the bundle; raises ForerunError ("invalid argument") that names the setting."""
    if decoding not in get_args(Decoding):
        raise refuse_argument(f"decoding: expected one of {', '.join(get_args(Decoding))}, got {decoding!r}")
    for name, switch in (("planning", planning), ("lookup", lookup)):
        if not isinstance(switch, bool):
            raise refuse_argument(f"{name}: expected True or False, got {switch!r}")
    limit = np.iinfo(np.int64).max
    longest = max(facts.draft_len, facts.lookup_len) if decoding == "padded" else facts.draft_len
    return Request(
        max_new_tokens=_integer("max_new_tokens", max_new_tokens, 1, limit),
        temperature=_temperature(temperature),
        seed=_integer("seed", seed, 0, 2**64 - 1),
        decoding=decoding,  # type: ignore[arg-type]
        draft_len=0 if draft_len is None else _integer("draft_len", draft_len, 1, longest),
        planning=planning,
        lookup=lookup,
    )


def _integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise refuse_argument(f"{name}: expected an integer, got {value!r} of type {type(value).__name__}")
    number = operator.index(value)
    if not low <= number <= high:
        raise refuse_argument(f"{name}: expected {low} .. {high}, got {number}")
    return number


def _temperature(value: SupportsFloat) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise refuse_argument(f"temperature: expected a number, got {value!r} of type {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise refuse_argument(f"temperature: expected 0 (greedy) or a finite number above it, got {number}")
    smallest, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    if number and not smallest <= number <= largest:
        raise refuse_argument(f"temperature: {number} does not fit the graph's float32; use 0 for greedy decoding")
    return number
