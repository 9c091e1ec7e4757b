"""`--device` of run and bench, on a fake machine with one GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_bundle import FOLDER, make_device_bundle
from fake_machine import FakeMachine, build_driver
from forerun_compiler import cli
from forerun_compiler.manifest_text import parse
from table_bundle import TableBundle, make_table_bundle

REASON = f"cuda:0: Fake GPU 0 (8.9) runs {FOLDER}, TensorRT-RTX 1.7.1.116\n"


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def bundle(tmp_path: Path) -> TableBundle:
    return make_device_bundle(tmp_path / "table")


@pytest.fixture
def machine(
    driver: Path, bundle: TableBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[FakeMachine]:
    machine = FakeMachine(driver, bundle.path, bundle.draft_len, 8)
    machine.install(monkeypatch, tmp_path / "caches")
    yield machine
    assert machine.mistakes == []


def execute(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.execute([str(argument) for argument in arguments])
    streams = capsys.readouterr()
    return code, streams.out, streams.err


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "auto"])
def test_run_says_what_runs_it(
    capsys: pytest.CaptureFixture[str], machine: FakeMachine, bundle: TableBundle, device: str
) -> None:
    code, out, err = execute(capsys, "run", bundle.path, "-p", "abc", "-n", 14, "--device", device)
    assert (code, out) == (0, "abcé-d漢(e)🙂\n")
    assert err.startswith(REASON)


def test_run_compares_on_the_gpu(
    capsys: pytest.CaptureFixture[str], machine: FakeMachine, bundle: TableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forerun_compiler.generate.COMPARISONS", 1)
    arguments = ("run", bundle.path, "-p", "abc", "-n", 14, "--compare", "--device", "cuda", "--json")
    code, out, err = execute(capsys, *arguments)
    assert (code, err) == (0, REASON)
    assert json.loads(out)["equal"] is True


def test_auto_says_why_the_cpu_runs_it(
    capsys: pytest.CaptureFixture[str], machine: FakeMachine, bundle: TableBundle
) -> None:
    machine.driver.fake_cuda_reset(13000, 0)
    code, _, err = execute(capsys, "run", bundle.path, "-p", "abc", "-n", 3, "--device", "auto")
    assert code == 0
    assert err.startswith("cpu: no GPU fits: NVIDIA's driver ")


def test_the_cpu_says_nothing(capsys: pytest.CaptureFixture[str], bundle: TableBundle) -> None:
    assert execute(capsys, "run", bundle.path, "-p", "abc", "-n", 3, "--device", "cpu", "--json")[2] == ""


def test_a_device_that_cannot_run_it_is_7(
    capsys: pytest.CaptureFixture[str], machine: FakeMachine, tmp_path: Path
) -> None:
    made = make_table_bundle(tmp_path / "cpu")
    code, out, err = execute(capsys, "run", made.path, "-p", "abc", "--device", "cuda")
    assert (code, out) == (7, "")
    assert err.startswith(f"error: device 'cuda': {made.path} holds no engine of a GPU; add - backend: tensorrt-rtx")


@pytest.mark.parametrize("command", ["run", "bench"])
@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cpu:0"])
def test_another_device_is_wrong_use(capsys: pytest.CaptureFixture[str], command: str, device: str) -> None:
    code, _, err = execute(capsys, command, "x", *(("-p", "a") if command == "run" else ()), "--device", device)
    assert code == 2
    assert f"expected cpu, cuda, cuda:N or auto, got '{device}'" in err


def test_bench_measures_the_gpu(capsys: pytest.CaptureFixture[str], machine: FakeMachine, bundle: TableBundle) -> None:
    code, out, err = execute(capsys, "bench", bundle.path, "--tokens", 20, "--device", "cuda", "--save", "--json")
    found = json.loads(out)
    assert code == 0
    assert REASON in err
    assert found["machine"]["library"] == f"tensorrt-rtx 1.7.1.116 on Fake GPU 0, {FOLDER}"
    assert list(found["verify_cost_us"]) == ["2", "3", "4", "5"]
    path = bundle.path / "manifest.json"
    (row,) = parse(path.read_bytes(), str(path)).cost
    assert row.fingerprint.endswith(f"on Fake GPU 0, {FOLDER}")
    assert row.plain_us == found["plain_cost_us"]
