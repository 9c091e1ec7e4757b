"""The two TensorRT libraries that one builder drives, and which of their messages are no errors.

This module is all that the building process imports beside the library: it must stay light.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from forerun_compiler.errors import EngineError
from forerun_compiler.schemes import TENSORRT, TENSORRT_RTX


@dataclass(frozen=True)
class Library:
    """A Python package of TensorRT: its backend, module, distributions, and the versions that it was tested with.

    `ahead_of_time`: it builds for listed compute capabilities, without a device.
    """

    backend: str
    module: str
    distributions: tuple[str, ...]
    extra: str
    oldest: tuple[int, ...]
    tested: tuple[str, ...]
    ahead_of_time: bool


LIBRARIES = {
    library.backend: library
    for library in (
        Library(
            TENSORRT_RTX,
            module="tensorrt_rtx",
            distributions=("tensorrt_rtx_cu13", "tensorrt_rtx_cu12", "tensorrt_rtx"),
            extra="tensorrt-rtx",
            oldest=(1, 7),  # earlier parsers know no TensorScatter
            tested=("1.7.1.116",),
            ahead_of_time=True,
        ),
        Library(
            TENSORRT,
            module="tensorrt",
            distributions=("tensorrt_cu13", "tensorrt_cu12", "tensorrt"),
            extra="tensorrt",
            oldest=(10, 15),  # the first with KVCacheUpdate, which TensorScatter becomes
            tested=(),
            ahead_of_time=False,
        ),
    )
}


@dataclass(frozen=True)
class Understood:
    """Warnings that are no errors, and why. Whatever matches nothing here ends the build."""

    pattern: re.Pattern[str]
    reason: str


UNDERSTOOD = (
    Understood(
        re.compile(r"Make sure (input|output) \S+ has Int64 binding\."),
        "the runtime binds int64 tensors to the graph's int64 inputs and outputs",
    ),
)
"""\"Unused Input\" must never be here: it is how the parser says that it ignores what an operator was asked to do."""


def installed_version(backend: str) -> str:
    """Return the version of a backend's library without importing it.

    Raises:
        EngineError: the package is missing or too old.
    """
    library = LIBRARIES[backend]
    fix = f"install it with: pip install 'forerun[{library.extra}]'"
    if not _is_there(library.module):
        raise EngineError(f"{backend}: the Python package {library.module!r} is not installed; {fix}")
    found = next(filter(None, map(_version, library.distributions)), None)
    if found is None:
        raise EngineError(
            f"{backend}: the module {library.module!r} belongs to none of the packages "
            f"{', '.join(library.distributions)}, so its version is unknown; {fix}"
        )
    if _numbers(found)[: len(library.oldest)] < library.oldest:
        oldest = ".".join(map(str, library.oldest))
        raise EngineError(f"{backend}: expected {library.module} {oldest} or newer, found {found}; {fix}")
    return found


def reason_to_ignore(message: str) -> str | None:
    """Return why a warning is no error, or None for one that is."""
    return next((each.reason for each in UNDERSTOOD if each.pattern.search(message)), None)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # a finder that refuses the name
        return False


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
