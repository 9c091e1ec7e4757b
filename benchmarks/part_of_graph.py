"""A graph cut down to some of its nodes, each on inputs of its own: what those kernels cost when nothing is between.

Nor anything in them: an int8 product is cut down to the product, without what the compiler fused into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from round_profile import Kernel, Tensor

from forerun_compiler.ort_session import open_session
from forerun_compiler.passes.fuse_layer import split_layers
from forerun_compiler.passes.own_products import GATED_OF

_PLAIN_OF = {gated: plain for plain, gated in GATED_OF.items()}
PRODUCTS = frozenset(
    {"MatMul", "Gemm", "FusedMatMul", "MatMulNBits", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul", "QLinearMatMul", *GATED_OF, *_PLAIN_OF}
)
ATTENTION = frozenset({"CachedAttention", "CachedAttentionInt8", "BlockAttention", "BlockAttentionInt8"})
ATTENTION |= {"GroupQueryAttention", "TensorScatter"}
"""With the writes of caches, which the library's kernel does not do for a drafter's block."""
IN_PLACE = {"CachedAttention": {1: 1, 2: 2}, "BlockAttention": {1: 3, 2: 4}, "GroupQueryAttention": {1: 3, 2: 4}}
IN_PLACE |= {"TensorScatter": {0: 0}}
IN_PLACE |= {"CachedAttentionInt8": {1: 1, 2: 2, 3: 3, 4: 4}, "BlockAttentionInt8": {1: 3, 2: 4, 3: 5, 4: 6}}
"""By op: which output is written into the buffer of which input."""

_OF_A_PRODUCT = 3
"""Inputs of an own product that are the product: rows, weight, scales. After them comes what was fused into it."""
_WITH_CONSTANTS = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant"})
"""What stands before a product and belongs to it: ONNX Runtime fuses it into the product's kernel."""

_DTYPES = {"float": np.float32, "int64": np.int64, "int32": np.int32, "int8": np.int8, "uint8": np.uint8}
_DTYPES |= {"bool": np.bool_}


@dataclass(frozen=True)
class Part:
    """The cut graph. `inputs` by name with what they hold; `outputs` by name, with the input they overwrite, if any."""

    model: bytes
    nodes: int
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    in_place: Mapping[str, str]


def single_kernels(file: Path) -> onnx.ModelProto:
    """The graph in `file` with every decoder layer as the kernels that it was fused of; weights stay where they are."""
    model = ir.load(file)
    split_layers(model)
    return ir.to_proto(model)


def cut(file: Path, ops: frozenset[str], kernels: Sequence[Kernel], given: Mapping[str, Tensor]) -> Part:
    """Keep the nodes of `ops` that ran, and the constants and (de)quantizations that they read.

    Args:
        file: the graph; its weights are not loaded.
        ops: op types.
        kernels: of an unoptimized run of `single_kernels`, which say what ran and what it wrote.
        given: the graph's own inputs.
    """
    model = single_kernels(file)
    ran = {kernel.node: kernel for kernel in kernels}
    graphs = list(_graphs(model.graph))
    constants = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    nodes = [node for graph in graphs for node in graph.node]
    cutter = _Cutter(constants, {name: node for node in nodes for name in node.output}, _written(nodes, ran) | given)
    for node in nodes:
        if node.op_type in ops and node.name in ran:
            cutter.add(node)
    return cutter.part(model)


def run_part(file: Path, part: Part, values: Mapping[str, Any], threads: int) -> Callable[[], None]:
    """Open the part with the weights beside `file`; returns one run. Inputs not in `values` are random numbers."""
    import onnxruntime

    session = open_session(file, threads, part.model)
    binding, numbers = session.io_binding(), np.random.default_rng(0)
    buffers = {}
    for name, tensor in part.inputs.items():
        array = values[name] if name in values else _some(tensor, numbers)
        buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
        binding.bind_ortvalue_input(name, buffers[name])
    scratch: dict[Tensor, Any] = {}
    for name, tensor in part.outputs.items():
        if name in part.in_place:
            buffer = buffers[part.in_place[name]]
        else:  # nothing reads it, so that all of one shape may share memory, as in the whole graph
            buffer = scratch.setdefault(
                tensor, onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(tensor[1], _DTYPES[tensor[0]]))
            )
        binding.bind_ortvalue_output(name, buffer)
    return lambda: session.run_with_iobinding(binding)


