"""Compute capabilities: which devices each TensorRT can build for, and which number formats they multiply.

Asked before a build: the libraries' own refusals name internal passes, and say nothing about what to change.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from forerun_compiler.errors import EngineError
from forerun_compiler.schemes import DENSE, SCHEMES, TENSORRT, TENSORRT_RTX

DTYPES = ("float16", "bfloat16", "float32")
"""What an engine can compute in where a scheme says nothing else."""
_NUMBER = re.compile(r"\d{1,2}\.\d")


@dataclass(frozen=True)
class Capability:
    """A kind of device.

    `member` is its name in TensorRT-RTX's ComputeCapability, which builds for it ahead of time ("": it cannot), and
    `header_bit` its bit in the header of such an engine.
    """

    number: str
    devices: str
    member: str = ""
    header_bit: int = 0

    @property
    def version(self) -> tuple[int, int]:
        """Return (major, minor), which orders capabilities."""
        major, minor = self.number.split(".")
        return int(major), int(minor)


CAPABILITIES = {
    each.number: each
    for each in (
        Capability("7.5", "Turing: RTX 20, T4", "SM75", 0x01),
        Capability("8.0", "Ampere: A100, A30", "SM80", 0x02),
        Capability("8.6", "Ampere: RTX 30, A10", "SM86", 0x04),
        Capability("8.7", "Jetson Orin"),
        Capability("8.9", "Ada: RTX 40, L4, L40", "SM89", 0x08),
        Capability("9.0", "Hopper: H100, H200"),
        Capability("10.0", "Blackwell: B200, GB200"),
        Capability("10.3", "Blackwell: B300, GB300"),
        Capability("11.0", "Jetson Thor"),
        Capability("12.0", "Blackwell: RTX 50, RTX PRO", "SM120", 0x10),
        Capability("12.1", "Blackwell: GB10, DGX Spark", "SM121", 0x20),
    )
}
"""By number. Header bits were read from engines of TensorRT-RTX 1.7.1."""


@dataclass(frozen=True)
class _Needs:
    """The first capability whose hardware has a number format, and what to use on older devices."""

    first: str
    instead: str


_DTYPES = {
    "bfloat16": _Needs("8.0", "choose dtype: float16"),
}
# TensorRT-RTX compiles no float32 and no int4 product for 7.5, though the device could emulate them.
_RTX_DTYPES = _DTYPES | {"float32": _Needs("8.0", "choose dtype: float16")}
_SCHEMES = {
    "int4": _Needs("8.0", "choose int8-static or float16 layers (float32 in `precision`)"),
    "int4-group32": _Needs("8.0", "choose int8-static or float16 layers (float32 in `precision`)"),
    "fp8": _Needs("8.9", "choose int8-static or int4"),
    "nvfp4": _Needs("10.0", "choose fp8 for 8.9 and newer, int8-static or int4 for older ones"),
    "nvfp4-weight-only": _Needs("10.0", "choose int4"),
}


def known_capabilities(backend: str) -> tuple[str, ...]:
    """Return what a backend can build for, oldest first; TensorRT builds for the present device, whatever it is."""
    return tuple(each.number for each in CAPABILITIES.values() if each.member or backend == TENSORRT)


def check_capabilities(backend: str, capabilities: Collection[str]) -> tuple[Capability, ...]:
    """Return the rows of the table for the capabilities that a recipe lists, oldest first.

    Raises:
        EngineError: one is unknown or listed twice, or there is none where an engine is built ahead of time.
    """
    known = known_capabilities(backend)
    for number in capabilities:
        # TensorRT builds on the device itself, which may be newer than this table.
        if number in known or (backend == TENSORRT and _NUMBER.fullmatch(number)):
            continue
        hint = f" ({CAPABILITIES[number].devices})" if number in CAPABILITIES else ""
        advice = f"; for {number} use the backend {TENSORRT} on the device itself" if hint else ""
        raise EngineError(
            f"{backend}: it cannot build for the compute capability {number!r}{hint}; it knows {_list(known)}{advice}"
        )
    if len(set(capabilities)) != len(capabilities):
        raise EngineError(f"{backend}: compute capabilities are listed twice in {_list(capabilities)}; remove one")
    if not capabilities and backend == TENSORRT_RTX:
        raise EngineError(
            f"{backend}: expected at least one compute capability, found none; it knows {_list(known)}. "
            "An engine without one claims to run anywhere and is not checked against any device"
        )
    rows = [CAPABILITIES.get(number) or Capability(number, "not in the table") for number in capabilities]
    return tuple(sorted(rows, key=lambda row: row.version))


def without_float32(capabilities: Collection[Capability]) -> tuple[str, ...]:
    """Return those for which TensorRT-RTX compiles no float32 product."""
    first = CAPABILITIES[_RTX_DTYPES["float32"].first].version
    return tuple(each.number for each in capabilities if each.version < first)


def check_precision(backend: str, capabilities: Collection[str], dtype: str, schemes: Collection[str]) -> None:
    """Refuse what a device cannot multiply, before anything is built.

    `dtype` is what the engine computes in; `schemes` are those of its linear layers, by their names in recipes.

    Raises:
        EngineError: names the capability, what is missing, and what to change.
    """
    chosen = check_capabilities(backend, capabilities)
    if dtype not in DTYPES:
        raise EngineError(f"{backend}: expected a dtype of {_list(DTYPES)}, found {dtype!r}")
    for scheme in schemes:
        if scheme != DENSE and backend not in SCHEMES[scheme].runs_on:
            able = [each.name for each in SCHEMES.values() if backend in each.runs_on]
            raise EngineError(f"{backend}: it has no kernels for {scheme}; it runs {_list(able)}")
    for what, first, instead in _wants(backend, dtype, schemes):
        old = [each for each in chosen if each.version < CAPABILITIES[first].version]
        if old:
            able = [number for number in known_capabilities(backend) if number not in {e.number for e in old}]
            able = [number for number in able if CAPABILITIES[number].version >= CAPABILITIES[first].version]
            raise EngineError(
                f"{backend}: {what} needs a compute capability of {_list(able)}, "
                f"found {_list([f'{each.number} ({each.devices})' for each in old])}; "
                f"remove {_list([each.number for each in old])} from this engine's compute_capability, or {instead}"
            )


def _wants(backend: str, dtype: str, schemes: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """What is asked for, the first capability that has it, and what else could be chosen."""
    dtypes = _RTX_DTYPES if backend == TENSORRT_RTX else _DTYPES
    if dtype in dtypes:
        yield f"dtype {dtype}", dtypes[dtype].first, dtypes[dtype].instead
    for scheme in dict.fromkeys(schemes):
        if scheme in _SCHEMES:
            yield scheme, _SCHEMES[scheme].first, _SCHEMES[scheme].instead


def _list(names: Collection[str]) -> str:
    return ", ".join(names)
