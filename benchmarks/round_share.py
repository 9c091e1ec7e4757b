"""Where the time of a round goes: the whole round against its products alone and its attention alone.

    python benchmarks/round_share.py artifacts/demo                        # prints two tables
    python benchmarks/round_share.py artifacts/schemes/bundles/600m-int8 --write

First way: the round's graph is cut down to its products (and, apart, to its attention), every kernel with the shapes
and weights that it has in the round; whole and parts are timed in turn. Second way: ONNX Runtime's profile of the
round, summed by op. The profile costs time itself, so read its shares and not its sum. Both ways take decoder layers
apart into their kernels, which costs time too; the whole round is as it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from in_turn import Blocks, bind_graph, cached_tokens, feed_widths, make_states, time_in_turn
from part_of_graph import ATTENTION, PRODUCTS, cut, run_part, single_kernels
from result_files import command_line, machine_name, versions, write_results
from round_profile import Kernel, OpShare, Tensor, profile, shares

from forerun_compiler.bundle import GraphInterface, Manifest, check_bundle
from forerun_compiler.errors import ForerunError
from forerun_compiler.ort_session import open_session
from forerun_compiler.progress import StageProgress

PROFILED_RUNS = 10
_NAMES = {"float32": "float", "int64": "int64", "int8": "int8"}


@dataclass(frozen=True)
class Share:
    """Medians in microseconds of one round on `rows` token rows, of all its products, and of all its attention."""

    rows: int
    round_us: float
    products: int
    products_us: float
    attention: int
    attention_us: float

    @property
    def rest_us(self) -> float:
        return self.round_us - self.products_us - self.attention_us

    @property
    def over(self) -> float:
        """The round's time over that of its products and attention, less one."""
        return self.round_us / (self.products_us + self.attention_us) - 1


@dataclass(frozen=True)
class Report:
    """All of one bundle; `by_op` is the profile at the widest round."""

    bundle: str
    machine: str
    versions: Mapping[str, str]
    command: str
    cached_tokens: int
    shares: Sequence[Share]
    by_op: Sequence[OpShare]


class RoundParts:
    """The round of a bundle on one width, whole and in parts."""

    def __init__(self, folder: Path, manifest: Manifest, feed: tuple[int, int], threads: int) -> None:
        self.graph, self.facts, self.feed, self.threads = manifest.graphs["round"], manifest.model, feed, threads
        self.file = folder / self.graph.file
        self.kernels = single_kernels(self.file)

    def bind(self, session: Any) -> Any:
        return bind_graph(session, self.graph, self.facts, make_states(self.graph), self.feed)

    def whole(self) -> Any:
        return self.bind(open_session(self.file, self.threads))

    def parts(self) -> tuple[tuple[int, Any], tuple[int, Any]]:
        """(how many, one run) of the products and of the attention."""
        kernels = self._profile(1, optimized=False)
        given = _given(self.graph, sum(self.feed))
        products, attention = (cut(self.file, ops, kernels, given) for ops in (PRODUCTS, ATTENTION))
        values = self._integers([name for name, tensor in attention.inputs.items() if tensor[0] != "float"])
        return (
            (products.nodes, run_part(self.file, products, {}, self.threads)),
            (attention.nodes, run_part(self.file, attention, values, self.threads)),
        )

    def profiled(self) -> list[Kernel]:
        return self._profile(PROFILED_RUNS, optimized=True)

    def _profile(self, runs: int, *, optimized: bool) -> list[Kernel]:
        return profile(self.file, self.threads, runs, optimized, self.bind, self.kernels.SerializeToString())

    def _integers(self, names: Sequence[str]) -> dict[str, Any]:
        """Values of the round that tell attention where it is: made outputs of the graph, and read."""
        feeds = {state.name: np.zeros(state.shape, state.dtype) for state in self.graph.states}
        known, drafted = self.feed
        counts = {"n_known": known, "n_draft": drafted, "position": cached_tokens(self.facts), "tokens": 5}
        for tensor in self.graph.inputs:
            shape = [known + drafted if isinstance(size, str) else size for size in tensor.shape]
            feeds[tensor.name] = np.full(shape, counts.get(tensor.name, 0), tensor.dtype)
        model = onnx.ModelProto()
        model.CopyFrom(self.kernels)
        made = [name for name in names if name not in feeds]
        outputs = {output.name for output in model.graph.output}
        model.graph.output.extend(
            onnx.helper.make_empty_tensor_value_info(name) for name in made if name not in outputs
        )
        session = open_session(self.file, self.threads, model.SerializeToString())
        return feeds | dict(zip(made, session.run(made, feeds), strict=True))


