"""What one building process is asked for and what it answers, as JSON between two processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

STAGE = "forerun-stage "
"""Prefix of the lines by which a building process tells how far it is: `STAGE name done total`."""

Failure = Literal["", "engine", "resource"]


@dataclass(frozen=True)
class WorkerRequest:
    """Build the engine of one graph.

    `members` are names of TensorRT-RTX's ComputeCapability, none for the present device. Each of `widths` becomes an
    optimization profile in which every dynamic dimension has exactly that size; none for a graph without such.
    """

    backend: str
    graph: str
    onnx: str
    plan: str
    log: str
    answer: str
    members: tuple[str, ...]
    widths: tuple[int, ...]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")


@dataclass(frozen=True)
class WorkerAnswer:
    """The library's version, the process's largest memory in bytes, and why there is no plan: "" where there is one."""

    library: str = ""
    peak_memory: int = 0
    failure: Failure = ""
    message: str = ""

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_request(path: Path) -> WorkerRequest:
    """Read what `WorkerRequest.write` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values |= {"members": tuple(values["members"]), "widths": tuple(values["widths"])}
    return WorkerRequest(**values)


def read_answer(path: Path) -> WorkerAnswer:
    """Read what `WorkerAnswer.write` wrote."""
    return WorkerAnswer(**json.loads(path.read_text(encoding="utf-8")))
