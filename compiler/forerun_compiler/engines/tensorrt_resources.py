"""What building TensorRT engines needs of the machine, estimated from the weights, and whether it has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forerun_compiler.errors import ResourceError
from forerun_compiler.resources import GIB, Machine, in_gib

# Measured (benchmarks/tensorrt_builds.py, TensorRT-RTX 1.7.1, Qwen3-0.6B's sizes and a quarter of its weights): the
# building process had 0.5 to 0.8 GiB and 2.9 to 4.2 times the graph's weights, most where one row is multiplied in
# float16, whose weights are stored once more in another layout: 1.7 times in the engine. Kernels take up to 70 MiB.
_BASE_RAM, _RAM_PER_BYTE = int(0.8 * GIB), 4.2
_BASE_DISK, _DISK_PER_BYTE = 80 << 20, 1.7


@dataclass(frozen=True)
class EngineNeeds:
    """Estimates of a build of several engines: peak memory of a building process, and disk space, in bytes."""

    ram: int
    disk: int


def estimate_engines(graph_weights: Sequence[int]) -> EngineNeeds:
    """Return what building engines of graphs with so many bytes of weights needs.

    Engines are built one after the other, and each holds a copy of its graph's weights.
    """
    disk = sum(int(_DISK_PER_BYTE * size) + _BASE_DISK for size in graph_weights)
    return EngineNeeds(_BASE_RAM + int(_RAM_PER_BYTE * max(graph_weights, default=0)), disk)


def check_engines_fit(needs: EngineNeeds, machine: Machine, folder: Path) -> None:
    """Refuse a build that cannot fit, before it has begun.

    Raises:
        ResourceError: says what is needed and what is there.
    """
    if needs.ram > machine.ram:
        raise ResourceError(
            f"building the engines needs about {in_gib(needs.ram)} of memory, {in_gib(machine.ram)} are available; "
            "end other programs, build on a larger machine, or choose narrower weights (precision)"
        )
    if needs.disk > machine.disk:
        raise ResourceError(
            f"{folder}: the engines need about {in_gib(needs.disk)} of disk "
            f"space, {in_gib(machine.disk)} are free there; free some space or choose another output folder"
        )