class _Cutter:
    """Collects nodes, what they read and what they write."""

    def __init__(
        self,
        constants: Mapping[str, onnx.TensorProto],
        producers: Mapping[str, onnx.NodeProto],
        tensors: Mapping[str, Tensor],
    ) -> None:
        self._constants, self._producers, self._tensors = constants, producers, tensors
        self._nodes: list[onnx.NodeProto] = []
        self._kept: set[str] = set()
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._in_place: dict[str, str] = {}
        self._weights: dict[str, onnx.TensorProto] = {}
        self._uses = Counter[tuple[Any, ...]]()
        self._count = 0

    def add(self, node: onnx.NodeProto) -> None:
        """Keep the node on inputs that no node makes, and make all that it writes outputs."""
        copy, self._count = _alone(node), self._count + 1
        own = node.op_type in IN_PLACE
        # Equal inputs would let the library run two products of one weight as one.
        weights = tuple(name for name in copy.input if name in self._constants)
        turn = self._uses[(copy.op_type, weights)]
        self._uses[(copy.op_type, weights)] += 1
        for index, name in enumerate(copy.input):
            if name and not self._keep_constant(name):
                copy.input[index] = self._input(name, None if own else turn)
        for index, name in enumerate(node.output):
            if name and name in self._tensors:
                copy.output[index] = f"{node.name}/{index}"
                self._outputs[copy.output[index]] = self._written_alone(node, self._tensors[name])
                if own and index in IN_PLACE[node.op_type]:
                    self._in_place[copy.output[index]] = copy.input[IN_PLACE[node.op_type][index]]
        self._nodes.append(copy)

    def part(self, model: onnx.ModelProto) -> Part:
        graph = onnx.helper.make_graph(
            self._nodes,
            "part",
            [_info(name, tensor) for name, tensor in self._inputs.items()],
            [_info(name, tensor) for name, tensor in self._outputs.items()],
            list(self._weights.values()),
        )
        made = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        return Part(made.SerializeToString(), self._count, self._inputs, self._outputs, self._in_place)

    def _written_alone(self, node: onnx.NodeProto, tensor: Tensor) -> Tensor:
        """What a node writes without its gating: gates and values, twice as many numbers a row."""
        dtype, shape = tensor
        return (dtype, (*shape[:-1], 2 * shape[-1])) if node.op_type in _PLAIN_OF else tensor

    def _keep_constant(self, name: str) -> bool:
        """Whether the value is a constant, or one that is dequantized; it is kept then."""
        if name in self._constants:
            self._weights[name] = self._constants[name]
            return True
        node = self._producers.get(name)
        if node is None or node.op_type not in _WITH_CONSTANTS:
            return False
        if name not in self._kept:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, read in enumerate(node.input):
                if read and not self._keep_constant(read):
                    copy.input[index] = self._input(read, 0)
            self._kept.update(node.output)
            self._nodes.append(copy)
        return True

    def _input(self, name: str, turn: int | None) -> str:
        """A graph input for a value: of its own name, or one that all of its shape share in this turn."""
        tensor = self._tensors[name]
        dtype, shape = tensor
        shared = name if turn is None else f"{dtype}_{'x'.join(map(str, shape))}_{turn}"
        self._inputs[shared] = tensor
        return shared


def _alone(node: onnx.NodeProto) -> onnx.NodeProto:
    """A copy of a node; an own product loses its norm, its gating and what is added: same weight, only the product."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    if node.op_type in GATED_OF or node.op_type in _PLAIN_OF:
        copy.op_type = _PLAIN_OF.get(node.op_type, node.op_type)
        del copy.input[_OF_A_PRODUCT:]
        for attribute in [each for each in copy.attribute if each.name == "epsilon"]:
            copy.attribute.remove(attribute)  # the norm's
    return copy


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _written(nodes: Sequence[onnx.NodeProto], ran: Mapping[str, Kernel]) -> dict[str, Tensor]:
    """What each value of the run was; a branch that was not taken wrote nothing."""
    return {
        name: tensor
        for node in nodes
        if node.name in ran
        for name, tensor in zip([name for name in node.output if name], ran[node.name].outputs, strict=True)
    }


def _info(name: str, tensor: Tensor) -> onnx.ValueInfoProto:
    dtype, shape = tensor
    return onnx.helper.make_tensor_value_info(
        name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(_DTYPES[dtype])), shape
    )


def _some(tensor: Tensor, numbers: np.random.Generator) -> Any:
    dtype, shape = tensor
    if dtype == "float":
        return numbers.standard_normal(shape, np.float32)
    if dtype in ("int8", "uint8"):
        return numbers.integers(1, 100, shape).astype(_DTYPES[dtype])
    raise ValueError(f"an input of type {dtype} counts or points: its value must be given")
