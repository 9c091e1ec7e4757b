"""The benchmark of engine builds, at sizes that take seconds."""

from __future__ import annotations

import functools
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import random_pair
import tensorrt_builds

from forerun_compiler.graph import constant_array
from forerun_compiler.pipeline import LinkedGraphs
from forerun_compiler.progress import StageProgress

TINY = random_pair.Sizes(
    hidden=64, heads=4, kv_heads=2, head_dim=32, mlp=96, layers=4, vocab=128,
    drafter_layers=1, markov_rank=8, draft_len=3, capacity=64, prefill_chunk=16,
)  # fmt: skip


@functools.cache
def linked() -> LinkedGraphs:
    return random_pair.link_random(TINY, lambda _: None)


def test_random_weights_differ_and_stay_small() -> None:
    arrays = [constant_array(value) for value in linked().round.graph.initializers.values()]
    weights = [array for array in arrays if array is not None and array.ndim == 2 and array.dtype == np.float32]
    weights = [array for array in weights if array.std() and abs(array.std() / random_pair.SPREAD - 1) < 0.2]
    assert len(weights) >= 7 * (TINY.layers + TINY.drafter_layers)
    assert len({array.tobytes() for array in weights}) == len(weights)


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")
def test_a_row_says_what_a_build_took(tmp_path: Path) -> None:
    shown = StageProgress(io.StringIO(), quiet=True)
    rows = list(tensorrt_builds.measure("tiny", linked(), "fp8", tmp_path, shown))
    assert [(row.graph, row.capabilities) for row in rows] == [("round", "8.9, 12.0"), ("plain", "8.9, 12.0")]
    for row in rows:
        assert row.engine == (tmp_path / f"{row.graph}.engine").stat().st_size
        assert row.disk == sum(path.stat().st_size for path in tmp_path.iterdir())
        assert row.peak_memory > 100 << 20  # the library alone
        assert row.build_seconds > 0
        assert row.launches > 10
        assert row.products["fp8"] >= 4 * TINY.layers + 1
    table = tensorrt_builds.markdown(rows, {"tiny": 1.0}, "the command")
    assert "took 1 s for tiny" in table
    assert table.count("| tiny | fp8 | 8.9, 12.0 |") == 2
