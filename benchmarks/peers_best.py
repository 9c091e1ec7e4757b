"""The fastest of the other engines, plain and speculative, and forerun's bundles beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peers_figures import Figures, is_ideal, is_plain, ratio_to
from peers_plan import PLAIN, SPECULATIVE

_SAME_BITS = 0.005
"""Bits a weight that differ by less are the same in the table."""
_FEW_BITS = 6.0
"""Four-bit weights have fewer than this, with scales and the layers that are kept finer."""


@dataclass(frozen=True)
class Standing:
    """A bundle's row `ours` over `peer`, the fastest of the other engines' rows of its kind, plain or speculative.

    With `at_bits` only rows with the same or fewer bits a weight are taken; `peer` is None where there is none. `ratio`
    is of decode rates in the same turns, or of their medians where the two were never loaded together.
    """

    kind: str
    ours: str
    at_bits: bool
    peer: str | None
    ratio: float | None


def find_standings(figures: Sequence[Figures], runs: Mapping[str, Any]) -> list[Standing]:
    """For both kinds and every bundle: beside all rows, and beside those of the same or fewer bits."""
    ran = [row for row in figures if row.decode]
    found = []
    for kind in (PLAIN, SPECULATIVE):
        others = [
            row for row in ran if not _is_ours(row) and not is_ideal(row.row) and is_plain(row.row) == (kind == PLAIN)
        ]
        for ours in (row for row in ran if _is_ours(row) and row.row.endswith(f"/{kind}")):
            for at_bits in (False, True):
                allowed = [row for row in others if not at_bits or _bits(row) <= _bits(ours) + _SAME_BITS]
                best = max(allowed, key=_rate, default=None)
                found.append(
                    Standing(
                        kind, ours.row, at_bits, best and best.row, None if best is None else _over(ours, best, runs)
                    )
                )
    return found


def standing_lines(figures: Sequence[Figures], standings: Sequence[Standing]) -> list[str]:
    """A line for each kind, and one with the divergence of all four-bit weights."""
    rows = {row.row: row for row in figures}
    lines = [_kind_line(kind, rows, [one for one in standings if one.kind == kind]) for kind in (PLAIN, SPECULATIVE)]
    coarse = {row.row.rpartition("/")[0]: row.kl for row in figures if row.kl is not None and _bits(row) < _FEW_BITS}
    kls = ", ".join(f"{name} {kl:.4f}" for name, kl in coarse.items())
    return [line for line in (*lines, f"- KL of four-bit weights: {kls}." if kls else "") if line]


def _kind_line(kind: str, rows: Mapping[str, Figures], standings: Sequence[Standing]) -> str:
    overall = [one for one in standings if not one.at_bits]
    if not overall or overall[0].peer is None:
        return ""
    title = "Best peer plain" if kind == PLAIN else "Best peer speculative mode, ideal draft models left out"
    lines = [f"- {title}: {_named(rows[overall[0].peer])}; " + ", ".join(_times(one) for one in overall) + "."]
    for one in standings:
        if one.at_bits:
            found = "none" if one.peer is None else f"{_named(rows[one.peer])}; {_times(one)}"
            lines.append(f" With the same or fewer bits than {one.ours} ({_bits(rows[one.ours]):.2f}): {found}.")
    return "".join(lines)


def _named(row: Figures) -> str:
    return f"**{row.row}**, {_rate(row):.1f} tokens/s at {_bits(row):.2f} bits a weight"


def _times(standing: Standing) -> str:
    return f"{standing.ours} is {standing.ratio:.2f} times as fast"


def _is_ours(row: Figures) -> bool:
    return row.row.startswith("forerun/")


def _over(ours: Figures, theirs: Figures, runs: Mapping[str, Any]) -> float:
    together = ratio_to(runs[ours.row], runs[theirs.row])
    return _rate(ours) / _rate(theirs) if together is None else together


def _rate(row: Figures) -> float:
    assert row.decode is not None
    return row.decode.median


def _bits(row: Figures) -> float:
    return float("inf") if row.bits_per_weight is None else row.bits_per_weight
