"""Runs one build in a fresh process, and turns whatever becomes of it into an engine file or one error."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from forerun_compiler.engines.tensorrt_request import STAGE, WorkerAnswer, WorkerRequest, read_answer
from forerun_compiler.errors import EngineError, ResourceError
from forerun_compiler.on_progress import OnProgress

# -P: modules of the folder that the user happens to be in are not imported.
WORKER = (sys.executable, "-P", "-m", "forerun_compiler.engines.tensorrt_worker")
_LAST_LINES = 3


def run_worker(
    request: WorkerRequest, folder: Path, on_progress: OnProgress, command: tuple[str, ...] = WORKER
) -> WorkerAnswer:
    """Build in a process of its own, with its files in `folder`; an interrupt ends that process too.

    Raises:
        EngineError: the library refused the graph, or crashed.
        ResourceError: memory or disk did not suffice.
    """
    path = folder / "request.json"
    request.write(path)
    with Path(request.log).open("a", encoding="utf-8") as log:
        worker = subprocess.Popen([*command, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        try:
            code = _follow(worker, on_progress)
        finally:
            worker.kill()
            worker.wait()
    if code not in (0, 1) or not Path(request.answer).is_file():
        raise _crash(request, code)
    answer = read_answer(Path(request.answer))
    if answer.failure == "resource":
        raise ResourceError(answer.message)
    if answer.failure:
        raise EngineError(answer.message)
    return answer


def _follow(worker: subprocess.Popen[bytes], on_progress: OnProgress) -> int:
    """Report the stages that the worker tells until it ends; returns its exit code."""
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            text = line.decode("utf-8", "replace").strip()
            if text.startswith(STAGE):
                done, total, stage = text.removeprefix(STAGE).split(" ", 2)
                on_progress(stage, int(done), int(total))
    return worker.wait()


def _crash(request: WorkerRequest, code: int) -> EngineError | ResourceError:
    """Return the error for a worker that ended without an answer."""
    lines = Path(request.log).read_text(encoding="utf-8", errors="replace").splitlines()
    said = " | ".join(line.strip() for line in lines if line.strip() and not line.startswith("==")) or "nothing"
    last = said if len(said) < 500 else f"... {' | '.join(lines[-_LAST_LINES:])[-500:]}"
    if code == -signal.SIGKILL:
        return ResourceError(
            f"{request.graph}: the building process was killed, as the system does when memory runs out; "
            f"end other programs or build on a larger machine. Its log ends with: {last}"
        )
    how = f"crashed ({_signal_name(-code)})" if code < 0 else f"ended with code {code} and no answer"
    return EngineError(
        f"{request.graph}: the building process of {request.backend} {how}, which is a fault of the library or of its "
        f"installation. Its log ends with: {last}"
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
