"""What ONNX Runtime's own profile says of a graph: the time of every kernel, and what each of them wrote."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forerun

Tensor = tuple[str, tuple[int, ...]]
"""An element type as ONNX Runtime spells it ("float", "int64") and a shape."""

_SUFFIX = "_kernel_time"
_HOLDERS = ("If", "Loop", "Scan")
"""Their time is that of their branch's kernels, which are in the profile themselves."""


@dataclass(frozen=True)
class Kernel:
    """One run of one node. `self_us` is without what ran inside it."""

    node: str
    op: str
    start_us: float
    time_us: float
    self_us: float
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class OpShare:
    """All nodes of one op: how many ran in a run of the graph, and their microseconds in it."""

    op: str
    nodes: float
    time_us: float


def profile(
    file: Path,
    threads: int,
    runs: int,
    optimized: bool,
    run: Callable[[Any], Callable[[], None]],
    graph: bytes | None = None,
) -> list[Kernel]:
    """Kernels of `runs` runs of the graph in `file`, in the order in which they began; of `graph` in its place.

    `run(session)` returns one run. Without optimization nodes are those of the graph, under their names there.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.register_custom_ops_library(str(forerun.kernel_library()))
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(file.parent.absolute())
    )
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(
            str(file) if graph is None else graph, options, providers=["CPUExecutionProvider"]
        )
        call = run(session)
        for _ in range(runs):
            call()
        return read_events(json.loads(Path(session.end_profiling()).read_text()))


def read_events(events: Sequence[Mapping[str, Any]]) -> list[Kernel]:
    """The kernels among a profile's events; times are microseconds."""
    found = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)]
    holders = [event for event in found if event["args"]["op_name"] in _HOLDERS]
    inside = {id(holder): 0.0 for holder in holders}
    for event in found:
        around = [holder for holder in holders if holder is not event and _within(event, holder)]
        if around:
            inside[id(min(around, key=lambda holder: float(holder["dur"])))] += float(event["dur"])
    kernels = [
        Kernel(
            node=event["name"].removesuffix(_SUFFIX),
            op=event["args"]["op_name"],
            start_us=float(event["ts"]),
            time_us=float(event["dur"]),
            self_us=max(float(event["dur"]) - inside.get(id(event), 0.0), 0.0),
            outputs=tuple(_tensor(entry) for entry in event["args"]["output_type_shape"]),
        )
        for event in found
    ]
    return sorted(kernels, key=lambda kernel: (kernel.start_us, -kernel.time_us))


def shares(kernels: Sequence[Kernel], runs: int) -> list[OpShare]:
    """By op, the longest first; a holder counts for what it does itself."""
    times, nodes = Counter[str](), Counter[str]()
    for kernel in kernels:
        times[kernel.op] += kernel.self_us
        nodes[kernel.op] += 1
    return [OpShare(op, nodes[op] / runs, time / runs) for op, time in times.most_common()]


def _within(event: Mapping[str, Any], holder: Mapping[str, Any]) -> bool:
    return bool(
        event["tid"] == holder["tid"]
        and event["ts"] >= holder["ts"]
        and event["ts"] + event["dur"] <= holder["ts"] + holder["dur"]
    )


def _tensor(entry: Mapping[str, Sequence[int]]) -> Tensor:
    ((dtype, shape),) = entry.items()
    return dtype, tuple(shape)
