"""The process that builds one TensorRT engine: `python -m forerun_compiler.engines.tensorrt_worker REQUEST.json`.

A process of its own for each engine: names inside an engine come from a counter of the process, so only the first
build of a fresh one gives the same bytes every time; and a crash of the library ends this process, not the compile.
The library also orders parts of an engine by where they lie in memory: one build in four had other bytes. So the
process begins again with fixed addresses, and all its threads take memory from one arena.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from forerun_compiler.engines.tensorrt_library import LIBRARIES, Library, reason_to_ignore
from forerun_compiler.engines.tensorrt_request import STAGE, WorkerAnswer, WorkerRequest, read_request
from forerun_compiler.errors import EngineError

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that this process gets when its parent dies
# Left out of the log, so that equal builds have equal logs: times, sizes of this process, paths.
_NOT_LOGGED = (" took ", "completed in ", "MemUsageStats", "Input filename:")
_ADDR_NO_RANDOMIZE, _ASK = 0x0040000, 0xFFFFFFFF  # personality(2)
_M_ARENA_MAX = -8  # mallopt(3)
_QUOTED = 600
"""So many characters of the library's words stand in a message; all of them stand in the log."""


def main(path: Path) -> int:
    """Build what the request asks for; returns 0, or 1 when the answer says why there is no engine."""
    fixed = fix_addresses()
    _end_with_parent()
    request = read_request(path)
    with Path(request.log).open("a", encoding="utf-8", buffering=1) as log:
        if not fixed:
            log.write("== this system does not let addresses be fixed: another build may have other bytes\n")
        answer = _answer(request, log)
    answer.write(Path(request.answer))
    return int(bool(answer.failure))


def _answer(request: WorkerRequest, log: TextIO) -> WorkerAnswer:
    try:
        return WorkerAnswer(library=_build(request, log), peak_memory=_peak_memory())
    except EngineError as error:
        return WorkerAnswer(failure="engine", message=str(error))
    except MemoryError:
        return WorkerAnswer(failure="resource", message=f"{request.graph}: the memory does not suffice for the build")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "; free some space or choose another output folder" if full else ""
        return WorkerAnswer(
            failure="resource" if full else "engine",
            message=f"{error.filename or request.plan}: the engine cannot be written: {error.strerror}{advice}",
        )


def _peak_memory() -> int:
    """Of this process alone; `getrusage` counts what its parent had when it was started. 0 where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _build(request: WorkerRequest, log: TextIO) -> str:
    """Parse, build and write the plan; returns the library's version."""
    library = LIBRARIES[request.backend]
    trt = _import(library)
    targets = ", ".join(request.members) or "the present device"
    log.write(f"== {request.graph}: {library.module} {trt.__version__}, for {targets}, widths {request.widths}\n")
    words = _words(trt, log)
    builder = _builder(trt, words, request)
    _stage(f"parse {request.graph}", 0, 0)
    network = _parse(trt, builder, words, request)
    config = _config(trt, builder, network, library, request)
    words.refuse_warnings(f"{request.graph}: TensorRT's parser warned of")
    _stage(f"build {request.graph}", 0, 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"{request.graph}: TensorRT could not build the engine for {targets}: {words.errors()}")
    words.refuse_warnings(f"{request.graph}: TensorRT's builder warned of")
    _stage(f"write {request.graph}", 0, 0)
    Path(request.plan).write_bytes(memoryview(plan))
    return str(trt.__version__)


def _import(library: Library) -> Any:
    try:
        return import_module(library.module)
    except (ImportError, OSError) as error:  # OSError: a shared library that the package needs is not there
        raise EngineError(
            f"{library.backend}: the Python package {library.module!r} cannot be imported: {error}; "
            f"install it with: pip install 'forerun[{library.extra}]'"
        ) from None


