"""Which formulation of the round is fastest on ONNX Runtime's CPU provider: every choice of lower_ort, measured.

    python benchmarks/formulations.py                      # recipes/demo; prints a table
    python benchmarks/formulations.py --threads 2 --write  # and writes it to benchmarks/results

Each variant is the whole round with one choice changed. Variants take turns in blocks of runs, many times over, so that
what else the machine does hits all of them; a block's first runs, which load the variant's weights, are not counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import formulation_variants as other
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from forerun_compiler import pipeline
from forerun_compiler.drafters import load_drafter
from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.manifest import EngineTarget
from forerun_compiler.passes.link_round import Parts, link_plain, link_round
from forerun_compiler.passes.lower_ort import lower_ort, passes_for
from forerun_compiler.passes.name_products import name_products
from forerun_compiler.passes.ordered_passes import Pass
from forerun_compiler.passes.share_weights import share_weights
from forerun_compiler.target import load_target, trace_target

HERE = Path(__file__).parent
DEMO = HERE.parent / "recipes/demo"
CACHE_ROWS, BLOCK, WARM = 1024, 12, 4
PASSES = passes_for(EngineTarget(kernels="stock"))
"""Of the library's own operators: ways to use them are what is compared here."""


@dataclass(frozen=True)
class Variant:
    """One choice made otherwise: before the lowering, in its table, or after it."""

    name: str
    before: Callable[[ir.Model], int] | None = None
    passes: tuple[Pass, ...] = PASSES
    after: Callable[[ir.Model], int] | None = None


@dataclass(frozen=True)
class Row:
    """Microseconds of a variant, medians and 10th percentiles, by what ran; `bytes` are those of its weights file."""

    variant: str
    bytes: int
    median_us: dict[str, float]
    p10_us: dict[str, float]


def variants() -> list[Variant]:
    attention = tuple(
        Pass(step.name, other.attention_op, True) if step.name == "lower attention and caches" else step
        for step in PASSES
    )
    return [
        Variant("as lower_ort does it"),
        Variant("rotations outside the attention", before=other.outer_rotations),
        Variant("TensorScatter + Slice + Attention", passes=attention),
        Variant("context and block write one after the other", before=other.chained_writes),
        Variant("each LM head a transposed copy", before=other.transposed_heads),
        Variant("no stacked products", passes=tuple(step for step in PASSES if step.name != "stack products")),
        Variant("fused residual sums and norms", after=other.fused_norms),
        Variant("both branches always, no If", after=other.both_branches),
    ]


def build(parts: Parts, variant: Variant, folder: Path) -> int:
    """Write the variant's graphs; returns the size of its weights in bytes."""
    graphs = (link_round(parts), link_plain(parts.target))
    for graph in graphs:
        share_weights(graph)
        if variant.before is not None:
            variant.before(graph)
        name_products(graph)
        lower_ort(graph, variant.passes)
        if variant.after is not None:
            variant.after(graph)
        if variant.before is not other.transposed_heads:
            share_weights(graph)
    folder.mkdir()
    engine.write_graphs({"round": graphs[0], "plain": graphs[1]}, folder)
    return (folder / engine.WEIGHTS).stat().st_size


class Runner:
    """A session with every input and output bound; states in place."""

    def __init__(self, path: Path, *, tokens: int, temperature: float, position: int, threads: int, spin: bool) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # one variant copies caches on purpose, and would say so in every run
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Sessions take turns here: one that spun on while another runs would take its cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.binding, self.buffers = self.session.io_binding(), dict[str, np.ndarray]()
        values = {"n_known": 1, "n_draft": tokens - 1, "position": position, "temperature": temperature, "uniform": 0.5}
        for given in self.session.get_inputs():
            shape = [tokens if isinstance(dim, str) else dim for dim in given.shape]
            array = np.zeros(shape, np.int64 if "int64" in given.type else np.float32)
            array += np.arange(5, 5 + tokens) if given.name == "tokens" else values.get(given.name, 0)
            self.buffers[given.name] = array
            self.binding.bind_cpu_input(given.name, array)
        for result in self.session.get_outputs():
            dtype = np.int64 if "int64" in result.type else np.float32
            array = self.buffers.get(result.name.removesuffix(".out"), np.zeros(result.shape, dtype))
            self.buffers[result.name] = array
            self.binding.bind_output(result.name, "cpu", 0, dtype, array.shape, array.ctypes.data)

    def time_us(self) -> float:
        start = time.perf_counter()
        self.session.run_with_iobinding(self.binding)
        return (time.perf_counter() - start) * 1e6


