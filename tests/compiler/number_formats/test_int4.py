"""INT4 groups: signed scales, padding, an error not above that of the common rules, ONNX's reference."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import int4
from onnx_oracle import dequantize, quantize

RNG = np.random.default_rng(0)
FULL = np.arange(-8, 8, dtype=np.float32)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_all_codes_are_reached_and_exact(sign: float) -> None:
    weight = np.tile(FULL * sign, 2)[None]
    found = int4.encode(weight, 32)
    assert found.scale.tolist() == [[sign]]
    assert found.codes.reshape(-1).astype(int).tolist() == list(range(-8, 8)) * 2
    np.testing.assert_array_equal(found.decode(), weight)


def test_groups_have_their_own_scales_and_the_last_is_padded() -> None:
    weight = np.concatenate([np.tile(FULL, 2), 0.25 * FULL[:5]])[None]
    found = int4.encode(weight, 32)
    assert found.codes.shape == (1, 2, 32)
    assert found.scale.tolist() == [[1.0, 0.25]]
    assert not found.codes[0, 1, 5:].astype(int).any()
    np.testing.assert_array_equal(found.decode(), weight)
    assert found.nbytes == 2 * (16 + 2)


def test_groups_of_zeros_decode_to_zeros() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[1, 40] = 1e-45
    found = int4.encode(weight, 32)
    assert found.scale.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert not found.decode().any()


@pytest.mark.parametrize("group", [32, 64, 128])
def test_no_group_is_worse_than_by_the_common_rules(group: int) -> None:
    weight = RNG.standard_t(4, (64, 384)).astype(np.float32)
    found = int4.encode(weight, group)
    assert found.scale.dtype == ml_dtypes.bfloat16
    blocks = weight.reshape(64, -1, group)
    error = ((found.decode() - weight).reshape(blocks.shape) ** 2).sum(axis=-1)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=-1)[..., None], axis=-1)
    signed = largest / np.float32(-8)
    by_eight = ((np.clip(np.rint(blocks / signed), -8, 7) * signed - blocks) ** 2).sum(axis=-1)
    symmetric = np.abs(largest) / np.float32(7)
    by_seven = ((np.rint(blocks / symmetric) * symmetric - blocks) ** 2).sum(axis=-1)
    # The scale of d = 8 is off by up to 2^-9 of itself: half a code is at most 0.4 % of a code of 8.
    assert (error <= by_eight * 1.05).all()
    assert error.sum() < 0.95 * by_eight.sum()
    assert error.sum() < 0.85 * by_seven.sum()


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_codes_and_numbers_are_those_of_onnx(weight: np.ndarray) -> None:
    found = int4.encode(weight, 32)
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 32)))
    codes = found.codes.reshape(padded.shape)
    scale = found.scale.astype(np.float32)
    expected = quantize(padded, scale, ml_dtypes.int4, axis=1, block_size=32)
    np.testing.assert_array_equal(codes.astype(np.int8), expected.astype(np.int8))
    decoded = dequantize(codes, scale, axis=1, block_size=32)
    np.testing.assert_array_equal(found.decode(), decoded[:, : weight.shape[1]])
    assert np.isfinite(found.decode()).all()


def test_codes_fit_the_scale_that_is_stored() -> None:
    """A scale that bfloat16 rounds by 0.3 %: of the exact one the code 4 would be 3.51 of the stored one."""
    weight = np.array([[-8 * 1.0039, 3.51]], np.float32)
    found = int4.encode(weight, 32)
    scale = found.scale.astype(np.float32)[0, 0]
    assert scale == ml_dtypes.bfloat16(scale)
    np.testing.assert_array_equal(found.rows()[0].astype(int), np.clip(np.rint(weight[0] / scale), -8, 7))


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(PassError, match=r"o_proj: .* not finite, the first is nan at \[0, 1\]"):
        int4.encode(np.array([[0.0, np.nan]], np.float32), 32, "o_proj")
