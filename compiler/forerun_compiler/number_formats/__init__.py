"""How each scheme stores a weight and which numbers it makes of it, in numpy: the oracle of all quantized kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forerun_compiler.number_formats import float8, int4, int8, nvfp4, scaled_rows
from forerun_compiler.number_formats.checks import Array, checked
from forerun_compiler.number_formats.linear_int8 import round_rows as round_rows_int8
from forerun_compiler.schemes import DENSE, INT4_GROUPS

__all__ = ["Encoded", "encode", "round_rows_int8", "round_trip", "stored_bytes"]


class Encoded(Protocol):
    """A weight [N,K] as a scheme stores it."""

    def decode(self) -> Array:
        """Return the weight that the codes stand for, float32 [N,K]."""
        ...

    @property
    def nbytes(self) -> int:
        """Return the bytes of codes and scales."""
        ...


@dataclass(frozen=True)
class _Dense:
    weight: Array

    def decode(self) -> Array:
        return self.weight

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes)


@dataclass(frozen=True)
class _Format:
    encode: Callable[[Array, str], Encoded]
    stored_bytes: Callable[[int, int], int]


def _int4(group: int) -> _Format:
    return _Format(lambda weight, where: int4.encode(weight, group, where), lambda n, k: int4.stored_bytes(n, k, group))


_NVFP4 = _Format(nvfp4.encode, nvfp4.stored_bytes)
_INT8 = _Format(int8.encode, scaled_rows.stored_bytes)
_FORMATS: Mapping[str, _Format] = {
    DENSE: _Format(lambda weight, where: _Dense(checked(weight, where)), lambda n, k: 4 * n * k),
    "int8": _INT8,
    "int8-static": _INT8,
    **{scheme: _int4(group) for scheme, group in INT4_GROUPS.items()},
    "fp8": _Format(float8.encode, scaled_rows.stored_bytes),
    "nvfp4": _NVFP4,
    "nvfp4-weight-only": _NVFP4,
}


def encode(scheme: str, weight: Array, where: str = "weight") -> Encoded:
    """Encode a weight [N,K] as a scheme of `schemes.SCHEMES` stores it.

    Raises:
        PassError: the weight is no matrix, not finite, or K does not suit the scheme; `where` names it.
    """
    return _FORMATS[scheme].encode(weight, where)


def round_trip(scheme: str, weight: Array, where: str = "weight") -> Array:
    """Return the weight [N,K] that a scheme computes with: encoded and decoded, float32.

    Raises:
        PassError: as `encode`.
    """
    return np.ascontiguousarray(encode(scheme, weight, where).decode())


def stored_bytes(scheme: str, n: int, k: int) -> int:
    """Return the bytes that a scheme needs for a weight [n,k], scales included."""
    return _FORMATS[scheme].stored_bytes(n, k)
