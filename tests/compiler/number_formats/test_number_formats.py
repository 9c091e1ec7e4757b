"""The table of formats: every scheme has one, and its bytes and errors are what it says."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from forerun_compiler import number_formats
from forerun_compiler.errors import PassError
from forerun_compiler.number_formats import checks
from forerun_compiler.schemes import DENSE, SCHEMES

RNG = np.random.default_rng(0)
# Relative root mean square errors of a Gaussian weight that each scheme stays below, and which it cannot beat by half.
EXPECTED = {
    "float32": 0.0,
    "int8": 0.010,
    "int8-static": 0.010,
    "fp8": 0.028,
    "int4": 0.11,
    "int4-group64": 0.10,
    "int4-group32": 0.09,
    "nvfp4": 0.09,
    "nvfp4-weight-only": 0.09,
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_a_format(scheme: str) -> None:
    weight = RNG.standard_normal((48, 256)).astype(np.float32)
    decoded = number_formats.round_trip(scheme, weight)
    assert decoded.dtype == np.float32
    assert decoded.flags.c_contiguous
    error = np.sqrt(np.square(decoded - weight).mean() / np.square(weight).mean())
    assert EXPECTED[scheme] / 2 <= error <= EXPECTED[scheme]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(1, 16), (5, 144), (7, 256)])
def test_bytes_are_those_that_are_stored(scheme: str, shape: tuple[int, int]) -> None:
    encoded = number_formats.encode(scheme, RNG.standard_normal(shape).astype(np.float32))
    assert encoded.nbytes == number_formats.stored_bytes(scheme, *shape)


def test_known_bytes() -> None:
    assert [number_formats.stored_bytes(scheme, 8, 256) for scheme in SCHEMES] == [
        4 * 8 * 256,
        8 * 256 + 4 * 8,
        8 * 128 + 2 * 8 * 2,
        8 * 128 + 2 * 8 * 4,
        8 * 128 + 2 * 8 * 8,
        8 * 256 + 4 * 8,
        8 * 256 + 4 * 8,
        8 * 128 + 8 * 16 + 4,
        8 * 128 + 8 * 16 + 4,
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zeros_stay_zeros_and_infinities_are_refused(scheme: str) -> None:
    assert not number_formats.round_trip(scheme, np.zeros((3, 32), np.float32)).any()
    with pytest.raises(PassError, match=r"target\.lm_head: .*not finite"):
        number_formats.round_trip(scheme, np.full((3, 32), np.inf, np.float32), "target.lm_head")


def test_rows_of_activations() -> None:
    codes, scale = number_formats.round_rows_int8(np.array([[1.0, -2.0]], np.float32))
    assert codes.tolist() == [[64, -127]]  # 63.5 goes to the even code
    assert scale.tolist() == [[np.float32(2) / np.float32(127)]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_slices_do_not_change_what_is_stored(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = RNG.standard_normal((7, 48)).astype(np.float32)
    whole = number_formats.round_trip(scheme, weight)
    monkeypatch.setattr(checks, "SLICE", 2 * 48)
    np.testing.assert_array_equal(number_formats.round_trip(scheme, weight), whole)


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != DENSE])
def test_an_encoder_holds_no_second_copy_of_a_weight(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "SLICE", 1 << 16)
    weight = RNG.standard_normal((16384, 256)).astype(np.float32)
    tracemalloc.start()
    try:
        encoded = number_formats.encode(scheme, weight)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert encoded.nbytes < weight.nbytes
    # What a slice needs, and the codes twice where slices are joined; ml_dtypes holds 4-bit codes in bytes.
    assert peak < weight.nbytes
