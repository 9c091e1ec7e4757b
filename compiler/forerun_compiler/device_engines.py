"""The engines of GPUs in a bundle: their graphs in `engines/NAME`, and what TensorRT builds from them.

The graphs stay in the bundle with their weights, so that an engine for another device, or for the device that the
bundle has reached, is built without the checkpoints.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from forerun_compiler.engines.capability import check_precision
from forerun_compiler.engines.tensorrt import BuiltEngines, EngineRequest, GraphBuild, build_engines, write_for_tensorrt
from forerun_compiler.engines.tensorrt_library import installed_version
from forerun_compiler.errors import EngineError
from forerun_compiler.manifest import BuiltEngine, EngineTarget, ModelFacts, PlanSummary, Precision
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.schemes import DENSE, TENSORRT

if TYPE_CHECKING:
    from forerun_compiler.compilation import DeviceGraphs

ENGINES = "engines"


def write_device_engine(device: DeviceGraphs, bundle: Path, on_progress: OnProgress) -> EngineTarget:
    """Write the graphs of an engine into a bundle and build it; return its entry of the manifest.

    Raises:
        EngineError: a device lacks what the precision needs, the library is missing, or it refused.
        ResourceError: memory or disk do not suffice.
    """
    engine, precision = device.engine, device.precision
    check_device_engine(engine, precision)
    graphs = device.lower()
    name = _unused(bundle / ENGINES, precision.target if precision.target != DENSE else engine.dtype)
    folder = bundle / ENGINES / name
    folder.mkdir(parents=True)
    on_progress(f"write the graphs of {name}", 0, 0)
    interfaces = write_for_tensorrt({"round": graphs.round, "plain": graphs.plain}, folder)
    del graphs
    files = {graph: replace(found, file=f"{ENGINES}/{name}/{found.file}") for graph, found in interfaces.items()}
    entry = replace(engine, graphs=files)
    return replace(entry, built=(build_device_engine(entry, device.facts, bundle, on_progress),))


def check_device_engine(engine: EngineTarget, precision: Precision) -> None:
    """Refuse a device that cannot multiply what a precision asks for, and a library that is not installed.

    Raises:
        EngineError: says what is missing and what to change.
    """
    devices = engine.compute_capability or present_device()
    check_precision(engine.backend, devices, engine.dtype, precision.schemes)
    installed_version(engine.backend)


def build_device_engine(entry: EngineTarget, facts: ModelFacts, bundle: Path, on_progress: OnProgress) -> BuiltEngine:
    """Build an engine from the graphs of an entry into a folder beside them; a build that fails leaves none there."""
    home = (bundle / next(iter(entry.graphs.values())).file).parent
    name = "-".join([entry.backend, *(f"sm{number.replace('.', '')}" for number in entry.compute_capability)])
    staging = home / f".{name}-{secrets.token_hex(4)}"
    staging.mkdir()
    try:
        built = build_engines(_request(entry, facts, bundle), staging, on_progress)
        target = home / _unused(home, name)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if built.unknown:
        on_progress(f"not checked: {built.unknown}", 0, 0)
    return BuiltEngine(
        folder=target.relative_to(bundle).as_posix(),
        library=built.library,
        compute_capability=built.compute_capability or present_device(),
        plans=_summaries(built),
    )


def _request(entry: EngineTarget, facts: ModelFacts, bundle: Path) -> EngineRequest:
    """A profile for each width: those of decoding, the widest first, and full chunks, in which prompts are read."""
    chunk = min(facts.prefill_chunk, facts.capacity)
    decoding: Mapping[str, tuple[int, ...]] = {"round": facts.verify_widths[::-1], "plain": (1,)}
    graphs = tuple(
        GraphBuild(name, bundle / graph.file, tuple(dict.fromkeys((*decoding[name], chunk))))
        for name, graph in entry.graphs.items()
    )
    return EngineRequest(entry.backend, entry.compute_capability, graphs)


def _summaries(built: BuiltEngines) -> dict[str, PlanSummary]:
    """What the engines run while decoding at full width, their first profile; nothing where their inside is unknown."""
    found = {}
    for name, graph in built.graphs.items():
        if graph.facts.profiles is not None:
            run = graph.facts.profiles[0]
            products = run.products_by_operands()
            found[name] = PlanSummary(run.launches, products, run.device_memory, run.capturable)
    return found


def present_device() -> tuple[str, ...]:
    """Return the compute capability of this machine's first GPU.

    Raises:
        EngineError: there is none.
    """
    from forerun.device import find_devices

    devices = find_devices()
    if not devices.found:
        raise EngineError(
            f"{TENSORRT}: it builds on the device that will run the engine, and this machine has none: "
            f"{devices.reason}; build there (build-engine build -o BUNDLE --only engines --target {TENSORRT}), or use "
            "the backend tensorrt-rtx, which builds ahead of time"
        )
    return (devices.found[0].capability,)


def _unused(folder: Path, name: str) -> str:
    """The name, with a number if there is such an entry already."""
    number, found = 1, name
    while (folder / found).exists():
        number += 1
        found = f"{name}-{number}"
    return found
