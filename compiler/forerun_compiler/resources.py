"""What a build needs of the machine, estimated before a weight is loaded, and whether the machine has it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from forerun_compiler.checkpoint_files import count_parameters
from forerun_compiler.errors import ResourceError
from forerun_compiler.recipe import Recipe
from forerun_compiler.schemes import INT4_GROUPS

GIB = 1 << 30
_BYTES_PER_WEIGHT = 4  # float32
# Measured (torch 2.13, 2 cores): libraries and a trace take 0.8 GiB; a pair of 400 M parameters, 1.49 GiB in float32,
# had its peak at 4.15 GiB, where lowering holds transposed copies beside the model, and took 64 s.
_BASE_RAM, _RAM_PER_BYTE = int(0.8 * GIB), 2.4
_BASE_DISK = 32 << 20
_BASE_SECONDS, _SECONDS_PER_GIB = 20.0, 30.0
# Calibration runs the float32 graph from a temporary file: a pair of 143 M parameters (0.53 GiB) had its peak at
# 2.24 GiB, 2.7 times its weights, and took a minute more.
_CALIBRATED_RAM_PER_BYTE, _CALIBRATED_SECONDS_PER_GIB = 3.0, 120.0
# Rounding int4 on text holds the second moments of inputs, about as many bytes as the weights but no more than the
# budget of `second_moments.py`, and codes beside the graph that is read: a pair of 664 M parameters (2.5 GiB) had its
# peak at 18.6 GiB when two batches of moments were held at once, and took 15 minutes beside other work.
_MOMENTS_RAM, _CODES_RAM_PER_BYTE, _ROUNDED_SECONDS_PER_GIB = 3 * GIB, 2.6, 240.0


@dataclass(frozen=True)
class Needs:
    """Estimates of a build: peak memory and new disk space in bytes, time in seconds on a small machine.

    `scratch` is disk space in the folder for temporary files.
    """

    parameters: int
    ram: int
    disk: int
    seconds: float
    scratch: int = 0


@dataclass(frozen=True)
class Machine:
    """What is free: memory that a process may still take, and space on the output's file system, in bytes.

    `scratch` is the space in the folder for temporary files; where both are one file system they share it.
    """

    ram: int
    disk: int
    scratch: int = 0
    one_disk: bool = False


def estimate(recipe: Recipe) -> Needs:
    """What building `recipe` needs; reads only headers and, for hub names, their metadata."""
    parameters = count_parameters(recipe.target) + count_parameters(recipe.drafter)
    weights = parameters * _BYTES_PER_WEIGHT
    calibrated = recipe.precision.is_quantized
    ram = _BASE_RAM + int((_CALIBRATED_RAM_PER_BYTE if calibrated else _RAM_PER_BYTE) * weights)
    seconds = _BASE_SECONDS + (_CALIBRATED_SECONDS_PER_GIB if calibrated else _SECONDS_PER_GIB) * weights / GIB
    if recipe.calibration.rounding == "compensated" and INT4_GROUPS.keys() & {*recipe.precision.schemes}:
        ram += min(weights, _MOMENTS_RAM) + int(_CODES_RAM_PER_BYTE * weights)
        seconds += _ROUNDED_SECONDS_PER_GIB * weights / GIB
    return Needs(
        parameters=parameters,
        ram=ram,
        disk=_BASE_DISK + weights,
        seconds=seconds,
        scratch=weights if calibrated else 0,
    )


def this_machine(output: Path) -> Machine:
    """What is free here and now, for a bundle at `output` (which need not exist yet)."""
    existing = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    scratch = Path(tempfile.gettempdir())
    return Machine(
        available_memory(Path("/proc"), Path("/sys/fs/cgroup")),
        shutil.disk_usage(existing).free,
        shutil.disk_usage(scratch).free,
        existing.stat().st_dev == scratch.stat().st_dev,
    )


def check_fits(needs: Needs, machine: Machine, output: Path) -> None:
    """Refuse a build that cannot fit, before it has begun.

    Raises:
        ResourceError: says what is needed and what is there.
    """
    if needs.ram > machine.ram:
        raise ResourceError(
            f"the build needs about {in_gib(needs.ram)} of memory, {in_gib(machine.ram)} are available; "
            "end other programs, build on a larger machine, or choose a smaller pair of models"
        )
    if needs.scratch > machine.scratch - (needs.disk if machine.one_disk else 0):
        raise ResourceError(
            f"{tempfile.gettempdir()}: calibration needs about {in_gib(needs.scratch)} of disk space for temporary "
            f"files{f' beside {in_gib(needs.disk)} for the bundle' if machine.one_disk else ''}, "
            f"{in_gib(machine.scratch)} are free there; free some space or set TMPDIR to another folder"
        )
    if needs.disk > machine.disk:
        raise ResourceError(
            f"{output}: the bundle needs about {in_gib(needs.disk)} of disk space (an earlier one stays until the new "
            f"one is complete), {in_gib(machine.disk)} are free there; free some space or choose another output folder"
        )


def available_memory(proc: Path, cgroup: Path) -> int:
    """Bytes that a process may still take: MemAvailable, or less where a control group (a container) allows less."""
    limits = [_meminfo(proc / "meminfo")]
    limits += _cgroup_limits(proc / "self" / "cgroup", cgroup)
    return min(limits)


def in_gib(size: int) -> str:
    """A size for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / (1 << 20):.0f} MiB"


def _meminfo(path: Path) -> int:
    for line in path.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ResourceError(f"{path}: expected a line MemAvailable, found none: available memory is unknown")


def _cgroup_limits(membership: Path, root: Path) -> Iterator[int]:
    """What each control group above this process still allows (version 2, then version 1)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _walk(root, path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _walk(root / "memory", path, names)


def _walk(root: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """From the process's own group up to the root; a group that is not visible in this container is passed over."""
    folder = root / path.lstrip("/")
    while True:
        limit, usage = _number(folder / names[0]), _number(folder / names[1])
        if limit is not None and usage is not None:
            yield max(limit - usage + _reclaimable(folder / "memory.stat", names[2]), 0)
        if folder == root or root not in folder.parents:
            return
        folder = folder.parent


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # "max" means no limit


def _reclaimable(path: Path, key: str) -> int:
    """Cached file pages count as used but give way."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(row[1]) for row in rows if row[0] == key), 0)
