"""Where figures are written, and what they must name: the machine, the libraries and their versions."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

from forerun.machine import cpu_name

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("forerun", "onnxruntime", "numpy")


def machine_name(threads: int) -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{cpu_name(Path('/proc/cpuinfo'))}, {cores} cores, {threads} thread{'s' if threads > 1 else ''}"


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def command_line() -> str:
    """The command line that this program was started by, from the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def write_results(stem: str, threads: int, text: str, markdown: str) -> Path:
    """Write STEM-MACHINE.json and .md to benchmarks/results; returns the path without the suffix."""
    machine = re.sub(r"[^a-z0-9]+", "-", machine_name(threads).lower()).strip("-")
    base = RESULTS / f"{stem}-{machine}"
    # Not with_suffix: a processor's name may have a dot, which would be taken for one.
    Path(f"{base}.json").write_text(text, encoding="utf-8")
    Path(f"{base}.md").write_text(markdown, encoding="utf-8")
    return base
