"""What attention costs by rows and by tokens in the cache: our operator beside the library's, interleaved in one run.

    python benchmarks/attention.py                      # 28 layers of 32 query and 16 key-value heads of 64
    python benchmarks/attention.py --paths avx512-vnni avx512 avx2 portable
    python benchmarks/attention.py --int8               # and caches of int8
    python benchmarks/attention.py --other LIBRARY      # and another build of libforerun
    python benchmarks/attention.py --write              # and write the table to benchmarks/results

Each layer is what stands between two products: the split of q, k and v, their norms, rotation, the caches in place and
the attention. Both sides are lowered from the same graph of the dialect.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from in_turn import Blocks, time_in_turn
from result_files import machine_name, versions, write_results

import forerun
from forerun_compiler.dialect import DOMAIN, OPSET, CachedAttention, int8_rows
from forerun_compiler.graph import add_initializer, remove_unused
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.own_attention import own_attention
from forerun_compiler.passes.quantize_caches import quantize_caches
from forerun_compiler.passes.quantize_int8 import OPERATORS

States = dict[tuple[str, bool], ort.OrtValue]
ROWS, TOKENS = (1, 2, 4, 8, 16), (64, 256, 1024)
OWN, STOCK = "CachedAttention", "GroupQueryAttention, norms and splits beside it"


@dataclass(frozen=True)
class Sizes:
    """Of every layer: query heads, key-value heads, head dim and cache rows."""

    heads: int
    kv_heads: int
    dim: int
    capacity: int

    @property
    def width(self) -> int:
        """Of the stacked rows of q, k and v."""
        return (self.heads + 2 * self.kv_heads) * self.dim


@dataclass(frozen=True)
class Row:
    """Of one way at one number of tokens in the cache: milliseconds of a run by rows, fastest and median."""

    attention: str
    tokens: int
    fastest_ms: dict[int, float]
    median_ms: dict[int, float]


def value(name: str, dtype: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.val(name, dtype, shape)


class Layers:
    """A graph of `depth` attentions over the same rows, each with caches of its own."""

    def __init__(self, sizes: Sizes, depth: int) -> None:
        self.sizes = sizes
        qkv = value("qkv", ir.DataType.FLOAT, [1, "T", sizes.width])
        self.position = value("position", ir.DataType.INT64, [1])
        self.graph = ir.Graph([qkv, self.position], [], nodes=[], opset_imports={"": OPSET, DOMAIN: 1}, name="layers")
        self.emit = emit = Emitter(self.graph, "")
        angles = np.arange(sizes.capacity)[:, None] * 1e4 ** -(np.arange(sizes.dim // 2) / (sizes.dim // 2))
        self.tables = [add_initializer(self.graph, n, f(angles).astype(np.float32)) for n, f in NAMED.items()]
        self.norm = emit.constant(np.ones(sizes.dim), np.float32)
        count = emit("Squeeze", emit("Shape", qkv, start=1, end=2))
        steps = emit("Unsqueeze", emit("Range", emit.constant(0), count, emit.constant(1)), emit.constant([0]))
        self.ids = emit("Add", emit("Unsqueeze", self.position, emit.constant([0])), steps)
        self.ids.shape = ir.Shape([1, "T"])
        outs = [self.layer(qkv, number) for number in range(depth)]
        y = emit("Sum", *outs)
        y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), outs[0].shape
        self.graph.outputs.insert(0, y)

    def layer(self, qkv: ir.Value, number: int) -> ir.Value:
        """Return the rows [1,T,H*D] of one attention."""
        emit, s = self.emit, self.sizes
        widths = [s.heads * s.dim, s.kv_heads * s.dim, s.kv_heads * s.dim]
        rows = emit.many("Split", 3, qkv, emit.constant(widths), axis=-1)
        made = []
        for index, part in enumerate(rows):
            part.type, part.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, "T", widths[index]])
            heads = widths[index] // s.dim
            x = emit("Reshape", part, emit.constant([1, -1, heads, s.dim]))
            x = emit("RMSNormalization", x, self.norm, axis=-1, epsilon=1e-6) if index < 2 else x
            x = emit("Transpose", x, perm=[0, 2, 1, 3])
            x = emit("RotaryEmbedding", x, *self.tables, self.ids) if index < 2 else x
            x.type, x.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, heads, "T", s.dim])
            made.append(x)
        shape: list[int | str] = [1, s.kv_heads, s.capacity, s.dim]
        caches = [value(f"{kind}.{number}", ir.DataType.FLOAT, shape) for kind in "kv"]
        self.graph.inputs.extend(caches)
        attributes = CachedAttention(s.dim**-0.5).attributes()
        operation = CachedAttention.OP_TYPE
        out, *after = emit.many(operation, 3, *made, *caches, self.position, domain=DOMAIN, **attributes)
        for before, each in zip(caches, after, strict=True):
            each.name, each.type, each.shape = f"{before.name}.out", before.type, before.shape
            self.graph.outputs.append(each)
        out.type, out.shape = made[0].type, made[0].shape
        merged = emit("Reshape", emit("Transpose", out, perm=[0, 2, 1, 3]), emit.constant([1, -1, widths[0]]))
        merged.type, merged.shape = out.type, ir.Shape([1, "T", widths[0]])
        return merged


NAMED: dict[str, Callable[[np.ndarray], np.ndarray]] = {"cos": np.cos, "sin": np.sin}


@dataclass(frozen=True)
class Way:
    """One attention: the library's or ours, by a path or the best one, over float32 or int8, of a build of ours."""

    name: str
    path: str = ""
    int8: bool = False
    library: Path | None = None