def _words(trt: Any, log: TextIO) -> Any:
    """Return a logger that keeps what the library says; its class needs the library's own as a base."""

    class Words(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.bad: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level = str(severity).rpartition(".")[2]
            if severity <= trt.ILogger.INFO and not any(each in message for each in _NOT_LOGGED):
                log.write(f"{level}: {message}\n")
            if severity <= trt.ILogger.ERROR:
                self.bad.append(message)
            elif severity == trt.ILogger.WARNING or "unused input" in message.lower():
                self.warnings.append(message)

        def errors(self) -> str:
            return _short(" | ".join(self.bad) or "it gave no reason")

        def refuse_warnings(self, what: str) -> None:
            left = [each for each in self.warnings if reason_to_ignore(each) is None]
            if left:
                raise EngineError(
                    f"{what}: {_short(' | '.join(left))}; a warning that is not understood ends the build: the engine "
                    "might not compute what the graph says"
                )

    return Words()


def _builder(trt: Any, words: Any, request: WorkerRequest) -> Any:
    try:
        return trt.Builder(words)
    except Exception as error:  # pybind11 gives a TypeError when the library returns no builder
        reason = words.errors() if words.bad else str(error)
        raise EngineError(
            f"{request.backend}: the library cannot begin a build here: {reason}; "
            "building for the present device needs an NVIDIA driver that fits the library"
        ) from None


def _parse(trt: Any, builder: Any, words: Any, request: WorkerRequest) -> Any:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, words)
    if parser.parse_from_file(request.onnx):
        return network
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    where = [f"node {each.node_name()!r} ({each.node_operator()}): {_short(each.desc())}" for each in found]
    raise EngineError(f"{request.graph}: TensorRT's parser refused {'; '.join(where) or 'it: ' + words.errors()}")


def _config(trt: Any, builder: Any, network: Any, library: Library, request: WorkerRequest) -> Any:
    config = builder.create_builder_config()
    # Nineteen bits instead of 32 in what the graph computes in float32: the drafter's `fc`, and all of it at float32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if library.ahead_of_time:
        # Documented to make the build fail where a run would allocate, so that a CUDA graph can always capture it;
        # sizes and kernels were the same with and without.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = len(request.members)
        for index, member in enumerate(request.members):
            config.set_compute_capability(getattr(trt.ComputeCapability, member), index)
    for width in request.widths:
        config.add_optimization_profile(_profile(builder, network, width))
    config.progress_monitor = _monitor(trt, request)
    return config


def _profile(builder: Any, network: Any, width: int) -> Any:
    """Return a profile in which every dynamic dimension is `width`: the runs are captured at that size alone."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        value = network.get_input(index)
        shape = tuple(width if size < 0 else size for size in value.shape)
        if shape != tuple(value.shape):
            profile.set_shape(value.name, shape, shape, shape)
    return profile


def _monitor(trt: Any, request: WorkerRequest) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells the steps of the outermost phase."""

        def __init__(self) -> None:
            super().__init__()
            self.outermost, self.steps = "", 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.outermost, self.steps = phase, steps

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self.outermost:
                _stage(f"build {request.graph}", step + 1, self.steps)
            return True

        def phase_finish(self, phase: str) -> None:
            pass

    return Monitor()


def _stage(name: str, done: int, total: int) -> None:
    sys.stdout.write(f"{STAGE}{done} {total} {name}\n")
    sys.stdout.flush()


def _short(text: str) -> str:
    """The library's words on one line; the middle of long ones is left out."""
    line = " ".join(text.split())
    return line if len(line) <= _QUOTED else f"{line[: _QUOTED // 2]} ... {line[-_QUOTED // 2 :]}"


def fix_addresses() -> bool:
    """Begin this process again with its memory at fixed addresses, unless it is so; False where that is not allowed.

    Containers often refuse it.
    """
    if sys.platform != "linux":
        return False
    personality = ctypes.CDLL(None).personality
    personality.argtypes = (ctypes.c_ulong,)
    now = personality(_ASK)
    if now != -1 and now & _ADDR_NO_RANDOMIZE:
        return bool(ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1))
    if now == -1 or personality(now | _ADDR_NO_RANDOMIZE) == -1:
        return False
    os.execv(sys.executable, sys.orig_argv)


def _end_with_parent() -> None:
    """Let an interrupt be the parent's business, which ends this process; and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
