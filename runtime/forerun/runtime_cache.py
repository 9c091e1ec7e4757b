"""Where TensorRT-RTX keeps what it compiled for a device, so that a second start compiles nothing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from forerun.bundle_engines import EngineEntry


class RuntimeCache:
    """A file for each graph of one engine, for one kind of device, driver and version of the library.

    A cache is never needed: one that cannot be read is made again, one that cannot be written is not kept.
    """

    def __init__(self, folder: Path, entry: EngineEntry, device: str, cuda: tuple[int, int]) -> None:
        parts = (entry.identity, entry.library, device, *map(str, cuda))
        self._folder = folder / hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]
        self._stored: dict[str, bytes] = {}

    def path(self, graph: str) -> Path:
        """The file of a graph."""
        return self._folder / f"{graph}.cache"

    def load(self, graph: str) -> bytes | None:
        """What an earlier start kept of a graph, if there was one."""
        try:
            self._stored[graph] = self.path(graph).read_bytes()
        except OSError:
            return None
        return self._stored[graph]

    def save(self, graph: str, kernels: Any) -> None:
        """Keep the library's IRuntimeCache, unless it is what the file holds already."""
        data = bytes(memoryview(kernels.serialize()))
        if data == self._stored.get(graph):
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # Beside it and renamed: two processes may start at once, and neither reads half a file.
            descriptor, name = tempfile.mkstemp(dir=self._folder)
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(name, self.path(graph))
            self._stored[graph] = data


def cache_folder(variables: Mapping[str, str]) -> Path:
    """In the user's cache folder, as the XDG base directories have it."""
    return Path(variables.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forerun" / "tensorrt-rtx"
