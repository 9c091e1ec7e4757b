"""The compiled graphs update their caches in place: a round's memory does not depend on the context's capacity."""

from pathlib import Path

import numpy as np
import pytest

from forerun import _core
from forerun.library import find_library
from tiny_pairs import build_pair

CAPACITY = 100_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pair with caches of about 13 MB each, 128 MB in all."""
    return build_pair(tmp_path_factory.mktemp("large"), CAPACITY).bundle


def resident_bytes() -> int:
    (row,) = [row for row in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if "VmRSS" in row]
    return int(row.split()[1]) * 1024


def generate(core: _core.Engine, decoding: str, count: int) -> None:
    core.start(
        np.array([97, 98], np.int64), max_new_tokens=count, temperature=0.0, seed=0, decoding=decoding, draft_len=0
    )
    while core.step().finish is None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("decoding", ["speculative", "plain", "padded"])
def test_no_round_copies_a_cache(bundle: Path, decoding: str) -> None:
    """A copy would touch every page of a cache; in place, only the rows that are written become resident."""
    core = _core.Engine(str(bundle), str(find_library(None, None)), 1)
    states = [core.state(i) for i in range(core.describe().n_states)]
    caches = [size for name, _, _, size in states if name.endswith((".k", ".v"))]
    assert min(caches) > 10_000_000
    assert all(entry == out for _, entry, out, _ in states)
    generate(core, decoding, 2)  # the first runs take the execution library's own working memory
    before = resident_bytes()
    generate(core, decoding, 200)
    assert resident_bytes() - before < min(caches) / 4
