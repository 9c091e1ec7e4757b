"""Opening a bundle: `load` chooses the device, finds its execution library, and hands over the machine's costs."""

from __future__ import annotations

import os
from pathlib import Path

from forerun import _core
from forerun import device as gpu_devices
from forerun.bundle_engines import read_engines
from forerun.costs import read_costs
from forerun.device import Choice, Gpu, choose, find_devices, parse_device
from forerun.engine import Engine
from forerun.errors import refuse_argument
from forerun.library import VARIABLE, find_library
from forerun.machine import describe_machine
from forerun.primary_context import PrimaryContext
from forerun.runtime_cache import RuntimeCache, cache_folder
from forerun.tensorrt import TensorRTGraphs
from forerun.tensorrt_package import find_package

MOST_THREADS = 1024


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "cpu",
    threads: int | None = None,
    library: str | os.PathLike[str] | None = None,
) -> Engine:
    """Opens the bundle in the folder `path`; every file's size and hash is checked before it is used.

    `device` is "cpu"; "cuda", the first GPU that one of the bundle's engines was built for, or "cuda:N", that one; or
    "auto", a GPU if one fits and else the CPU. What was chosen, and why, is the engine's `device`.
    On the CPU `threads` is how many one round may use (default: the processors this process may run on), and `library`
    the path of libonnxruntime.so; default: the environment variable FORERUN_ONNXRUNTIME, then the installed
    onnxruntime. A GPU needs the TensorRT package that built the engine, in that version.
    Raises ForerunError, which names the file, what was expected, what was found and what to do.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise refuse_argument(f"threads: expected 1 .. {MOST_THREADS} or None, got {threads!r}")
    folder = Path(path)
    choice = Choice("cpu", "")
    if parse_device(device) != "cpu":
        devices = find_devices()
        choice = choose(read_engines(folder), device, devices, find_package)
        if choice.gpu is not None:
            return _open_on_gpu(folder, choice, choice.gpu, devices.cuda, cache_folder(os.environ))
    found = find_library(library, os.environ.get(VARIABLE))
    return _with_costs(Engine(_core.Engine(os.fspath(folder), os.fspath(found), threads or 0), folder, choice), folder)


def _with_costs(engine: Engine, folder: Path) -> Engine:
    """The engine, with the costs that its bundle knows of this machine."""
    try:
        fingerprint = describe_machine(engine.facts, engine.device).fingerprint
        engine.set_costs(read_costs(folder, fingerprint, engine.facts.verify_widths))
    except BaseException:
        engine.close()
        raise
    return engine


def _open_on_gpu(folder: Path, choice: Choice, gpu: Gpu, cuda: tuple[int, int], caches: Path) -> Engine:
    """`cuda` is the driver's; what TensorRT-RTX compiles is kept in the folder `caches`."""
    entry = gpu.engine
    cache = RuntimeCache(caches, entry, gpu.device.name, cuda) if entry.backend == "tensorrt-rtx" else None
    driver, ordinal = gpu_devices.DRIVER, gpu.device.ordinal
    graphs = TensorRTGraphs(folder, entry, cache, PrimaryContext(driver, ordinal))
    try:
        core = _core.Engine(
            os.fspath(folder),
            engine=entry.folder,
            library=entry.backend,
            version=entry.library,
            bind=graphs.bind,
            enqueue=graphs.enqueue,
            driver=driver,
            device=ordinal,
        )
    except BaseException:
        graphs.close()
        raise
    return _with_costs(Engine(core, folder, choice, graphs.close), folder)