def measure(runners: dict[tuple[str, str], Runner], blocks: int) -> dict[tuple[str, str], list[float]]:
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runners}
    for _ in range(blocks):
        for key, runner in runners.items():
            times[key] += [runner.time_us() for _ in range(BLOCK)][WARM:]
    return times


def cpu_name() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def table(rows: list[Row], title: str) -> str:
    kinds = list(rows[0].median_us)
    lines = [title, "", f"| variant | weights MB | {' | '.join(kinds)} |", f"|---|---|{'---|' * len(kinds)}"]
    for row in rows:
        cells = [f"{row.median_us[kind]:.0f} ({row.p10_us[kind]:.0f})" for kind in kinds]
        lines.append(f"| {row.variant} | {row.bytes / 1e6:.1f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def load_parts() -> Parts:
    target = load_target(DEMO / "target")
    drafter = load_drafter(DEMO / "drafter", "auto", pipeline.target_side(target))
    traced = trace_target(target, drafter.taps, CACHE_ROWS)
    return Parts(traced, drafter.trace(drafter.block_size, CACHE_ROWS), drafter.block_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-spin", dest="spin", action="store_false", help="threads sleep while they wait")
    parser.add_argument("--position", type=int, default=256, help="tokens in the cache")
    parser.add_argument("--blocks", type=int, default=25, help=f"blocks of {BLOCK} runs per variant")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    asked = parser.parse_args()
    parts = load_parts()
    width = parts.draft_len + 1
    kinds = {
        "round, greedy": ("round", width, 0.0),
        "round, sampled": ("round", width, 1.0),
        "plain": ("plain", 1, 0.0),
    }
    with tempfile.TemporaryDirectory() as root:
        sizes, runners = {}, {}
        for number, variant in enumerate(variants()):
            folder = Path(root) / str(number)
            sizes[variant.name] = build(parts, variant, folder)
            for kind, (graph, tokens, temperature) in kinds.items():
                runners[variant.name, kind] = Runner(
                    folder / f"{graph}.onnx",
                    tokens=tokens,
                    temperature=temperature,
                    position=asked.position,
                    threads=asked.threads,
                    spin=asked.spin,
                )
        times = measure(runners, asked.blocks)
    rows = [
        Row(
            name,
            size,
            {kind: round(float(np.median(times[name, kind])), 1) for kind in kinds},
            {kind: round(float(np.percentile(times[name, kind], 10)), 1) for kind in kinds},
        )
        for name, size in sizes.items()
    ]
    threads = (
        f"{asked.threads} thread{'s' if asked.threads > 1 else ''}{'' if asked.spin else ' asleep while they wait'}"
    )
    machine = f"{cpu_name()}, {threads}, onnxruntime {ort.__version__}"
    title = f"Microseconds, median (10th percentile); {machine}; {width} tokens, {asked.position} in the cache."
    print(table(rows, title))
    if asked.write:
        stem = re.sub(r"[^a-z0-9]+", "-", f"{cpu_name().lower()}-{threads}")
        report = {"machine": machine, "position": asked.position, "rows": [asdict(row) for row in rows]}
        base = HERE / "results" / f"formulations-{stem}"
        base.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        base.with_suffix(".md").write_text(f"# Formulations of the round\n\n{table(rows, title)}")


if __name__ == "__main__":
    main()
