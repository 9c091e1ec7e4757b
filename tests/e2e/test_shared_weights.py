"""Quantized weights stay in their file: both graphs map it, and opening the second copies nothing of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import tiny_drafters
import tiny_models
import tiny_pairs
from forerun_compiler.build import write_compiled
from forerun_compiler.compilation import compile_linked
from forerun_compiler.manifest import Precision
from forerun_compiler.pipeline import link_recipe

WIDTH = 32768
"""Of the target's feed-forward layers: with the drafter's as wide 25 M weights, beside which all else is small."""
OPENED = """
import sys
import forerun

def bytes_of(key, inside=""):
    total, counting = 0, False
    for line in open("/proc/self/smaps"):
        if "-" in line.split()[0]:
            counting = inside in line
        elif counting and line.startswith(key + ":"):
            total += 1024 * int(line.split()[1])
    return total

with forerun.load(sys.argv[1], threads=1) as engine:
    before = bytes_of("Anonymous")
    for decoding in ("speculative", "plain"):
        engine.generate("import os", max_new_tokens=20, decoding=decoding)
        print(bytes_of("Anonymous") - before, bytes_of("Rss", "weights.bin"), bytes_of("Anonymous", "weights.bin"))
"""


@pytest.mark.slow
def test_the_weights_of_both_graphs_are_in_memory_once(tmp_path: Path) -> None:
    tiny_models.save_target(tmp_path / "target", intermediate_size=WIDTH)
    tiny_drafters.save_dspark(tmp_path / "drafter", tmp_path / "target", layers=1)
    asked = tiny_pairs.recipe(tmp_path / "target", tmp_path / "drafter", capacity=64)
    asked = replace(asked, precision=Precision("int4", "int4", "int4", "int4"))
    compiled = compile_linked(asked, link_recipe(asked, lambda _: None), None, lambda *_: None)
    write_compiled(asked, compiled, tmp_path / "bundle", lambda *_: None)
    weights = (tmp_path / "bundle/weights.bin").stat().st_size
    assert weights > 12_000_000
    # A process of its own: what this one has freed would be taken first.
    command = [sys.executable, "-c", OPENED, str(tmp_path / "bundle")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (round_, mapped, _), (both, mapped_by_both, changed) = ([int(number) for number in row.split()] for row in found)
    assert mapped > 0.9 * weights, f"expected the round to read the {weights} bytes from the file, not {mapped}"
    # The target's share, three quarters, is mapped a second time: the same pages.
    assert mapped_by_both > 1.6 * weights, f"expected plain decoding to read them there too, found {mapped_by_both}"
    assert changed == 0
    for what, grown in (("the round", round_), ("plain decoding", both - round_)):
        assert grown < 0.5 * weights, f"expected {what} to copy none of the {weights} bytes, found {grown} more in use"
