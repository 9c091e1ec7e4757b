"""Blocks: known bytes, and back again."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats.packing import (
    pack_blocks,
    pack_nibbles,
    pack_scales,
    unpack_blocks,
    unpack_nibbles,
    unpack_scales,
)

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


def test_known_bytes_of_nibbles() -> None:
    codes = np.zeros((17, 65), np.int8)
    codes[0, :5] = [-8, -7, 1, 7, 2]
    codes[0, 32], codes[1, 0], codes[15, 63], codes[16, 64] = 3, 4, -1, 5
    packed = pack_nibbles(codes)
    assert (packed.shape, packed.dtype) == ((2, 2, 512), np.uint8)
    # Input 32 lies above input 0: 3 + 8 over -8 + 8.
    assert packed[0, 0, :5].tolist() == [0xB0, 0x81, 0x89, 0x8F, 0x8C]
    assert packed[0, 0, 64] == 0x8A  # the fifth input of output 0 begins the second group of four
    assert packed[0, 0, 511] == 0x78  # the last byte: input 63 over input 31
    assert packed[1, 1, 0] == 0x8D
    assert np.count_nonzero(packed != 0x88) == 8


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 200))
def test_packing_of_nibbles_is_undone(rows: int, columns: int) -> None:
    codes = RNG.integers(-8, 8, (rows, columns))
    packed = pack_nibbles(codes.astype(ml_dtypes.int4))
    np.testing.assert_array_equal(packed, pack_nibbles(codes.astype(np.int8)))
    found = unpack_nibbles(packed, rows, columns)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, codes)
    everywhere = unpack_nibbles(packed, *(16 * packed.shape[0], 64 * packed.shape[1]))
    assert np.count_nonzero(everywhere) == np.count_nonzero(codes)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 5))
def test_scales_lie_by_blocks_of_outputs(rows: int, groups: int) -> None:
    scale = RNG.uniform(1, 2, (rows, groups)).astype(ml_dtypes.bfloat16)
    packed = pack_scales(scale)
    assert (packed.shape, packed.dtype) == ((-(-rows // 16), groups, 16), scale.dtype)
    assert packed[-1, groups - 1, (rows - 1) % 16] == scale[rows - 1, groups - 1]
    assert np.count_nonzero(packed.astype(np.float32)) == scale.size
    np.testing.assert_array_equal(unpack_scales(packed, rows), scale)
