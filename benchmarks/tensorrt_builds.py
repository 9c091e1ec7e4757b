"""What building TensorRT engines takes: time, memory and disk over weight bytes, for random weights at a model's sizes.

    python benchmarks/tensorrt_builds.py --graph round                         # Qwen3-0.6B's sizes in float16
    python benchmarks/tensorrt_builds.py --size quarter --size qwen3-0.6b \\
        --precision float16 --precision fp8 --precision nvfp4 --write

Needs no GPU. The pair is made and traced once for each size. A precision is built for 8.9 and 12.0 where both have it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx_ir as ir
from random_pair import SIZES, link_random
from result_files import command_line, machine_name, versions, write_results

from forerun_compiler.dialect import Linear
from forerun_compiler.engines.tensorrt import EngineRequest, GraphBuild, build_engines, write_for_tensorrt
from forerun_compiler.errors import ForerunError
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.passes.name_products import products
from forerun_compiler.pipeline import LinkedGraphs, lower_graphs
from forerun_compiler.progress import StageProgress
from forerun_compiler.resources import GIB
from forerun_compiler.schemes import DENSE, TENSORRT_RTX

PRECISIONS = {"float16": (DENSE, ("8.9", "12.0")), "fp8": ("fp8", ("8.9", "12.0")), "nvfp4": ("nvfp4", ("12.0",))}
GRAPHS = ("round", "plain")
RANGE = 8.0
"""Of every layer's input; random weights need no calibration."""


@dataclass(frozen=True)
class Row:
    """One engine. Sizes are bytes; `lower_seconds` and `disk` (graphs, weights, engines) are of all its graphs."""

    size: str
    precision: str
    capabilities: str
    graph: str
    weights: int
    engine: int
    peak_memory: int
    build_seconds: float
    lower_seconds: float
    disk: int
    launches: int
    products: dict[str, int]

    @property
    def ram_factor(self) -> float:
        """Memory over weights."""
        return self.peak_memory / self.weights

    @property
    def disk_factor(self) -> float:
        """Engine over weights."""
        return self.engine / self.weights


class Clock:
    """Keeps when each stage began, and passes it on."""

    def __init__(self, shown: StageProgress) -> None:
        self._shown, self._stage, self._since = shown, "", time.perf_counter()
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        now = time.perf_counter()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now
        self._shown(stage, done, total)


def measure(
    size: str,
    linked: LinkedGraphs,
    precision: str,
    folder: Path,
    shown: StageProgress,
    names: Sequence[str] = GRAPHS,
) -> Iterator[Row]:
    """Lower, write and build the named graphs of a linked pair at a precision."""
    scheme, capabilities = PRECISIONS[precision]
    begun = time.perf_counter()
    engine = EngineTarget(TENSORRT_RTX, "cuda", compute_capability=capabilities, dtype="float16")
    choice = Precision(scheme, scheme, scheme, scheme)
    given = {"round": linked.round, "plain": linked.plain}
    models = {name: given[name].clone() for name in names}
    lower_graphs(tuple(models.values()), linked.facts, choice, engine, shown, set_ranges=_set_range)
    weights = {name: _weights(model) for name, model in models.items()}
    write_for_tensorrt(models, folder)
    lowered = time.perf_counter() - begun
    del models
    widths = {"round": linked.facts.draft_len + 1, "plain": 1}
    clock = Clock(shown)
    builds = tuple(
        GraphBuild(name, folder / f"{name}.onnx", (widths[name], linked.facts.prefill_chunk)) for name in names
    )
    built = build_engines(EngineRequest(TENSORRT_RTX, capabilities, builds), folder, clock)
    clock("done")
    for name, found in built.graphs.items():
        decoding = (found.facts.profiles or ())[0]
        yield Row(
            size=size,
            precision=precision,
            capabilities=", ".join(capabilities),
            graph=name,
            weights=weights[name],
            engine=found.facts.size,
            peak_memory=found.peak_memory,
            build_seconds=sum(seconds for stage, seconds in clock.seconds.items() if stage.endswith(f" {name}")),
            lower_seconds=lowered,
            disk=sum(path.stat().st_size for path in folder.iterdir()),
            launches=decoding.launches,
            products=decoding.products_by_operands(),
        )


def _set_range(model: ir.Model) -> None:
    for node in products(model):
        attributes = Linear.from_node(node)
        node.attributes.add(ir.AttrFloat32("x_max", RANGE if attributes.scheme != DENSE else 0.0))


def _weights(model: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def markdown(rows: Sequence[Row], linked: dict[str, float], command: str) -> str:
    lines = [
        "# Building TensorRT-RTX engines without a GPU",
        "",
        f"`{command}` on {machine_name(1)}; {', '.join(f'{name} {version}' for name, version in _versions().items())}.",
        "",
        "Random weights. Memory is the largest that the building process had, mapped files included, and of the "
        "weights. Making, tracing and linking the pair took "
        f"{', '.join(f'{seconds:.0f} s for {size}' for size, seconds in linked.items())}; lowering and writing are of "
        "all graphs of a table. Each engine has two profiles: decoding and prefill of 128 tokens.",
        "",
        "| sizes | precision | for | graph | weights | build | memory | engine | lowering | kernels |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.size} | {row.precision} | {row.capabilities} | {row.graph} | {row.weights / GIB:.2f} GiB | "
        f"{row.build_seconds:.1f} s | {row.peak_memory / GIB:.2f} GiB = {row.ram_factor:.2f} | "
        f"{row.engine / GIB:.2f} GiB = {row.disk_factor:.2f} | {row.lower_seconds:.1f} s | {row.launches} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str]:
    from forerun_compiler.engines.tensorrt_library import installed_version

    return versions() | {"tensorrt_rtx": installed_version(TENSORRT_RTX)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", help="sizes of a model; may be given again")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="may be given again")
    parser.add_argument("--graph", choices=GRAPHS, action="append", help="may be given again")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    asked = parser.parse_args()
    sizes, precisions = asked.size or ["qwen3-0.6b"], asked.precision or ["float16"]
    rows: list[Row] = []
    linked_seconds = {}
    try:
        with StageProgress(sys.stderr) as shown:
            for size in sizes:
                begun = time.perf_counter()
                linked = link_random(SIZES[size], shown)
                linked_seconds[size] = time.perf_counter() - begun
                for precision in precisions:
                    with tempfile.TemporaryDirectory(prefix="forerun-builds-") as folder:
                        rows += measure(size, linked, precision, Path(folder), shown, asked.graph or GRAPHS)
    except ForerunError as error:
        sys.exit(f"error: {error}")
    command = command_line()
    text = markdown(rows, linked_seconds, command)
    print(text)
    if asked.write:
        data = {"command": command, "versions": _versions(), "link_seconds": linked_seconds}
        rows_data = [asdict(row) for row in rows]
        write_results("tensorrt-builds", 1, json.dumps(data | {"rows": rows_data}, indent=2) + "\n", text)


if __name__ == "__main__":
    main()
