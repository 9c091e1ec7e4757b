"""A bar for each row: tokens a second. Written as SVG by hand, so that a result needs no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from peers_figures import Figures, is_ideal, is_plain

_LABEL, _BAR, _NUMBER = 540, 420, 70
_ROW, _TOP = 22, 62
_COLORS = {("forerun", True): "#7aa6d8", ("forerun", False): "#1f5fa8", ("", True): "#c9c9c9", ("", False): "#8a8a8a"}
"""By engine, forerun or another, and whether it decodes plainly."""
_IDEAL = "#ffffff"
"""Of a mode that no real draft model reaches: an outline."""


def draw_chart(figures: Sequence[Figures], title: str) -> str:
    """All rows that ran, fastest first."""
    rows = sorted((row for row in figures if row.decode), key=lambda row: -_rate(row))
    most = max((_rate(row) for row in rows), default=1.0)
    width, height = _LABEL + _BAR + _NUMBER, _TOP + _ROW * len(rows) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="22" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend(),
    ]
    for number, row in enumerate(rows):
        lines += _bar(row, _TOP + _ROW * number, _BAR * _rate(row) / most)
    return "\n".join([*lines, "</svg>", ""])


def _legend() -> list[str]:
    names = ("forerun plain", "forerun speculative", "others plain", "others speculative", "others, ideal draft model")
    colors = [*_COLORS.values(), _IDEAL]
    lines = []
    for place, (name, color) in enumerate(zip(names, colors, strict=True)):
        left = 10 + 170 * place
        lines.append(f'<rect x="{left}" y="34" width="12" height="12" fill="{color}"{_outline(color)}/>')
        lines.append(f'<text x="{left + 18}" y="45">{name}</text>')
    return lines


def _bar(row: Figures, top: int, length: float) -> list[str]:
    engine = "forerun" if row.row.startswith("forerun/") else ""
    name, color = escape(row.row.replace("/", " · ")), _COLORS[engine, is_plain(row.row)]
    color = _IDEAL if is_ideal(row.row) else color
    return [
        f'<text x="{_LABEL - 8}" y="{top + 15}" text-anchor="end">{name}</text>',
        f'<rect x="{_LABEL}" y="{top + 3}" width="{length:.1f}" height="{_ROW - 6}" fill="{color}"{_outline(color)}/>',
        f'<text x="{_LABEL + length + 6:.1f}" y="{top + 15}">{_rate(row):.1f}</text>',
    ]


def _outline(color: str) -> str:
    return ' stroke="#8a8a8a" stroke-dasharray="3 2"' if color == _IDEAL else ""


def _rate(row: Figures) -> float:
    assert row.decode is not None
    return row.decode.median
