"""What attention costs by rows and by tokens in the cache: our operator beside the library's, interleaved in one run.

    python benchmarks/attention.py                      # 28 layers of 32 query and 16 key-value heads of 64
    python benchmarks/attention.py --paths avx512 avx2 portable
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
from forerun_compiler.dialect import DOMAIN, OPSET, CachedAttention
from forerun_compiler.graph import add_initializer, remove_unused
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.lower_attention import lower_attention
from forerun_compiler.passes.own_attention import own_attention

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


def build(file: Path, sizes: Sizes, depth: int, attention: str, path: str) -> None:
    """Write the graph with one kind of attention."""
    layers = Layers(sizes, depth)
    model = ir.Model(layers.graph, ir_version=11)
    assert (lower_attention if attention == STOCK else own_attention)(model) == depth
    model.graph.opset_imports.pop(DOMAIN)
    remove_unused(model)
    for node in model.graph:
        if path and node.op_type == OWN:
            node.attributes["path"] = ir.AttrString("path", path)
    ir.save(model, file)


def open_session(file: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Sessions take turns here: one that spun on while another runs would take its cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def bind(
    session: ort.InferenceSession, states: dict[str, ort.OrtValue], sizes: Sizes, rows: int, tokens: int
) -> Callable[[], None]:
    binding = session.io_binding()
    qkv = np.random.default_rng(rows).standard_normal((1, rows, sizes.width), np.float32)
    binding.bind_ortvalue_input("qkv", ort.OrtValue.ortvalue_from_numpy(qkv))
    binding.bind_ortvalue_input("position", ort.OrtValue.ortvalue_from_numpy(np.array([tokens])))
    y = np.empty((1, rows, sizes.heads * sizes.dim), np.float32)
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(y))
    for name, state in states.items():
        binding.bind_ortvalue_input(name, state)
        binding.bind_ortvalue_output(f"{name}.out", state)
    return lambda: session.run_with_iobinding(binding)


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
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    asked = parser.parse_args()
    sizes = Sizes(*asked.heads, asked.dim, max(asked.tokens) + max(asked.rows))
    shape = (1, sizes.kv_heads, sizes.capacity, sizes.dim)
    random = np.random.default_rng(0)
    states = {
        f"{kind}.{layer}": ort.OrtValue.ortvalue_from_numpy(random.standard_normal(shape, np.float32))
        for layer in range(asked.depth)
        for kind in "kv"
    }
    ways = [(f"{OWN} {path}".strip(), OWN, path) for path in asked.paths] + [(STOCK, STOCK, "")]
    calls = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, attention, path) in enumerate(ways):
            file = Path(folder) / f"{number}.onnx"
            build(file, sizes, asked.depth, attention, path)
            session = open_session(file, asked.threads)
            for tokens in asked.tokens:
                calls |= {(name, tokens, rows): bind(session, states, sizes, rows, tokens) for rows in asked.rows}
        times = time_in_turn(calls, Blocks(asked.blocks, runs=4, warm=1), lambda *_: None)
    found = []
    for tokens in asked.tokens:
        for name, _, _ in ways:
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
