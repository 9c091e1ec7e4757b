"""A building process that fails, crashes, is killed or is interrupted becomes one clear error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import tensorrt_graphs as hand
from forerun_compiler.engines.tensorrt import write_for_tensorrt
from forerun_compiler.engines.tensorrt_process import run_worker
from forerun_compiler.engines.tensorrt_request import WorkerRequest, read_request
from forerun_compiler.errors import EngineError, ResourceError
from forerun_compiler.schemes import TENSORRT, TENSORRT_RTX

NO_RTX = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")


def request(folder: Path) -> WorkerRequest:
    """For a graph that need not be there."""
    return WorkerRequest(
        backend=TENSORRT_RTX,
        graph="round",
        onnx=str(folder / "round.onnx"),
        plan=str(folder / "round.engine"),
        log=str(folder / "build.log"),
        answer=str(folder / "answer.json"),
        members=("SM89", "SM120"),
        widths=(4, 16),
    )


def run(folder: Path, code: str, stages: list[tuple[str, int, int]] | None = None) -> None:
    """Run a stand-in for the worker, `code`, which sees the request's path as sys.argv[1]."""
    seen = [] if stages is None else stages
    run_worker(request(folder), folder, lambda *stage: seen.append(stage), (sys.executable, "-c", code))


def test_a_request_is_read_as_it_was_written(tmp_path: Path) -> None:
    request(tmp_path).write(tmp_path / "request.json")
    assert read_request(tmp_path / "request.json") == request(tmp_path)


def test_stages_are_reported_and_other_lines_are_not(tmp_path: Path) -> None:
    stages: list[tuple[str, int, int]] = []
    code = """
import json, sys
answer = json.load(open(sys.argv[1]))["answer"]
print("a library's own words"); print("forerun-stage 2 6 build round")
json.dump({"library": "1.0"}, open(answer, "w"))
"""
    run(tmp_path, code, stages)
    assert stages == [("build round", 2, 6)]


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            "import os, signal, sys; print('terminate called', file=sys.stderr, flush=True); os.abort()",
            EngineError,
            r"round: the building process .* crashed \(SIGABRT\).*fault of the library.*: terminate called",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            ResourceError,
            r"round: .* was killed, as the system does when memory runs out; .*log ends with: nothing",
        ),
        ("raise SystemExit(3)", EngineError, r"ended with code 3 and no answer"),
        ("raise SystemExit(0)", EngineError, r"ended with code 0 and no answer"),
        ("raise RuntimeError('a bug')", EngineError, r"ended with code 1 and no answer.*RuntimeError: a bug"),
    ],
)
def test_a_process_without_an_answer(tmp_path: Path, code: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path, code)


@NO_RTX
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    write_for_tensorrt({"round": hand.hand_target()}, tmp_path)
    full = replace(request(tmp_path), plan="/dev/full", members=("SM89",), widths=())
    with pytest.raises(ResourceError, match=r"the engine cannot be written: No space left on device; free some space"):
        run_worker(full, tmp_path, lambda *_: None)


def test_a_package_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.11: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(
        EngineError, match=r"'tensorrt' cannot be imported: libnvinfer\.so\.11: .*'forerun\[tensorrt\]'"
    ):
        run_worker(replace(request(tmp_path), backend=TENSORRT), tmp_path, lambda *_: None)


def test_modules_of_the_present_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not the real one')")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "tensorrt.py").write_text("raise ImportError('a stand-in')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=os.pathsep)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineError, match=r"'tensorrt' cannot be imported: a stand-in"):
        run_worker(replace(request(tmp_path), backend=TENSORRT), tmp_path, lambda *_: None)


def test_an_interrupt_ends_the_process(tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    code = (
        "import os, sys, time; open(os.path.dirname(sys.argv[1]) + '/pid', 'w').write(str(os.getpid())); "
        "print('forerun-stage 0 0 build round', flush=True); time.sleep(600)"
    )
    with pytest.raises(KeyboardInterrupt):
        run_worker(request(tmp_path), tmp_path, interrupt, (sys.executable, "-c", code))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_building_process_does_not_outlive_its_parent(tmp_path: Path) -> None:
    child = (
        "import os, time; from forerun_compiler.engines.tensorrt_worker import _end_with_parent; _end_with_parent(); "
        f"open({str(tmp_path / 'new')!r}, 'w').write(str(os.getpid())); "
        f"os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r}); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"]
    )
    try:
        _wait_until(lambda: (tmp_path / "pid").exists())
    finally:
        parent.kill()
        parent.wait()
    _wait_until(lambda: not _runs(int((tmp_path / "pid").read_text())))


def _wait_until(holds: object) -> None:
    for _ in range(3000):
        if holds():  # type: ignore[operator]
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within half a minute")


def _runs(pid: int) -> bool:
    """A process that nobody has waited for is a zombie, which does not run."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_signals_have_names(tmp_path: Path) -> None:
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})"
    with pytest.raises(EngineError, match=r"crashed \(SIGSEGV\)"):
        run(tmp_path, code)


@pytest.mark.skipif(sys.platform != "linux", reason="addresses are fixed on Linux only")
def test_the_worker_fixes_its_addresses_or_says_that_it_may_not() -> None:
    code = """
from forerun_compiler.engines.tensorrt_worker import fix_addresses
print(fix_addresses(), open("/proc/self/personality").read())
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    fixed, personality = said[0] == "True", int(said[1], 16)
    assert fixed == bool(personality & 0x0040000)
