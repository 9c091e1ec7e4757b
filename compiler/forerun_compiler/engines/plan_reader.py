"""What a TensorRT-RTX engine holds, read without a GPU: header, aliased states, kernels, products, copies of caches."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forerun_compiler.engines.capability import CAPABILITIES
from forerun_compiler.engines.plan_text import TESTED, Program, Statement, graph_name, programs
from forerun_compiler.errors import EngineError

MAGIC = b"vtrt"
_HEADER_BYTES = 64
_SIZE_AT, _VERSION_AT, _CAPABILITIES_AT = 16, 24, 32
OUT = ".out"
"""A state NAME comes out as NAME.out."""

# TensorRT's names of number types, narrowest first, and ours.
TYPES = {
    "fp4_e2m1": "fp4",
    "int4": "int4",
    "fp8_e4m3": "fp8",
    "int8": "int8",
    "half": "float16",
    "bf16": "bfloat16",
    "float": "float32",
}
_ATTENTION = ("_gemm_mha", "_gemv_mha")


@dataclass(frozen=True)
class GraphNames:
    """Inputs and outputs of a graph in its order, and the states among them that attention reads."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    caches: tuple[str, ...]


@dataclass(frozen=True)
class Product:
    """One matrix product on the device, of one or several of the graph's nodes, and the types that it multiplies."""

    nodes: tuple[str, ...]
    activations: str
    weights: str

    @property
    def operands(self) -> str:
        """Return "fp8", or "float16 x int4" where the two differ."""
        return self.weights if self.activations == self.weights else f"{self.activations} x {self.weights}"


@dataclass(frozen=True)
class Copy:
    """A kernel that writes something as large as a state from that state, each run."""

    state: str
    kernel: str


@dataclass(frozen=True)
class ProfileFacts:
    """The program of one optimization profile.

    `aliased` states are written in place; `attended` ones are read by attention where they lie. `kernels` counts
    launches by kernel, products among them. `device_memory` are the bytes that a run needs beside weights and states.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    aliased: tuple[str, ...]
    attended: tuple[str, ...]
    copies: tuple[Copy, ...]
    capturable: bool
    streams: int
    device_memory: int
    kernels: Mapping[str, int]
    products: tuple[Product, ...]

    @property
    def launches(self) -> int:
        """Return how many kernels a run starts."""
        return sum(self.kernels.values())

    def products_by_operands(self) -> dict[str, int]:
        """Return how many of the graph's products have which operand types."""
        return dict(Counter(product.operands for product in self.products for _ in product.nodes))


@dataclass(frozen=True)
class PlanFacts:
    """An engine file: the library's version, the capabilities that it runs on, and what each profile runs.

    `profiles` is None where the inside of this version's files is not known; `unknown` says so, for people.
    """

    library: str
    capabilities: tuple[str, ...]
    size: int
    profiles: tuple[ProfileFacts, ...] | None
    unknown: str = ""


def read_plan(path: Path, names: GraphNames | None = None) -> PlanFacts:
    """Read an engine of TensorRT-RTX, of the graph with these names; without them, names are as the engine has them.

    Raises:
        EngineError: the file is no engine of this library, is incomplete or damaged, or is of another graph.
    """
    try:
        with path.open("rb") as file:
            if path.stat().st_size < _HEADER_BYTES:
                raise _not_an_engine(path, file.read(len(MAGIC)))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(path, data, names)
    except OSError as error:
        raise EngineError(f"{path}: the engine cannot be read: {error.strerror}; build it again") from None


def _read(path: Path, data: mmap.mmap, names: GraphNames | None) -> PlanFacts:
    if data[: len(MAGIC)] != MAGIC:
        raise _not_an_engine(path, data[: len(MAGIC)])
    size = int.from_bytes(data[_SIZE_AT : _SIZE_AT + 8], "little")
    library = ".".join(str(byte) for byte in data[_VERSION_AT : _VERSION_AT + 4])
    if library not in TESTED:
        reason = (
            f"{path}: the inside of engines of TensorRT-RTX {library} is not known here (known: {', '.join(TESTED)}), "
            "so what the library made of the graph is not checked"
        )
        return PlanFacts(library, _capabilities(data), len(data), None, reason)
    if size != len(data):
        raise EngineError(
            f"{path}: expected an engine of {size} bytes, found {len(data)}: it is cut off; build it again"
        )
    found = tuple(_profile(path, program, names) for program in programs(data))
    if not found:
        raise EngineError(f"{path}: expected the program of a TensorRT-RTX engine in it, found none; build it again")
    return PlanFacts(library, _capabilities(data), size, found)


