"""What figures were measured on, and whether this is that machine."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Machine:
    """A processor, the cores and threads used of it, and the execution library; `fingerprint` is all in one text."""

    cpu: str
    cores: int
    threads: int
    library: str

    @property
    def fingerprint(self) -> str:
        """Figures with equal fingerprints can be compared."""
        return f"{self.cpu} | {self.cores} cores | {self.threads} threads | {self.library}"


def describe_machine(facts: Any, choice: Any = None) -> Machine:
    """This machine, and library and threads of an open engine's `facts`; `choice` names the GPU, if one runs it."""
    cores = len(os.sched_getaffinity(0))
    library = f"{facts.backend} {facts.backend_version}"
    if choice is not None and choice.gpu is not None:
        library += f" on {choice.gpu.device.name}, {choice.gpu.engine.folder}"
    return Machine(cpu_name(Path("/proc/cpuinfo")), cores, facts.threads, library)


def cpu_name(cpuinfo: Path) -> str:
    """The processor's own name, or its architecture where the system does not tell a name."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return " ".join(next(named, platform.machine()).split())
