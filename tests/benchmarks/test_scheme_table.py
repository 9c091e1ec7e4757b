"""The table of schemes, from made-up figures: nothing is timed here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import scheme_table
from decoding import Decoded
from in_turn import feed_widths
from pair_bundles import Bundle
from scheme_recipes import CANDIDATES
from scheme_table import Report, Row, Times
from schemes import make_rows

import tiny_bundles
from forerun_compiler.bundle import FileEntry
from forerun_compiler.precision_map import LayerPrecision, render_precision_map
from forerun_compiler.proof.quality import Quality

TIMES = Times(2000.0, {1: 4000.0, 8: 5400.0}, 100.0, 250.0, 2.5)


def _row(scheme: str = "int8", times: Times | None = TIMES) -> Row:
    return Row(scheme, 13_000_000, 14_500_000, 0.0123, 10.5, 10.0, 4.8, 16, 16, None, times)


def _report(*rows: Row) -> Report:
    return Report(
        pair="demo",
        target_parameters=8_900_000,
        drafter_parameters=6_000_000,
        machine="Some CPU, 2 cores, 2 threads",
        versions={"python": "3.11", "forerun": "0.1.0"},
        command="python benchmarks/schemes.py --pair demo",
        created="2026-01-01",
        draft_len=7,
        cached_tokens=256,
        quality_tokens=4000,
        prompts=16,
        tokens=128,
        feeds={1: (1, 0), 8: (1, 7)},
        rows=rows,
    )


def _cells(markdown: str, scheme: str) -> list[str]:
    (line,) = (line for line in markdown.splitlines() if line.startswith(f"| {scheme} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def _columns(markdown: str) -> list[str]:
    return _cells(markdown, "scheme")


def test_a_row_has_every_figure_under_its_heading() -> None:
    markdown = scheme_table.render_markdown(_report(_row()))
    found = dict(zip(_columns(markdown), _cells(markdown, "int8"), strict=True))
    assert found == {
        "scheme": "int8",
        "weights MB": "13.0",
        "file MB": "14.5",
        "KL nats/token": "0.01230",
        "perplexity": "10.500 (+5.00%)",
        "acceptance length": "4.80",
        "speculative = plain": "16 of 16",
        "verify": "not run",
        "plain step": "2.00",
        "T(1)": "4.00",
        "T(8)": "5.40",
        "T(16)": "-",
        "T(8)/T(1)": "1.35",
        "plain tokens/s": "100.0",
        "speculative tokens/s": "250.0",
        "speculative / plain": "2.50",
    }


def test_an_emulated_scheme_has_no_times_and_as_many_cells() -> None:
    markdown = scheme_table.render_markdown(_report(_row(), _row("fp8", None)))
    cells = _cells(markdown, "fp8")
    assert len(cells) == len(_columns(markdown)) == len(_cells(markdown, "int8"))
    assert (cells[1], cells[2]) == ("13.0", "emulated")
    assert cells[8:] == ["emulated"] * 8


def test_the_page_says_how_it_was_measured() -> None:
    markdown = scheme_table.render_markdown(_report(_row()))
    for text in ("Some CPU, 2 cores", "`python benchmarks/schemes.py --pair demo`", "forerun 0.1.0", "8.9 M"):
        assert text in markdown
    assert "T(8) is 1 known and 7 drafted" in markdown


def test_the_json_has_the_same_rows() -> None:
    loaded = json.loads(scheme_table.render_json(_report(_row(), _row("fp8", None))))
    assert [row["scheme"] for row in loaded["rows"]] == ["int8", "fp8"]
    assert loaded["rows"][0]["times"]["round_us"] == {"1": 4000.0, "8": 5400.0}
    assert loaded["rows"][1]["times"] is None


def test_a_round_is_fed_as_many_drafts_as_there_can_be() -> None:
    """Of the tiny facts: drafts of 4, prompt chunks of 16; a width with 17 known tokens does not fit one."""
    assert feed_widths(tiny_bundles.FACTS, (1, 3, 8, 20, 21)) == {1: (1, 0), 3: (1, 2), 8: (4, 4), 20: (16, 4)}


@pytest.mark.parametrize("name", ["int8", "nvfp4"])
def test_rows_join_what_was_measured_apart(tmp_path: Path, name: str) -> None:
    manifest = tiny_bundles.manifest()
    manifest = type(manifest)(**{**vars(manifest), "files": {"weights.bin": FileEntry(1234, "")}})
    bundle = Bundle(CANDIDATES[name], tmp_path, manifest)
    (tmp_path / "precision.json").write_bytes(
        render_precision_map([LayerPrecision("a", "target", name, 8, size, None, None) for size in (30, 4)])
    )
    rounds = {} if bundle.candidate.is_emulated else {name: {0: 10.0, 1: 20.0, 8: 30.0}}
    decoded = {name: Decoded(5.0, 15.0, 3.0, 4.5, 8, 7)}
    (row,) = make_rows([bundle], {name: Quality(0.5, math.e, 2.0, 99)}, rounds, decoded)
    assert (row.weight_bytes, row.file_bytes, row.kl, row.acceptance_length) == (34, 1234, 0.5, 4.5)
    assert (row.prompts, row.prompts_equal) == (8, 7)
    assert row.times == (None if name == "nvfp4" else Times(10.0, {1: 20.0, 8: 30.0}, 5.0, 15.0, 3.0))
