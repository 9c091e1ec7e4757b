"""The command line on a real tiny pair: built twice, proven, measured, damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import forerun
from forerun_compiler import cli
from forerun_compiler.bundle import check_bundle, read_manifest
from tiny_pairs import PROMPTS, BuiltPair

EFFORT = ("--prompts", "6", "--tokens", "24", "--sampled-prompts", "2", "--samples", "150")


@pytest.fixture
def copy(pair: BuiltPair, tmp_path: Path) -> Iterator[Path]:
    """A copy beside the bundle, so that it finds the same source checkpoints."""
    folder = pair.bundle.with_name(f"copy-{tmp_path.name}")
    shutil.copytree(pair.bundle, folder)
    yield folder
    shutil.rmtree(folder)


def execute(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.execute([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_another_process_builds_the_same_bytes(pair: BuiltPair, tmp_path: Path) -> None:
    """Another folder depth of the output would change the relative source, so it is built beside the first."""
    again = pair.bundle.with_name("again")
    arguments = ["build", str(pair.bundle.with_name("tiny.yaml")), "-o", str(again), "--json"]
    code = f"from forerun_compiler.cli import execute; raise SystemExit(execute({arguments!r}))"
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "77"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result) == ["bundle", "files", "needs", "seconds"]
    first, second = read_manifest(pair.bundle), check_bundle(again)
    assert replace(first, created="") == replace(second, created="")
    for name in first.files:
        assert (pair.bundle / name).read_bytes() == (again / name).read_bytes(), name


def test_verify_proves_the_pair_lossless(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    code, out, err = execute(capsys, "verify", copy, *EFFORT, "--json")
    found = json.loads(out)
    assert (code, found["failures"], found["not_run"]) == (0, [], [])
    assert (found["lossless"], found["guarantee"]) == (True, "bit-identical")
    assert (found["greedy_prompts"], found["prompts_identical"], found["greedy_tokens"]) == (6, 6, 144)
    assert found["plain_identical"] + found["plain_ties"] == found["plain_prompts"] == 6
    assert found["hf_identical"] + found["hf_ties"] == found["hf_prompts"] == 6
    assert found["chi_square_p"] > 1e-4
    assert found["chi_square_samples"] == 300
    assert err.splitlines() == ["check files ...", "greedy identity ...", "planned decoding ...", "sampling ..."]
    text = execute(capsys, "inspect", copy, "--check")[1]
    assert "  lossless              yes\n" in text
    forerun.load(copy, threads=1).close()


def test_verify_without_the_source_claims_nothing(
    capsys: pytest.CaptureFixture[str], pair: BuiltPair, tmp_path: Path
) -> None:
    alone = shutil.copytree(pair.bundle, tmp_path / "alone")
    code, out, _ = execute(capsys, "verify", alone, *EFFORT, "--json")
    found = json.loads(out)
    assert (code, found["lossless"], found["prompts_identical"]) == (10, False, 6)
    assert len(found["not_run"]) == 2


def test_bench_measures_the_pair(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    code, out, _ = execute(capsys, "bench", copy, "--prompts", 3, "--tokens", 24, "--threads", 1, "--save", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["prompts"], found["tokens"]) == (3, 69)
    assert list(found["verify_cost_us"]) == ["2", "4", "8"]
    assert len(found["speculative"]["acceptance_per_position"]) == 7
    assert found["speculative"]["acceptance_length"] >= 1
    (row,) = check_bundle(copy).cost
    assert dict(row.round_us) == found["verify_cost_us"]


def test_compare_shows_acceptance_and_equal_output(capsys: pytest.CaptureFixture[str], pair: BuiltPair) -> None:
    code, out, _ = execute(capsys, "run", pair.bundle, "-p", PROMPTS[0], "-n", 60, "--compare", "--json")
    found = json.loads(out)
    assert (code, found["equal"]) == (0, True)
    assert found["statistics"]["acceptance_length"] > 1


@pytest.mark.parametrize("index", range(8))
def test_one_flipped_byte_anywhere_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], copy: Path, index: int
) -> None:
    name = sorted(path.name for path in copy.iterdir())[index]
    data = bytearray((copy / name).read_bytes())
    data[random.Random(name).randrange(len(data))] ^= 1
    (copy / name).write_bytes(data)
    for command in (["run", copy, "-p", "x"], ["inspect", "--check", copy], ["verify", copy], ["bench", copy]):
        code, out, err = execute(capsys, *command)
        assert (code, out) == (8, "")
        assert name in err
