"""What is refused before a build, and that each message says what to change."""

from __future__ import annotations

import pytest

from forerun_compiler.engines.capability import CAPABILITIES, check_capabilities, check_precision, known_capabilities
from forerun_compiler.errors import EngineError
from forerun_compiler.schemes import TENSORRT, TENSORRT_RTX

ALL_RTX = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


def test_tensorrt_rtx_builds_ahead_of_time_for_six_capabilities() -> None:
    assert known_capabilities(TENSORRT_RTX) == ALL_RTX
    assert set(known_capabilities(TENSORRT)) == set(CAPABILITIES)
    bits = [CAPABILITIES[number].header_bit for number in ALL_RTX]
    assert bits == [1, 2, 4, 8, 16, 32]


def test_capabilities_are_returned_oldest_first() -> None:
    found = check_capabilities(TENSORRT_RTX, ("12.0", "8.9", "7.5"))
    assert [each.member for each in found] == ["SM75", "SM89", "SM120"]


@pytest.mark.parametrize(
    ("backend", "capabilities", "message"),
    [
        (TENSORRT_RTX, ("8.8",), r"tensorrt-rtx: it cannot build .* '8\.8'; it knows 7\.5, 8\.0, .*12\.1$"),
        (
            TENSORRT_RTX,
            ("9.0",),
            r"'9\.0' \(Hopper: .*\); it knows .*; for 9\.0 use the backend tensorrt on the device",
        ),
        (TENSORRT_RTX, ("sm89",), r"'sm89'; it knows 7\.5"),
        (TENSORRT_RTX, (), r"expected at least one compute capability, found none"),
        (TENSORRT_RTX, ("8.9", "8.9"), r"listed twice in 8\.9, 8\.9; remove one"),
        (TENSORRT, ("old",), r"tensorrt: it cannot build .* 'old'; it knows 7\.5, .*9\.0, 10\.0"),
    ],
)
def test_unknown_capabilities_are_refused(backend: str, capabilities: tuple[str, ...], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_capabilities(backend, capabilities)


def test_tensorrt_builds_on_devices_that_are_newer_than_the_table() -> None:
    check_precision(TENSORRT, ("13.0",), "bfloat16", ("nvfp4", "fp8"))


@pytest.mark.parametrize(
    ("capability", "dtype", "scheme", "message"),
    [
        ("8.9", "float16", "nvfp4", r"nvfp4 needs .* of 12\.0, 12\.1, found 8\.9 \(Ada.*remove 8\.9 .* or choose fp8"),
        ("8.6", "float16", "fp8", r"fp8 needs a compute capability of 8\.9, 12\.0, 12\.1, found 8\.6 .*int8-static"),
        ("7.5", "bfloat16", "float32", r"dtype bfloat16 needs .* of 8\.0, .*found 7\.5 .*choose dtype: float16"),
        ("7.5", "float32", "float32", r"dtype float32 needs .*found 7\.5 .*choose dtype: float16"),
        ("7.5", "float16", "int4-group32", r"int4-group32 needs .*found 7\.5 .*choose int8-static"),
        ("8.9", "float16", "nvfp4-weight-only", r"nvfp4-weight-only needs .* or choose int4"),
        ("8.9", "float16", "int8", r"it has no kernels for int8; it runs float32, int4, .*nvfp4"),
        ("8.9", "float64", "float32", r"expected a dtype of float16, bfloat16, float32, found 'float64'"),
    ],
)
def test_what_a_device_cannot_multiply_is_refused(capability: str, dtype: str, scheme: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_precision(TENSORRT_RTX, (capability, "12.0"), dtype, ("float32", scheme))


@pytest.mark.parametrize(
    ("backend", "capability", "dtype", "schemes"),
    [
        (TENSORRT_RTX, ALL_RTX, "float16", ("float32", "int8-static")),
        (TENSORRT_RTX, ("8.0", "8.6"), "bfloat16", ("int4", "int4-group32")),
        (TENSORRT_RTX, ("8.9", "12.0"), "float16", ("fp8",)),
        (TENSORRT_RTX, ("12.0", "12.1"), "bfloat16", ("fp8", "nvfp4", "nvfp4-weight-only")),
        (TENSORRT, ("9.0",), "bfloat16", ("fp8",)),
        (TENSORRT, ("10.0",), "float16", ("nvfp4",)),
        (TENSORRT, ("7.5",), "float32", ("float32",)),
        (TENSORRT, (), "float16", ("nvfp4",)),
    ],
)
def test_what_devices_have_passes(
    backend: str, capability: tuple[str, ...], dtype: str, schemes: tuple[str, ...]
) -> None:
    check_precision(backend, capability, dtype, schemes)


@pytest.mark.parametrize("scheme", ["nvfp4", "fp8"])
def test_tensorrt_on_an_older_device(scheme: str) -> None:
    with pytest.raises(EngineError, match=f"tensorrt: {scheme} needs .*found 8.7"):
        check_precision(TENSORRT, ("8.7",), "float16", (scheme,))