def build(file: Path, sizes: Sizes, depth: int, way: Way) -> None:
    """Write the graph with one kind of attention."""
    layers = Layers(sizes, depth)
    model = ir.Model(layers.graph, ir_version=11)
    if way.int8:
        quantize_caches(model)
    assert (lower_attention if way.name == STOCK else own_attention)(model) == depth
    model.graph.opset_imports.pop(DOMAIN)
    remove_unused(model)
    for node in model.graph:
        if way.path and node.domain == OPERATORS:
            node.attributes["path"] = ir.AttrString("path", way.path)
    ir.save(model, file)


def open_session(file: Path, threads: int, library: Path | None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Sessions take turns here: one that spun on while another runs would take its cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.register_custom_ops_library(str(library or forerun.kernel_library()))
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def bind(session: ort.InferenceSession, states: States, sizes: Sizes, rows: int, tokens: int) -> Callable[[], None]:
    binding = session.io_binding()
    qkv = np.random.default_rng(rows).standard_normal((1, rows, sizes.width), np.float32)
    binding.bind_ortvalue_input("qkv", ort.OrtValue.ortvalue_from_numpy(qkv))
    binding.bind_ortvalue_input("position", ort.OrtValue.ortvalue_from_numpy(np.array([tokens])))
    y = np.empty((1, rows, sizes.heads * sizes.dim), np.float32)
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(y))
    names = {value.name for value in session.get_inputs()} - {"qkv", "position"}
    int8 = any(name.endswith("_scale") for name in names)
    for name in sorted(names):
        binding.bind_ortvalue_input(name, states[name, int8])
        binding.bind_ortvalue_output(f"{name}.out", states[name, int8])
    return lambda: session.run_with_iobinding(binding)


def random_states(sizes: Sizes, depth: int, int8: bool) -> States:
    """Caches of all layers, and with `int8` those too, by name and whether they are of int8."""
    shape, random = (1, sizes.kv_heads, sizes.capacity, sizes.dim), np.random.default_rng(0)
    made: dict[tuple[str, bool], np.ndarray] = {}
    for name in (f"{kind}.{layer}" for layer in range(depth) for kind in "kv"):
        made[name, False] = random.standard_normal(shape, np.float32)
        if int8:
            made[name, True], made[f"{name}_scale", True] = int8_rows(made[name, False])
    return {key: ort.OrtValue.ortvalue_from_numpy(array) for key, array in made.items()}


def table(rows: list[Row], title: str) -> str:
    widths = list(rows[0].fastest_ms)
    lines = [title, "", f"| tokens in the cache | attention | {' | '.join(f'{n} rows' for n in widths)} |"]
    lines.append(f"|---|---|{'---|' * len(widths)}")
    for row in rows:
        cells = [f"{row.fastest_ms[n]:.2f}" for n in widths]
        lines.append(f"| {row.tokens} | {row.attention} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--heads", type=int, nargs=2, default=(32, 16), help="query heads, key-value heads")
    parser.add_argument("--dim", type=int, default=64, help="of a head")
    parser.add_argument("--depth", type=int, default=28, help="layers")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="in the cache")
    parser.add_argument("--paths", nargs="+", default=[""], help="instruction sets of our operator; default: the best")
    parser.add_argument("--blocks", type=int, default=10, help="turns of each way, number of rows and of tokens")
    parser.add_argument("--int8", action="store_true", help="our operator over caches of int8 too")
    parser.add_argument("--other", type=Path, help="another build of libforerun, whose operator takes part")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    asked = parser.parse_args()
    sizes = Sizes(*asked.heads, asked.dim, max(asked.tokens) + max(asked.rows))
    states = random_states(sizes, asked.depth, asked.int8)
    ways = [Way(f"{OWN} {path}".strip(), path) for path in asked.paths]
    ways += [Way(f"{way.name}, int8", way.path, int8=True) for way in ways if asked.int8]
    ways += [Way(f"{OWN} of {asked.other}", library=asked.other)] * (asked.other is not None) + [Way(STOCK)]
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, way in enumerate(ways):
            file = Path(folder) / f"{number}.onnx"
            build(file, sizes, asked.depth, way)
            session = open_session(file, asked.threads, way.library)
            for tokens in asked.tokens:
                calls |= {(way.name, tokens, rows): bind(session, states, sizes, rows, tokens) for rows in asked.rows}
        times = time_in_turn(calls, Blocks(asked.blocks, runs=4, warm=1), lambda *_: None)
    found = []
    for tokens in asked.tokens:
        for name in [way.name for way in ways]:
            ms = {rows: np.asarray(times[name, tokens, rows]) / 1e3 for rows in asked.rows}
            fastest = {rows: round(float(array.min()), 3) for rows, array in ms.items()}
            median = {rows: round(float(np.median(array)), 3) for rows, array in ms.items()}
            found.append(Row(name, tokens, fastest, median))
    title = (
        f"Milliseconds of {asked.depth} layers of {sizes.heads} query heads and {sizes.kv_heads} key-value heads of "
        f"{sizes.dim}, the fastest of {4 * asked.blocks} runs; {machine_name(asked.threads)}, onnxruntime "
        f"{ort.__version__}."
    )
    print(table(found, title))
    if asked.write:
        report = {
            "machine": machine_name(asked.threads),
            "versions": versions(),
            "rows": [asdict(row) for row in found],
        }
        text = json.dumps(report, indent=2) + "\n"
        print(write_results("attention", asked.threads, text, f"# Attention\n\n{table(found, title)}"))


if __name__ == "__main__":
    main()
