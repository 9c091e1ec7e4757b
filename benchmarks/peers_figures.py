"""The figures of each row, from what the processes answered."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peers_plan import COMPILED, IDEAL, PLAIN, REFERENCE, SPECULATIVE

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Rate:
    """Tokens a second over the runs of a row: all prompts of a run together."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Agreement:
    """Generated tokens that equal the reference's until the first difference: the mean over prompts; and how many
    prompts are equal to the end."""

    mean: float
    equal: int
    prompts: int


@dataclass(frozen=True)
class Figures:
    """One row. None is what its peer does not tell or what does not apply; `failure` is the reason of an empty row.

    `decode` leaves out the prompt and the tokens that came with it, `whole` is all tokens over all the time. `ratio` is
    the decode rate over the first bundle's of the same kind, plain or speculative, of the same turn. Bytes of a token
    are those of the weights of linear layers that were read for it, the drafter's included; `bound_share` is the decode
    rate's share of what the memory's bandwidth allows at that many.
    """

    row: str
    failure: str | None = None
    runs: int = 0
    decode: Rate | None = None
    whole: Rate | None = None
    ratio: float | None = None
    bits_per_weight: float | None = None
    file_bytes: int | None = None
    tokens_per_round: float | None = None
    looked_up_share: float | None = None
    bytes_per_token: float | None = None
    bound_share: float | None = None
    agreement: Agreement | None = None
    kl: float | None = None
    perplexity: float | None = None
    idle_cores: float | None = None


def is_plain(row: str) -> bool:
    return row.rpartition("/")[2] in (PLAIN, COMPILED)


def is_ideal(row: str) -> bool:
    return row.rpartition("/")[2].startswith(IDEAL)


def decode_rate(run: Run) -> float:
    """Tokens after the first ones over the time after these."""
    return _later(run) / sum(one["seconds"] - one["first_seconds"] for one in run["prompts"])


def whole_rate(run: Run) -> float:
    return sum(len(one["tokens"]) for one in run["prompts"]) / sum(one["seconds"] for one in run["prompts"])


def agree(found: Sequence[Sequence[int]], reference: Sequence[Sequence[int]]) -> Agreement:
    """Compare generations of the same prompts."""
    lengths = [_common(ours, theirs) for ours, theirs in zip(found, reference, strict=True)]
    equal = sum(list(ours) == list(theirs) for ours, theirs in zip(found, reference, strict=True))
    return Agreement(statistics.mean(lengths), equal, len(lengths))


def ratio_to(runs: Sequence[Run], first: Sequence[Run]) -> float | None:
    """The median of a row's decode rate over the other's in the same group and repeat; None where they never met."""
    there = {(run["group"], run["repeat"]): decode_rate(run) for run in first}
    met = [run for run in runs if (run["group"], run["repeat"]) in there]
    if not met:
        return None
    return statistics.median(decode_rate(run) / there[run["group"], run["repeat"]] for run in met)


def make_figures(parts: Mapping[str, Any], first: str, order: Sequence[str]) -> list[Figures]:
    """All rows of `order`; `first` is the name of the bundle that is compared with, "forerun/NAME"."""
    return [_row(row, parts, first) for row in order]


def _row(row: str, parts: Mapping[str, Any], first: str) -> Figures:
    runs = parts["runs"].get(row)
    if not runs:
        return Figures(row, failure=parts["failures"].get(row, "not run"))
    facts, name = parts["facts"][row], row.rpartition("/")[0]
    compared = f"{first}/{PLAIN if is_plain(row) else SPECULATIVE}"
    rate, read = _rate([decode_rate(run) for run in runs]), _bytes_per_token(runs, facts)
    reference = parts["runs"].get(f"{REFERENCE}/{PLAIN}")
    quality = parts["divergence"].get(name, {})
    idle = [value for key, value in parts["idle"].items() if row.rpartition("/")[2] in key.split("/")[-1].split("+")
            and key.rpartition("/")[0] == name]  # fmt: skip
    return Figures(
        row=row,
        failure=parts["failures"].get(row),
        runs=len(runs),
        decode=rate,
        whole=_rate([whole_rate(run) for run in runs]),
        ratio=ratio_to(runs, parts["runs"].get(compared, ())),
        bits_per_weight=8 * facts["linear_bytes"] / facts["linear_parameters"],
        file_bytes=facts["file_bytes"],
        tokens_per_round=_tokens_per_round(runs),
        looked_up_share=_looked_up_share(runs),
        bytes_per_token=read,
        bound_share=None if read is None else read * rate.median / parts["bandwidth"]["bytes_per_s"],
        agreement=agree(_tokens(runs[0]), _tokens(reference[0])) if reference else None,
        kl=quality.get("kl"),
        perplexity=quality.get("perplexity"),
        idle_cores=idle[0] if idle else None,
    )


def _tokens(run: Run) -> list[list[int]]:
    return [one["tokens"] for one in run["prompts"]]


def _later(run: Run) -> int:
    return sum(len(one["tokens"]) - one["first_tokens"] for one in run["prompts"])


def _rate(values: Sequence[float]) -> Rate:
    return Rate(statistics.median(values), min(values), max(values))


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    for place, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return place
    return min(len(ours), len(theirs))


def _tokens_per_round(runs: Sequence[Run]) -> float | None:
    rounds = _sum(runs, "rounds")
    return sum(_later(run) for run in runs) / rounds if rounds else None


def _looked_up_share(runs: Sequence[Run]) -> float | None:
    """Of the rounds, those that verified what prompt lookup found."""
    rounds, looked_up = _sum(runs, "rounds"), _sum(runs, "looked_up")
    return looked_up / rounds if rounds and looked_up is not None else None


def _bytes_per_token(runs: Sequence[Run], facts: Mapping[str, Any]) -> float | None:
    rounds, passes = _sum(runs, "rounds"), _sum(runs, "draft_passes")
    if rounds is None or (passes is None and facts["draft_bytes"]):
        return None
    read = rounds * facts["linear_bytes"] + (passes or 0) * facts["draft_bytes"]
    return float(read / sum(_later(run) for run in runs))


def _sum(runs: Sequence[Run], name: str) -> int | None:
    values = [one.get(name) for run in runs for one in run["prompts"]]
    return None if None in values else sum(values)
