"""What a machine has left, read from made-up /proc and control group trees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tiny_pairs
from forerun_compiler import resources
from forerun_compiler.errors import ResourceError
from forerun_compiler.manifest import Precision
from forerun_compiler.recipe import CalibrationChoice
from forerun_compiler.resources import (
    GIB,
    Machine,
    Needs,
    available_memory,
    check_fits,
    estimate,
    in_gib,
    this_machine,
)


def make_proc(folder: Path, available_kib: int, membership: str) -> Path:
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kib} kB\n")
    (folder / "proc" / "self" / "cgroup").write_text(membership)
    return folder / "proc"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_meminfo_alone(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, 1000, "")
    assert available_memory(proc, tmp_path / "cgroup") == 1000 * 1024


@pytest.mark.parametrize(("limit", "expected"), [("max\n", 1_024_000), ("500000\n", 500_000 - 200_000 + 50_000)])
def test_a_group_of_version_2_limits_what_cache_does_not_give_back(tmp_path: Path, limit: str, expected: int) -> None:
    proc = make_proc(tmp_path, 1000, "0::/box/job\n")
    root = tmp_path / "cgroup"
    write(root / "box" / "memory.max", limit)
    write(root / "box" / "memory.current", "200000\n")
    write(root / "box" / "memory.stat", "anon 1\ninactive_file 50000\n")
    write(root / "box" / "job" / "memory.max", "max\n")
    write(root / "box" / "job" / "memory.current", "1\n")
    assert available_memory(proc, root) == expected


def test_inside_a_container_the_root_is_the_group(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, 1000, "0::/../elsewhere\n")
    write(tmp_path / "cgroup" / "memory.max", "3000\n")
    write(tmp_path / "cgroup" / "memory.current", "1000\n")
    assert available_memory(proc, tmp_path / "cgroup") == 2000


def test_a_group_of_version_1(tmp_path: Path) -> None:
    proc = make_proc(tmp_path, 1000, "3:cpu,memory:/docker/x\n2:pids:/\n")
    write(tmp_path / "cgroup" / "memory" / "docker" / "x" / "memory.limit_in_bytes", "9000\n")
    write(tmp_path / "cgroup" / "memory" / "docker" / "x" / "memory.usage_in_bytes", "10000\n")
    assert available_memory(proc, tmp_path / "cgroup") == 0


@pytest.mark.parametrize(("one_disk", "free", "fits"), [(False, 3, True), (True, 3, False), (True, 5, True)])
def test_temporary_files_need_space_too(tmp_path: Path, one_disk: bool, free: int, fits: bool) -> None:
    needs = Needs(parameters=1, ram=0, disk=2 * GIB, seconds=1.0, scratch=3 * GIB)
    machine = Machine(0, 9 * GIB, free * GIB, one_disk)
    if fits:
        check_fits(needs, machine, tmp_path)
        return
    with pytest.raises(ResourceError, match=r"calibration needs about 3\.0 GiB .*beside 2\.0 GiB for the bundle, 3\.0"):
        check_fits(needs, machine, tmp_path)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    needs = Needs(parameters=1, ram=4 * GIB, disk=2 * GIB, seconds=1.0)
    check_fits(needs, Machine(4 * GIB, 2 * GIB), tmp_path)
    with pytest.raises(ResourceError, match=r"needs about 4\.0 GiB of memory, 3\.0 GiB are available; end other"):
        check_fits(needs, Machine(3 * GIB, 2 * GIB), tmp_path)
    with pytest.raises(ResourceError, match=r"needs about 2\.0 GiB of disk space .*, 0\.5 GiB are free"):
        check_fits(needs, Machine(4 * GIB, GIB // 2), tmp_path)


def test_this_machine_has_something(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "yet" / "there")
    assert machine.ram > 0
    assert machine.disk > 0


def test_sizes_for_people() -> None:
    assert (in_gib(3 * GIB // 2), in_gib(5 << 20)) == ("1.5 GiB", "5 MiB")


def test_rounding_on_text_needs_room_for_second_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "count_parameters", lambda _: 10**8)
    made = tiny_pairs.recipe(Path("target"), Path("drafter"))
    by_scheme = {
        scheme: estimate(replace(made, precision=Precision(target=scheme)))
        for scheme in ("int8", "int4", "int4-group32")
    }
    assert by_scheme["int4"] == by_scheme["int4-group32"]
    weights = 2 * 10**8 * 4
    assert by_scheme["int4"].ram - by_scheme["int8"].ram == weights + int(2.6 * weights)
    assert by_scheme["int4"].seconds > by_scheme["int8"].seconds
    nearest = replace(made, precision=Precision(target="int4"), calibration=CalibrationChoice(rounding="nearest"))
    assert estimate(nearest) == by_scheme["int8"]
