"""What a linear layer costs by rows: our int8 and int4 operators beside the library's products, interleaved in one run.

    python benchmarks/kernels.py                                   # 40 matrices of 2048 x 2048, two threads
    python benchmarks/kernels.py --kernels LinearInt8 LinearInt4 --paths avx512-vnni avx-vnni avx2
    python benchmarks/kernels.py --depth 143                       # 600 M weights
    python benchmarks/kernels.py --write                           # and write the table to benchmarks/results

A chain of layers whose weights together are larger than the cache, so that every run reads all of them from memory. A
speculative round verifies 8 to 16 rows: what counts is the time of 8 rows beside that of 1 (T8/T1), and that of 1 row
beside the time in which the same threads read as many bytes and do nothing with them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from in_turn import Blocks, time_in_turn
from result_files import command_line, machine_name, versions, write_results

import forerun
from forerun_compiler.dialect import DOMAIN, OPSET, Linear
from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.graph import add_initializer, remove_unused
from forerun_compiler.number_formats import int8
from forerun_compiler.passes.emitter import Emitter
from forerun_compiler.passes.quantize_int4 import quantize_int4
from forerun_compiler.passes.quantize_int8 import CONTRIB, quantize_int8
from forerun_compiler.passes.quantized_weights import weights_of

ROWS = (1, 2, 4, 8, 12, 16, 32)
BITS_BLOCK = 32


@dataclass(frozen=True)
class Row:
    """Of one kernel: bytes of its weights, the median milliseconds of reading that many, and of a run by rows."""

    kernel: str
    bytes: int
    read_ms: float
    fastest_ms: dict[int, float]
    median_ms: dict[int, float]


def chain(width: int, depth: int, scheme: str) -> ir.Model:
    """`depth` Linears one after the other, their weights all different."""
    x = ir.val("x", ir.DataType.FLOAT, ["T", width])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": OPSET, DOMAIN: 1}, name="chain")
    emit = Emitter(graph, "")
    base = np.random.default_rng(0).standard_normal((width, width), np.float32) / np.float32(np.sqrt(width))
    for layer in range(depth):
        weight = add_initializer(graph, f"w{layer}", np.roll(base, layer, axis=1))
        x = emit(Linear.OP_TYPE, x, weight, domain=DOMAIN, **Linear(f"target.{layer}", scheme).attributes())
    x.name, x.type, x.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["T", width])
    graph.outputs.append(x)
    return ir.Model(graph, ir_version=11)


def one_scale_for_all_rows(model: ir.Model) -> int:
    """Lower to DynamicQuantizeMatMul: what a verify pass must not use, since rows then feel each other."""
    weights = weights_of(model, "int8")
    for weight in weights:
        encoded = int8.encode(weight.array)
        codes, scale = weight.store("int8", encoded.codes.T), weight.store("int8.scale", encoded.scale[:, 0])
        for product in weight.products:
            product.replace(product.emit("DynamicQuantizeMatMul", product.x, codes, scale, domain=CONTRIB))
    model.graph.opset_imports.setdefault(CONTRIB, 1)
    return len(weights)


def eight_bits_in_blocks(model: ir.Model) -> int:
    """Lower to MatMulNBits of 8 bits in blocks."""
    weights = weights_of(model, "int8")
    for weight in weights:
        rows, columns = weight.array.shape
        blocks = weight.array.reshape(-1, BITS_BLOCK)
        encoded = int8.encode(blocks)
        codes = weight.store("bits", (encoded.codes.view(np.uint8) ^ np.uint8(128)).reshape(rows, -1, BITS_BLOCK))
        scale = weight.store("bits.scale", encoded.scale.reshape(rows, -1))
        for product in weight.products:
            shape = {"K": columns, "N": rows, "bits": 8, "block_size": BITS_BLOCK, "accuracy_level": 4}
            product.replace(product.emit("MatMulNBits", product.x, codes, scale, domain=CONTRIB, **shape))
    model.graph.opset_imports.setdefault(CONTRIB, 1)
    return len(weights)


KERNELS: dict[str, tuple[str, Callable[[ir.Model], int]]] = {
    "LinearInt8": ("int8", lambda model: quantize_int8(model, "forerun")),
    "LinearInt4": ("int4", quantize_int4),
    "LinearInt4, groups of 64": ("int4-group64", quantize_int4),
    "LinearInt4, groups of 32": ("int4-group32", quantize_int4),
    "MatMulIntegerToFloat, rows quantized in the graph": ("int8", lambda model: quantize_int8(model, "stock")),
    "DynamicQuantizeMatMul, one scale for all rows": ("int8", one_scale_for_all_rows),
    "MatMulNBits 8 bits, blocks of 32": ("int8", eight_bits_in_blocks),
    "MatMulNBits 4 bits, blocks of 32": ("int4-group32", lambda model: quantize_int4(model, "onnxruntime")),
    "MatMulNBits 4 bits, blocks of 128": ("int4", lambda model: quantize_int4(model, "onnxruntime")),
}

OWN = ("LinearInt8", "LinearInt4")
"""What the names of our operators begin with: they have paths."""


def build(folder: Path, width: int, depth: int, kernel: str, path: str) -> int:
    """Write the chain with one kernel into the folder; returns the bytes of its weights."""
    scheme, lower = KERNELS[kernel]
    model = chain(width, depth, scheme)
    assert lower(model) == depth
    model.graph.opset_imports.pop(DOMAIN)
    remove_unused(model)
    if path:
        for node in model.graph:
            node.attributes["path"] = ir.AttrString("path", path)
    folder.mkdir()
    engine.write_graphs({"chain": model}, folder)
    return (folder / engine.WEIGHTS).stat().st_size


def open_session(folder: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Sessions take turns here: one that spun on while another runs would take its cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(folder / "chain.onnx", options, providers=["CPUExecutionProvider"])


def bind(session: ort.InferenceSession, rows: int, width: int) -> Callable[[], None]:
    binding = session.io_binding()
    x = np.random.default_rng(rows).standard_normal((rows, width), np.float32)
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", ort.OrtValue.ortvalue_from_numpy(np.empty_like(x)))
    return lambda: session.run_with_iobinding(binding)


def reader(data: np.ndarray, size: int, threads: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """Read the first `size` bytes of `data`, which has no zero: memchr looks for one at the speed of memory."""
    search = ctypes.CDLL(None).memchr
    search.argtypes, search.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t), ctypes.c_void_p
    starts = [size * number // threads for number in range(threads + 1)]

    def part(number: int) -> None:
        assert search(data.ctypes.data + starts[number], 0, starts[number + 1] - starts[number]) is None

    return lambda: list(pool.map(part, range(threads))).clear()


def table(rows: list[Row], title: str) -> str:
    widths = list(rows[0].median_ms)
    lines = [title, "", f"| kernel | MB | reading them | {' | '.join(f'{n} rows' for n in widths)} |"]
    lines.append(f"|---|---|---|{'---|' * len(widths)}")
    for row in rows:
        one = row.median_ms[widths[0]]
        cells = [f"{row.median_ms[n]:.2f} ({row.median_ms[n] / one:.2f}x)" for n in widths]
        read = f"{row.read_ms:.2f} ({row.bytes / row.read_ms / 1e6:.0f} GB/s)"
        lines.append(f"| {row.kernel} | {row.bytes / 1e6:.0f} | {read} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=2048, help="inputs and outputs of a layer")
    parser.add_argument("--depth", type=int, default=40, help="layers")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS), metavar="NAME")
    parser.add_argument("--paths", nargs="+", default=[""], help="instruction sets of our operators; default: the best")
    parser.add_argument("--blocks", type=int, default=25, help="turns of each kernel and number of rows")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    asked = parser.parse_args()
    chosen = [(kernel, path) for kernel in asked.kernels for path in (asked.paths if kernel.startswith(OWN) else [""])]
    sizes, calls = {}, {}
    with tempfile.TemporaryDirectory() as root, ThreadPoolExecutor(asked.threads) as pool:
        for number, (kernel, path) in enumerate(chosen):
            name, folder = f"{kernel} {path}".strip(), Path(root) / str(number)
            sizes[name] = build(folder, asked.width, asked.depth, kernel, path)
            session = open_session(folder, asked.threads)
            calls |= {(name, rows): bind(session, rows, asked.width) for rows in asked.rows}
        data = np.ones(max(sizes.values()), np.uint8)
        calls |= {(name, 0): reader(data, size, asked.threads, pool) for name, size in sizes.items()}
        times = time_in_turn(calls, Blocks(asked.blocks, runs=4, warm=2), lambda *_: None)
    found = []
    for name, size in sizes.items():
        ms = {rows: np.asarray(times[name, rows]) / 1e3 for rows in (0, *asked.rows)}
        fastest = {rows: round(float(ms[rows].min()), 3) for rows in asked.rows}
        median = {rows: round(float(np.median(ms[rows])), 3) for rows in asked.rows}
        found.append(Row(name, size, round(float(np.median(ms[0])), 3), fastest, median))
    title = (
        f"`{command_line()}`: milliseconds of {asked.depth} layers of {asked.width} x {asked.width}, medians of "
        f"{4 * asked.blocks} runs (and beside {asked.rows[0]} row); {machine_name(asked.threads)}, "
        f"onnxruntime {ort.__version__}."
    )
    print(table(found, title))
    if asked.write:
        report = {
            "machine": machine_name(asked.threads),
            "versions": versions(),
            "command": command_line(),
            "rows": [asdict(row) for row in found],
        }
        text = json.dumps(report, indent=2) + "\n"
        print(write_results("kernels", asked.threads, text, f"# Kernels of linear layers\n\n{table(found, title)}"))


if __name__ == "__main__":
    main()
