"""How far each scheme moves the demo's real weights: encoded, decoded and compared, by part and kind of layer.

    python benchmarks/round_trip.py           # prints the tables
    python benchmarks/round_trip.py --write   # and writes them to benchmarks/results

Errors of weights only, and without a machine in them: what a scheme does to the output is in `schemes.py`'s tables.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from forerun_compiler import number_formats
from forerun_compiler.dialect import Linear
from forerun_compiler.drafters import load_drafter
from forerun_compiler.graph import Array, constant_array
from forerun_compiler.manifest import Precision
from forerun_compiler.passes.assign_precision import assign_precision
from forerun_compiler.passes.link_round import Parts, link_round
from forerun_compiler.passes.name_products import name_products, products
from forerun_compiler.pipeline import target_side
from forerun_compiler.schemes import DENSE, SCHEMES
from forerun_compiler.target import load_target, trace_target

HERE = Path(__file__).parent
DEMO = HERE.parent / "recipes/demo"
BASE = HERE / "results/round-trip-demo"
CACHE_ROWS = 64
ALL = "all layers"


@dataclass(frozen=True)
class Layer:
    """A linear layer's weight [N,K]; `stays_dense` says why no scheme is given to it."""

    part: str
    kind: str
    weight: Array
    stays_dense: str | None


@dataclass(frozen=True)
class Row:
    """Errors of one scheme on the weights of one kind of layer; `largest_error` is in units of the weights' rms."""

    part: str
    kind: str
    scheme: str
    layers: int
    parameters: int
    bytes: int
    relative_rms: float
    largest_error: float
    sqnr_db: float


def demo_layers() -> list[Layer]:
    """Every linear layer of the demo's round, in the order of its graph."""
    target = load_target(DEMO / "target")
    drafter = load_drafter(DEMO / "drafter", "auto", target_side(target))
    traced = trace_target(target, drafter.taps, CACHE_ROWS)
    round_graph = link_round(Parts(traced, drafter.trace(drafter.block_size, CACHE_ROWS), drafter.block_size))
    name_products(round_graph)
    everything = Precision(target="int8", drafter="int8", lm_head="int8", drafter_lm_head="int8")
    choices = {choice.layer: choice for choice in assign_precision(round_graph, everything)}
    weights = {Linear.from_node(node).layer: constant_array(node.inputs[1]) for node in products(round_graph)}
    return [
        Layer(choices[name].part, kind_of(name), weight, choices[name].reason)
        for name, weight in weights.items()
        if weight is not None
    ]


def kind_of(layer: str) -> str:
    """`q_proj` of every decoder layer is one kind; other layers are known by their names within their part."""
    _, _, name = layer.partition(".")
    return name.rpartition(".")[2] if "layers." in name else name


def measure(part: str, kind: str, scheme: str, weights: Iterable[Array]) -> Row:
    count, parameters, stored, power, noise, largest = 0, 0, 0, 0.0, 0.0, 0.0
    for weight in weights:
        error = number_formats.round_trip(scheme, weight).astype(np.float64) - weight
        count, parameters = count + 1, parameters + weight.size
        stored += number_formats.stored_bytes(scheme, *weight.shape)
        power += float(np.square(weight, dtype=np.float64).sum())
        noise += float(np.square(error).sum())
        largest = max(largest, float(np.abs(error).max()))
    relative = math.sqrt(noise / power)
    rms = math.sqrt(power / parameters)
    return Row(part, kind, scheme, count, parameters, stored, relative, largest / rms, -20 * math.log10(relative))


def measure_all(layers: list[Layer], schemes: list[str]) -> list[Row]:
    """One row for each scheme and kind of layer, then one for all layers of a part that are not kept dense."""
    rows = []
    for part in dict.fromkeys(layer.part for layer in layers):
        mine = [layer for layer in layers if layer.part == part]
        kinds = {
            kind: [each.weight for each in mine if each.kind == kind] for kind in dict.fromkeys(x.kind for x in mine)
        }
        if len(kinds) > 1:
            kinds[ALL] = [each.weight for each in mine if each.stays_dense is None]
        rows += [measure(part, kind, scheme, weights) for kind, weights in kinds.items() for scheme in schemes]
    return rows


def table(rows: list[Row], layers: list[Layer], schemes: list[str]) -> str:
    """A line for each kind of layer: relative rms error, SQNR and largest error of each scheme."""
    dense = {(layer.part, layer.kind): layer.stays_dense for layer in layers if layer.stays_dense}
    lines = [f"| part | layers | parameters | {' | '.join(schemes)} |", f"|---|---|---|{'---|' * len(schemes)}"]
    for first in rows[:: len(schemes)]:
        found = [row for row in rows if (row.part, row.kind) == (first.part, first.kind)]
        mark = " *" if (first.part, first.kind) in dense else ""
        cells = [f"{row.relative_rms:.2%}, {row.sqnr_db:.1f} dB, {row.largest_error:.3g}" for row in found]
        name = f"{first.kind} ({first.layers}){mark}"
        lines.append(f"| {first.part} | {name} | {first.parameters} | {' | '.join(cells)} |")
    lines += ["", *(f"\\* {part}.{kind} stays dense: {reason}." for (part, kind), reason in dense.items())]
    return "\n".join(lines) + "\n"


def sizes(rows: list[Row], schemes: list[str]) -> str:
    """Bytes a parameter by scheme, over whole parts."""
    lines = [f"| bytes a parameter | {' | '.join(schemes)} |", f"|---|{'---|' * len(schemes)}"]
    for part in dict.fromkeys(row.part for row in rows):
        whole = [row for row in rows if row.part == part][-len(schemes) :]
        lines.append(f"| {part} | {' | '.join(f'{row.bytes / row.parameters:.3f}' for row in whole)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    asked = parser.parse_args()
    # Schemes that store a weight alike are one column.
    schemes = [name for name in SCHEMES if name not in (DENSE, "int8-static", "nvfp4-weight-only")]
    layers = demo_layers()
    rows = measure_all(layers, schemes)
    text = (
        "# Round-trip error of each scheme on the demo's weights\n\n"
        "Relative root mean square error, signal to quantization noise, and the largest error in units of the weights' "
        "root mean square. int8-static stores weights as int8 does, nvfp4-weight-only as nvfp4. "
        "`python benchmarks/round_trip.py --write`\n\n"
        f"{table(rows, layers, schemes)}\n{sizes(rows, schemes)}"
    )
    print(text)
    if asked.write:
        BASE.with_suffix(".md").write_text(text, encoding="utf-8")
        BASE.with_suffix(".json").write_text(
            json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
