"""The two TensorRT packages: which is installed, found without importing it (an import loads hundreds of MB)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

LIBRARY_NAMES = {"tensorrt-rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}
MODULES = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
AHEAD_OF_TIME = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX builds for; other devices need TensorRT, on the device."""
_SUFFIXES = {"_cu13": 13, "_cu12": 12, "": 0}


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed package: its version, and the major version of CUDA that it was made for (0: it does not say)."""

    version: str
    cuda: int


def find_package(backend: str) -> Installed | None:
    """The package of a backend ("tensorrt-rtx" or "tensorrt"); None if no distribution of it is installed.

    Distributions are named after the CUDA that they were made for, as tensorrt_rtx_cu13; those of a Jetson are not.
    """
    for suffix, cuda in _SUFFIXES.items():
        try:
            return Installed(version(MODULES[backend] + suffix), cuda)
        except PackageNotFoundError:
            continue
    return None
