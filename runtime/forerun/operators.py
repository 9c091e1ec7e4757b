"""Where the project's own operators for ONNX Runtime are, for sessions that the C core did not make."""

from __future__ import annotations

from pathlib import Path

from forerun import _core


def kernel_library() -> Path:
    """Return the library that exports RegisterCustomOps, for onnxruntime's options.register_custom_ops_library(path).

    It holds the operators of the domain forerun.runtime, which int8 bundles use.
    """
    assert _core.__file__ is not None
    return Path(_core.__file__)