def _not_an_engine(path: Path, magic: bytes) -> EngineError:
    return EngineError(
        f"{path}: expected an engine of TensorRT-RTX, which begins with {MAGIC!r}, found {magic!r}; build it again"
    )


def _capabilities(data: mmap.mmap) -> tuple[str, ...]:
    bits = int.from_bytes(data[_CAPABILITIES_AT : _CAPABILITIES_AT + 4], "little")
    return tuple(each.number for each in CAPABILITIES.values() if each.header_bit & bits)


@dataclass(frozen=True)
class _Tensors:
    """Inputs and outputs as (the graph's name, the program's name), and which tensors of the program are states."""

    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    states: Mapping[str, str]

    def aliased(self) -> tuple[str, ...]:
        """Return the states that have one tensor on both sides."""
        written = dict(self.outputs)
        return tuple(name for name, tensor in self.inputs if written.get(f"{name}{OUT}") == tensor)


def _tensors(path: Path, program: Program, names: GraphNames | None) -> _Tensors:
    read, written = program.names("inputs"), program.names("outputs")
    if names is None:
        # The first of an aliased pair has its output's name too.
        names = GraphNames(
            tuple(graph_name(each).removesuffix(OUT) for each in read), tuple(map(graph_name, written)), ()
        )
    # After the graph's own inputs come sizes that TensorRT computes from a profile's shapes.
    inputs = tuple(zip(names.inputs, read, strict=False))
    outputs = tuple(zip(names.outputs, written, strict=False))
    moved = [name for name, tensor in inputs if graph_name(tensor).removesuffix(OUT) in {*names.inputs} - {name}]
    if len(read) < len(names.inputs) or len(written) != len(names.outputs) or moved:
        raise EngineError(
            f"{path}: expected the engine of a graph with {len(names.inputs)} inputs and {len(names.outputs)} outputs, "
            f"found {len(read)} and {len(written)}, or another order; build it again"
        )
    states = {tensor: name for name, tensor in inputs if f"{name}{OUT}" in names.outputs}
    states |= {tensor: name.removesuffix(OUT) for name, tensor in outputs if name.removesuffix(OUT) in states.values()}
    return _Tensors(inputs, outputs, states)


def _profile(path: Path, program: Program, names: GraphNames | None) -> ProfileFacts:
    tensors = _tensors(path, program, names)
    attention = [each for each in program.statements if each.name.startswith(_ATTENTION)]
    attended = {tensors.states[name] for each in attention for name in each.inputs if name in tensors.states}
    caches = set(tensors.states.values()) if names is None else set(names.caches)
    return ProfileFacts(
        inputs=tuple(name for name, _ in tensors.inputs),
        outputs=tuple(name for name, _ in tensors.outputs),
        aliased=tensors.aliased(),
        attended=tuple(name for name, _ in tensors.inputs if name in attended),
        copies=tuple(copy for copy in _copies(program, tensors) if copy.state in caches),
        capturable=program.value("stream_capturable") == "1",
        streams=int(program.value("n_streams") or 0),
        device_memory=program.device_memory(),
        kernels=dict(sorted(Counter(map(_kernel, program.statements)).items())),
        products=tuple(filter(None, (_product(program, each) for each in program.statements))),
    )


def _kernel(statement: Statement) -> str:
    """Products have names of the graph's nodes; they are counted as what they are."""
    return "product" if statement.kind == "fully_connected" else statement.name


def _copies(program: Program, tensors: _Tensors) -> Iterator[Copy]:
    """Kernels that read a state and write another tensor that is at least as large, attention left aside."""
    for each in program.statements:
        if each.name.startswith(_ATTENTION):
            continue
        largest = max((program.tensors[name].elements for name in each.outputs if name in program.tensors), default=0)
        for name in each.inputs:
            read = name in tensors.states and name not in each.outputs
            if read and largest >= program.tensors[name].elements:
                yield Copy(tensors.states[name], each.name)


def _product(program: Program, statement: Statement) -> Product | None:
    """Return what a statement multiplies; None for one that is no product."""
    if statement.kind not in ("fully_connected", "runtime_fusion"):
        return None
    types = [program.tensors[name].type for name in statement.inputs if name in program.tensors]
    if statement.kind == "fully_connected":
        types = types[:2]  # after them: factors and block scales
    order = list(TYPES)
    # In a fusion the order of the inputs varies: the weights are the narrowest, the activations the next.
    narrow = sorted((each for each in types if each in TYPES), key=order.index)
    if len(narrow) < 2:
        return None
    weights, activations = narrow[:2]
    nodes = tuple(node for node in statement.layers if "MatMul" in node) or statement.layers
    return Product(nodes, TYPES[activations], TYPES[weights])
