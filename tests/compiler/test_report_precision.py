"""The precision map as people see it, and its sums."""

from __future__ import annotations

from forerun_compiler.precision_map import LayerPrecision
from forerun_compiler.report_precision import PartTotal, precision_text, summarize

ROWS = (
    LayerPrecision("target.layers.0.q_proj", "target", "int8", 1_000, 1_100, 0.0071234, None),
    LayerPrecision("target.layers.1.q_proj", "target", "int4", 1_000, 1_100, None, None, "nearest"),
    LayerPrecision("target.layers.1.router", "target", "float32", 100, 400, None, "a router"),
    LayerPrecision("drafter.fc", "drafter", "float32", 600, 2_400, None, "it reads taps"),
)


def test_the_sums() -> None:
    report = summarize(ROWS)
    assert report.bytes == 5_000
    assert report.layers == ROWS
    assert report.totals == (
        PartTotal("target", "int8", 1, 1_000, 1_100, 0.22),
        PartTotal("target", "int4", 1, 1_000, 1_100, 0.22),
        PartTotal("target", "float32", 1, 100, 400, 0.08),
        PartTotal("drafter", "float32", 1, 600, 2_400, 0.48),
    )


def test_the_text() -> None:
    assert precision_text(summarize(ROWS)).splitlines() == [
        "part     layer                   scheme   parameters  bytes  share  sensitivity  rounding  why",
        "target   target.layers.0.q_proj  int8          1,000  1,100  22.0%       0.0071",
        "target   target.layers.1.q_proj  int4          1,000  1,100  22.0%               nearest",
        "target   target.layers.1.router  float32         100    400   8.0%                         a router",
        "drafter  drafter.fc              float32         600  2,400  48.0%                         it reads taps",
        "",
        "part     layers  scheme   parameters  bytes   share",
        "target   1       int8          1,000  1,100   22.0%",
        "target   1       int4          1,000  1,100   22.0%",
        "target   1       float32         100    400    8.0%",
        "drafter  1       float32         600  2,400   48.0%",
        "all      4                     2,700  5,000  100.0%",
    ]


def test_an_empty_map() -> None:
    assert precision_text(summarize(())).endswith("all   0                        0      0   0.0%")
