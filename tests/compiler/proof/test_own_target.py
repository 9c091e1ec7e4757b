"""The bundle's own target graph as a reference: greedy text, logits, views, and which bundles need it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from forerun_compiler.bundle import FileEntry, Manifest, read_manifest
from forerun_compiler.manifest import Precision
from forerun_compiler.precision_map import FILE_NAME, LayerPrecision, render_precision_map
from forerun_compiler.proof.own_target import OwnTarget, divergence, target_schemes
from table_bundle import EOS, TableBundle, make_table_bundle

PROMPT = tuple("fgh!abcé-d漢(".encode())


@pytest.fixture
def table(tmp_path: Path) -> TableBundle:
    return make_table_bundle(tmp_path / "table")


def open_target(table: TableBundle) -> OwnTarget:
    return OwnTarget(table.path, read_manifest(table.path), threads=1)


def test_greedy_and_logits_are_those_of_the_tables(table: TableBundle) -> None:
    own = open_target(table)
    assert own.greedy(PROMPT, 30) == tuple(table.greedy_tokens(list(PROMPT), 30))
    assert own.greedy(PROMPT[:1], 1) == tuple(table.greedy_tokens(list(PROMPT[:1]), 1))
    np.testing.assert_array_equal(own.logits(PROMPT), table.logits(list(PROMPT)))
    assert own.logits(PROMPT).dtype == np.float64


def test_it_stops_at_an_end_token(tmp_path: Path) -> None:
    table = make_table_bundle(tmp_path / "ends", ends=True)
    found = open_target(table).greedy((ord("f"),), 9)
    assert (bytes(found[:-1]), found[-1]) == (b"gh!", EOS)


def test_both_views_continue_the_prompt(table: TableBundle) -> None:
    text = (3, 250, 7)
    views = open_target(table).views(PROMPT, text)
    assert len(views) == 2
    for view in views:
        np.testing.assert_array_equal(view, table.logits([*PROMPT, *text]))
    np.testing.assert_array_equal(open_target(table).views(PROMPT, ())[1], table.logits(list(PROMPT)))


class Same:
    """A source that says what the tables say."""

    def __init__(self, table: TableBundle) -> None:
        self.table = table

    def all_logits(self, tokens: tuple[int, ...]) -> np.ndarray:
        return np.stack([self.table.logits(list(tokens[: end + 1])) for end in range(len(tokens))]).astype(np.float64)


def test_no_divergence_from_an_equal_source(table: TableBundle) -> None:
    probe = open_target(table).round
    assert divergence(probe, Same(table), [PROMPT, (1,), (2, 3)]) == 0.0
    assert divergence(probe, Same(table), [(1,)]) is None


def with_map(table: TableBundle, *rows: LayerPrecision) -> Manifest:
    (table.path / FILE_NAME).write_bytes(render_precision_map(rows))
    manifest = read_manifest(table.path)
    return replace(manifest, files={**manifest.files, FILE_NAME: FileEntry(0, "")})


def test_which_schemes_the_target_has(table: TableBundle) -> None:
    plain = read_manifest(table.path)
    assert target_schemes(table.path, plain) == frozenset()
    assert target_schemes(table.path, replace(plain, precision=Precision(drafter="int8"))) == frozenset()
    quantized = replace(plain, precision=Precision(target="int8", lm_head="int4"))
    assert target_schemes(table.path, quantized) == {"int8", "int4"}


def test_an_override_shows_in_the_map(table: TableBundle) -> None:
    def row(part: str, scheme: str) -> LayerPrecision:
        return LayerPrecision(f"{part}.x", part, scheme, 1, 1, None, None)

    dense = with_map(table, row("target", "float32"), row("drafter", "int8"), row("drafter_lm_head", "int8"))
    assert target_schemes(table.path, dense) == frozenset()
    assert target_schemes(table.path, with_map(table, row("target", "float32"), row("target", "fp8"))) == {"fp8"}
    assert target_schemes(table.path, with_map(table, row("lm_head", "int8"))) == {"int8"}
