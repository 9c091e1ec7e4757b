"""The engines of GPUs in a bundle: their graphs, and what TensorRT builds from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from forerun_compiler.errors import EngineError
from forerun_compiler.manifest import EngineTarget

if TYPE_CHECKING:
    from forerun_compiler.compilation import DeviceGraphs

OnProgress = Callable[[str, int, int], None]


def write_device_engine(device: DeviceGraphs, bundle: Path, on_progress: OnProgress) -> EngineTarget:
    """Write the graphs of an engine into a bundle and build it; return its entry of the manifest.

    Raises:
        EngineError: the library is missing, or refused.
    """
    raise EngineError(f"{device.engine.backend}: engines of GPUs cannot be built yet")
