"""More engines for a bundle that there is already, from the graphs in it: no checkpoint, no recipe, no tracing."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from forerun_compiler.bundle import Manifest, add_files, check_bundle, read_manifest
from forerun_compiler.device_engines import build_device_engine, check_device_engine, present_device
from forerun_compiler.errors import EngineError
from forerun_compiler.manifest import BuiltEngine, EngineTarget
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.schemes import TENSORRT, TENSORRT_RTX


def add_engines(bundle: Path, targets: Sequence[str], on_progress: OnProgress) -> Manifest:
    """Build engines for further targets and enter them in the manifest, which is replaced in one piece at the end.

    Args:
        bundle: its folder.
        targets: compute capabilities for TensorRT-RTX ("8.6"), or "tensorrt" for the device of this machine.
        on_progress: called with stage, done, total.

    Raises:
        BundleError: the bundle is damaged, or cannot be written.
        EngineError: it holds no graphs for GPUs, or none whose precision a target has, or the library refused.
    """
    manifest = check_bundle(bundle)
    entries = list(manifest.engines)
    if not any(entry.graphs for entry in entries):
        raise EngineError(
            f"{bundle}: the bundle holds no graphs for GPUs to build from: add - backend: tensorrt-rtx, with its "
            "compute_capability, to the engines of its recipe and build it again"
        )
    added: list[BuiltEngine] = []
    try:
        for target in targets:
            for asked in _to_build(manifest, entries, target, bundle):
                added.append(build_device_engine(asked, manifest.model, bundle, on_progress))
                entries = _entered(entries, asked, added[-1])
        return add_files(bundle, [built.folder for built in added], tuple(entries))
    except BaseException:
        listed = read_manifest(bundle).files  # an interrupt may come when the manifest has them already
        for built in added:
            if not any(name.startswith(f"{built.folder}/") for name in listed):
                shutil.rmtree(bundle / built.folder, ignore_errors=True)
        raise


def _to_build(manifest: Manifest, entries: Sequence[EngineTarget], target: str, bundle: Path) -> list[EngineTarget]:
    """An entry for each set of graphs that the target can run and has no engine of."""
    backend = TENSORRT if target == TENSORRT else TENSORRT_RTX
    capability = present_device() if target == TENSORRT else (target,)
    asked, refusals = [], []
    for entry in {_graphs_of(entry): entry for entry in entries if entry.graphs}.values():
        new = replace(entry, backend=backend, compute_capability=capability, built=())
        if any(set(capability) <= set(built.compute_capability) for built in _built(entries, new)):
            refusals.append(f"{_graphs_of(entry)}: {backend} for {', '.join(capability)} is there already")
            continue
        try:
            check_device_engine(new, entry.precision or manifest.precision)
            asked.append(new)
        except EngineError as error:
            refusals.append(f"{_graphs_of(entry)}: {error}")
    if not asked:
        raise EngineError(f"{bundle}: nothing to build for {target}: {'; '.join(refusals)}")
    return asked


def _graphs_of(entry: EngineTarget) -> str:
    """The folder of the graphs that an entry is built from."""
    return str(PurePosixPath(next(iter(entry.graphs.values())).file).parent)


def _built(entries: Sequence[EngineTarget], like: EngineTarget) -> list[BuiltEngine]:
    """The engines of the same backend and graphs."""
    alike = (each for each in entries if each.graphs and each.backend == like.backend)
    return [built for each in alike if _graphs_of(each) == _graphs_of(like) for built in each.built]


def _entered(entries: Sequence[EngineTarget], asked: EngineTarget, built: BuiltEngine) -> list[EngineTarget]:
    """The entries with a new engine: of the entry for its backend and graphs, or an entry of its own at the end."""
    found = list(entries)
    for index, entry in enumerate(found):
        if entry.graphs and entry.backend == asked.backend and _graphs_of(entry) == _graphs_of(asked):
            devices = tuple(dict.fromkeys((*entry.compute_capability, *asked.compute_capability)))
            found[index] = replace(entry, compute_capability=devices, built=(*entry.built, built))
            return found
    return [*found, replace(asked, built=(built,))]
