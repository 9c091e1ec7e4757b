"""Where libonnxruntime.so is, found without importing onnxruntime (its import takes longer than opening a bundle)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from forerun.errors import ForerunError

VARIABLE = "FORERUN_ONNXRUNTIME"
_PATTERNS = ("libonnxruntime.so.[0-9]*", "libonnxruntime.so", "libonnxruntime.*.dylib", "libonnxruntime.dylib")


def find_library(argument: str | os.PathLike[str] | None, variable: str | None) -> Path:
    """The library to open: the argument, else the environment variable's value, else the installed onnxruntime's.

    Raises ForerunError ("backend error") where none of them leads to a file, and says which one was tried.
    """
    if argument is not None:
        return _existing(Path(argument), "the argument `library`")
    if variable:
        return _existing(Path(variable), f"the environment variable {VARIABLE}")
    return _installed()


def _existing(path: Path, origin: str) -> Path:
    if not path.is_file():
        raise ForerunError(
            "backend error", f"{origin} names {path}, which is not a file; it must be the path of libonnxruntime.so"
        )
    return path.resolve()


def _installed() -> Path:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        raise ForerunError(
            "backend error",
            "onnxruntime is not installed in this environment; `pip install onnxruntime`, "
            f"or give libonnxruntime.so by load(library=...) or the environment variable {VARIABLE}",
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "capi"
    for pattern in _PATTERNS:
        found = sorted(folder.glob(pattern))
        if found:
            return found[-1].resolve()
    raise ForerunError(
        "backend error",
        f"the installed onnxruntime has no libonnxruntime.so in {folder} (wheels older than 1.20 do not); "
        "`pip install --upgrade onnxruntime`, or give the path by load(library=...)",
    )
