"""The precision map of a bundle as text and as data: every layer, then the totals by part and scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forerun_compiler.precision_map import LayerPrecision


@dataclass(frozen=True)
class PartTotal:
    """What the layers of one part with one scheme take together; `share` is of all bytes."""

    part: str
    scheme: str
    layers: int
    parameters: int
    bytes: int
    share: float


@dataclass(frozen=True)
class PrecisionReport:
    """The map and its totals, in the order in which parts and schemes first occur."""

    bytes: int
    totals: tuple[PartTotal, ...]
    layers: tuple[LayerPrecision, ...]


def summarize(rows: Sequence[LayerPrecision]) -> PrecisionReport:
    """Add up a precision map."""
    whole = sum(row.bytes for row in rows)
    totals = []
    for part, scheme in dict.fromkeys((row.part, row.scheme) for row in rows):
        own = [row for row in rows if (row.part, row.scheme) == (part, scheme)]
        size = sum(row.bytes for row in own)
        totals.append(PartTotal(part, scheme, len(own), sum(row.parameters for row in own), size, _share(size, whole)))
    return PrecisionReport(whole, tuple(totals), tuple(rows))


def precision_text(report: PrecisionReport) -> str:
    """A table of layers and one of totals."""
    layers = [("part", "layer", "scheme", "parameters", "bytes", "share", "sensitivity", "rounding", "why")]
    layers += [
        (
            row.part,
            row.layer,
            row.scheme,
            f"{row.parameters:,}",
            f"{row.bytes:,}",
            f"{_share(row.bytes, report.bytes):.1%}",
            "" if row.sensitivity is None else f"{row.sensitivity:.2g}",
            row.rounding or "",
            row.reason or "",
        )
        for row in report.layers
    ]
    totals = [("part", "layers", "scheme", "parameters", "bytes", "share")]
    totals += [
        (each.part, str(each.layers), each.scheme, f"{each.parameters:,}", f"{each.bytes:,}", f"{each.share:.1%}")
        for each in report.totals
    ]
    rows = sum(row.parameters for row in report.layers)
    last = (
        "all",
        str(len(report.layers)),
        "",
        f"{rows:,}",
        f"{report.bytes:,}",
        f"{_share(report.bytes, report.bytes):.1%}",
    )
    return "\n".join([*_columns(layers), "", *_columns([*totals, last])])


def _share(size: int, whole: int) -> float:
    return size / whole if whole else 0.0


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The first three columns and any text after the figures to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if 3 <= place < 7 else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