def measure(folder: Path, widths: Sequence[int], threads: int, blocks: Blocks, on_progress: Any) -> Report:
    manifest = check_bundle(folder)
    found: list[Share] = []
    rounds = {
        rows: RoundParts(folder, manifest, feed, threads) for rows, feed in feed_widths(manifest.model, widths).items()
    }
    for rows, parts in rounds.items():
        (products, run_products), (attention, run_attention) = parts.parts()
        calls = {"round": parts.whole(), "products": run_products, "attention": run_attention}
        medians = {name: statistics.median(times) for name, times in time_in_turn(calls, blocks, on_progress).items()}
        found.append(Share(rows, medians["round"], products, medians["products"], attention, medians["attention"]))
    on_progress("profile", 0, 1)
    return Report(
        bundle=folder.name,
        machine=machine_name(threads),
        versions=versions(),
        command=command_line(),
        cached_tokens=cached_tokens(manifest.model),
        shares=found,
        by_op=shares(rounds[max(rounds)].profiled(), PROFILED_RUNS),
    )


def render_markdown(report: Report) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    total = sum(share.time_us for share in report.by_op)
    widest = max(share.rows for share in report.shares)
    lines = [
        f"# Where the time of a round goes: {report.bundle}",
        "",
        f"Measured on {report.machine} ({libraries}): `{report.command}`",
        "",
        f"Medians in microseconds, {report.cached_tokens} tokens in the cache, taken in turn. Products and attention "
        "alone are the same kernels on the same shapes and weights; quantizing a product's input counts as the product "
        "where its kernel or a QuantizeLinear does it, writing caches as attention; in brackets how many kernels. "
        "Products alone are without the norms, gatings and additions that are fused into int8 products: those count as "
        "the rest.",
        "",
        "| token rows | round | products alone | attention alone | rest | round over products and attention |",
        "|---|---|---|---|---|---|",
    ]
    for share in report.shares:
        lines.append(
            f"| {share.rows} | {share.round_us:.0f} | {share.products_us:.0f} ({share.products}) "
            f"| {share.attention_us:.0f} ({share.attention}) | {share.rest_us:.0f} | {share.over:+.1%} |"
        )
    lines += ["", f"The profile of a round on {widest} token rows, by op, each with all that is fused into it:", ""]
    lines += ["| op | kind | nodes | microseconds | share |", "|---|---|---|---|---|"]
    for op in report.by_op:
        kind = "product" if op.op in PRODUCTS else "attention" if op.op in ATTENTION else "rest"
        lines.append(f"| {op.op} | {kind} | {op.nodes:.0f} | {op.time_us:.0f} | {op.time_us / total:.1%} |")
    return "\n".join(lines) + "\n"


def render_json(report: Report) -> str:
    derived = [{**asdict(share), "rest_us": share.rest_us, "over": share.over} for share in report.shares]
    return json.dumps({**asdict(report), "shares": derived}, indent=2) + "\n"


def _given(graph: GraphInterface, rows: int) -> dict[str, Tensor]:
    """The graph's own inputs, as a profile would spell them."""
    return {
        tensor.name: (_NAMES[tensor.dtype], tuple(rows if isinstance(size, str) else size for size in tensor.shape))
        for tensor in (*graph.inputs, *graph.states)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16], help="token rows of a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=Blocks.count)
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    asked = parser.parse_args()
    try:
        with StageProgress(sys.stderr) as progress:
            report = measure(asked.bundle, asked.rows, asked.threads, Blocks(asked.blocks), progress)
    except ForerunError as error:
        sys.exit(f"error: {error}")
    print(render_markdown(report))
    if asked.write:
        write_results(f"round-share-{report.bundle}", asked.threads, render_json(report), render_markdown(report))


if __name__ == "__main__":
    main()
