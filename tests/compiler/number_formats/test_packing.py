"""Blocks: known bytes, and back again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats.packing import pack_blocks, unpack_blocks

RNG = np.random.default_rng(0)


def test_known_bytes() -> None:
    codes = np.zeros((17, 65), np.int8)
    codes[0, :5] = [1, 2, 3, 4, -127]
    codes[1, 0], codes[16, 64] = 127, 5
    packed = pack_blocks(codes)
    assert packed.shape == (2, 2, 1024)
    assert packed[0, 0, :8].tolist() == [129, 130, 131, 132, 255, 128, 128, 128]
    assert packed[0, 0, 64] == 1  # the fifth input of output 0 begins the second group of four
    assert packed[1, 1, 0] == 133
    assert np.count_nonzero(packed != 128) == 7


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 200))
def test_packing_is_undone(rows: int, columns: int) -> None:
    codes = RNG.integers(-128, 128, (rows, columns)).astype(np.int8)
    packed = pack_blocks(codes)
    np.testing.assert_array_equal(unpack_blocks(packed, rows, columns), codes)
    assert (packed != 128).sum() == (codes != 0).sum()


def test_a_sum_that_could_overflow_is_refused() -> None:
    with pytest.raises(PassError, match=r"here: expected at most 131072 inputs, .* found 131073\."):
        pack_blocks(np.ones((1, 131073), np.int8), "here")
