"""TensorRT and TensorRT-RTX: lowered graphs -> ONNX files -> engine files, built one a process, read back and checked.

The ONNX files are complete: engines for other devices are built from them without the checkpoints.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from forerun_compiler.bundle import GraphInterface
from forerun_compiler.engines.capability import check_capabilities
from forerun_compiler.engines.onnxruntime import write_graphs
from forerun_compiler.engines.plan_reader import PlanFacts, read_plan
from forerun_compiler.engines.tensorrt_graph import (
    Expectations,
    check_engine,
    check_float32,
    check_lowered,
    expectations_of,
)
from forerun_compiler.engines.tensorrt_library import LIBRARIES, installed_version
from forerun_compiler.engines.tensorrt_process import run_worker
from forerun_compiler.engines.tensorrt_request import WorkerRequest
from forerun_compiler.engines.tensorrt_resources import check_engines_fit, estimate_engines
from forerun_compiler.manifest import DType
from forerun_compiler.on_progress import OnProgress
from forerun_compiler.resources import this_machine

LOG = "build.log"
TYPES: Mapping[ir.DataType, DType] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT64: "int64",
}
"""What the runtime binds as inputs and outputs of TensorRT."""


@dataclass(frozen=True)
class GraphBuild:
    """A graph file of `write_for_tensorrt`, and the widths that its dynamic dimension T gets, a profile each.

    The first width is that of decoding. A graph of fixed shapes has none.
    """

    name: str
    onnx: Path
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineRequest:
    """Engines of one backend. TensorRT-RTX builds for `compute_capability` ("8.9"); TensorRT for the present device."""

    backend: str
    compute_capability: tuple[str, ...]
    graphs: tuple[GraphBuild, ...]


@dataclass(frozen=True)
class BuiltGraph:
    """The engine file of a graph, what it holds, and how many bytes of memory its build took at most."""

    file: str
    facts: PlanFacts
    peak_memory: int


@dataclass(frozen=True)
class BuiltEngines:
    """What `build_engines` wrote: the library's version, the capabilities, and each graph's engine by its name.

    `unknown` says what could not be checked, and why; "" where all of it was.
    """

    library: str
    compute_capability: tuple[str, ...]
    graphs: Mapping[str, BuiltGraph]
    unknown: str


def write_for_tensorrt(models: Mapping[str, ir.Model], folder: Path) -> dict[str, GraphInterface]:
    """Write `NAME.onnx` for each lowered graph, and the weights file that they share, as `build_engines` reads them.

    Raises:
        EngineError: a graph has a form that TensorRT builds wrongly, or a type that the runtime does not bind.
        OSError: the folder cannot be written.
    """
    named = {name: _named_nodes(model) for name, model in models.items()}
    for name, model in named.items():
        check_lowered(model, name)
    return write_graphs(named, folder, TYPES)


def build_engines(request: EngineRequest, folder: Path, on_progress: OnProgress) -> BuiltEngines:
    """Write NAME.engine for each graph, and build.log, into `folder`; equal requests give equal bytes.

    Temporary files stand in `folder` while the build runs, and are gone when it ends.

    Raises:
        EngineError: the library is missing or refused a graph, or an engine is not what its graph asked for.
        ResourceError: memory or disk do not suffice.
        OSError: the folder cannot be written.
    """
    library = LIBRARIES[request.backend]
    chosen = check_capabilities(request.backend, request.compute_capability) if library.ahead_of_time else ()
    installed_version(request.backend)
    models = {graph.name: ir.load(graph.onnx) for graph in request.graphs}
    for name, model in models.items():
        check_lowered(model, name)
        check_float32(model, name, chosen)
    check_engines_fit(estimate_engines([_weights(model) for model in models.values()]), this_machine(folder), folder)
    (folder / LOG).unlink(missing_ok=True)
    versions, built = set(), {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        for graph in request.graphs:
            job = _job(request.backend, graph, tuple(each.member for each in chosen), Path(scratch), folder)
            answer = run_worker(job, Path(scratch), on_progress)
            versions.add(answer.library)
            on_progress(f"check {graph.name}", 0, 0)
            numbers = tuple(each.number for each in chosen)
            expected = expectations_of(models[graph.name], numbers)
            facts = _check(request.backend, Path(job.plan), expected, graph.name)
            built[graph.name] = BuiltGraph(f"{graph.name}.engine", facts, answer.peak_memory)
        for graph in request.graphs:
            os.replace(Path(scratch) / f"{graph.name}.engine", folder / built[graph.name].file)
    return BuiltEngines(
        library=", ".join(sorted(versions)),
        compute_capability=tuple(each.number for each in chosen),
        graphs=built,
        unknown=" ".join(dict.fromkeys(each.facts.unknown for each in built.values() if each.facts.unknown)),
    )


def _job(backend: str, graph: GraphBuild, members: tuple[str, ...], scratch: Path, folder: Path) -> WorkerRequest:
    return WorkerRequest(
        backend=backend,
        graph=graph.name,
        onnx=str(graph.onnx),
        plan=str(scratch / f"{graph.name}.engine"),
        log=str(folder / LOG),
        answer=str(scratch / f"{graph.name}.json"),
        members=members,
        widths=graph.widths,
    )


def _check(backend: str, plan: Path, expected: Expectations, graph: str) -> PlanFacts:
    if not LIBRARIES[backend].ahead_of_time:
        size = plan.stat().st_size
        return PlanFacts(
            "", (), size, None, f"{backend}: the inside of its engines is not known here, so it is not checked"
        )
    facts = read_plan(plan, expected.names)
    check_engine(facts, expected, graph)
    return facts


def _weights(model: ir.Model) -> int:
    """Return the bytes of a graph's constants."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _named_nodes(model: ir.Model) -> ir.Model:
    """Return a clone whose nodes all have names of their own: the engine tells by them what became of each."""
    clone = model.clone()
    taken: set[str] = set()
    for index, node in enumerate(clone.graph.all_nodes()):
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}#{index}"
        taken.add(node.name)
    return clone
