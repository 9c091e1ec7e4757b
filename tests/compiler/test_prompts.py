"""Prompts: the built-in ones and files of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from forerun_compiler.errors import BundleError
from forerun_compiler.prompts import BUILT_IN, read_prompts, render_prompts


def test_the_built_in_prompts_suffice_for_a_proof() -> None:
    assert len(set(BUILT_IN)) == len(BUILT_IN) == 64


def test_what_is_written_is_read(tmp_path: Path) -> None:
    prompts = ('a "quote"', "two\nlines\u2028and a separator", "é漢🙂", "\t")
    (tmp_path / "p.jsonl").write_bytes(render_prompts(prompts))
    assert read_prompts(tmp_path / "p.jsonl") == prompts


def test_the_caller_chooses_the_error(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("[]\n")
    with pytest.raises(BundleError, match=r"p\.jsonl:1: expected"):
        read_prompts(tmp_path / "p.jsonl", BundleError)
