"""ONNX Runtime: `round.onnx`, `plain.onnx` and one `weights.bin` that both read.

A weight that both graphs use stands in `weights.bin` once. Offsets are multiples of the page size, so the file can be
mapped. Equal graphs give equal bytes, whatever the process or the folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from forerun_compiler.bundle import GraphInterface, StateInterface, TensorInterface
from forerun_compiler.errors import EngineError
from forerun_compiler.manifest import DType
from forerun_compiler.pipeline import CompiledGraphs

WEIGHTS = "weights.bin"
ALIGNMENT = 4096
INLINE_BYTES = 1024
"""Constants up to this size stay in the graph file, where shape inference can see them."""
TYPES: Mapping[ir.DataType, DType] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.INT64: "int64",
    ir.DataType.INT8: "int8",
}
"""What the runtime binds as inputs and outputs of ONNX Runtime."""


def write(graphs: CompiledGraphs, folder: Path) -> dict[str, GraphInterface]:
    """Write the engine's files into `folder`; returns the interface of each graph by its name.

    Raises:
        EngineError: a graph input or output has a type that the runtime does not bind.
        OSError: the folder cannot be written.
    """
    return write_graphs({"round": graphs.round, "plain": graphs.plain}, folder)


def write_graphs(
    models: Mapping[str, ir.Model], folder: Path, types: Mapping[ir.DataType, DType] = TYPES
) -> dict[str, GraphInterface]:
    """Write `NAME.onnx` for each model and the weights file that they share; see `write`."""
    interfaces = {name: interface_of(model, f"{name}.onnx", types) for name, model in models.items()}
    with (folder / WEIGHTS).open("wb") as file:
        weights = _Weights(file)
        for name, model in models.items():
            proto = ir.to_proto(_with_external_weights(model, weights))
            (folder / f"{name}.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    return interfaces


class _Weights:
    """The weights file while it is written; equal bytes are written once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def place(self, tensor: ir.TensorProtocol) -> int:
        """Return the offset of the tensor's bytes in the file, appending them if they are new."""
        data = tensor.tobytes()
        digest = hashlib.sha256(data).digest()
        if digest not in self._places:
            self._file.write(bytes(-self._file.tell() % ALIGNMENT))
            self._places[digest] = self._file.tell()
            self._file.write(data)
        return self._places[digest]


def _with_external_weights(model: ir.Model, weights: _Weights) -> ir.Model:
    """Return a copy of the model whose large constants are references into the weights file."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE_BYTES:
            continue
        value.const_value = ir.ExternalTensor(
            WEIGHTS,
            weights.place(tensor),
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tuple(int(size) for size in tensor.numpy().shape)),
            name=str(value.name),
        )
    return copy


def interface_of(model: ir.Model, file: str, types: Mapping[ir.DataType, DType] = TYPES) -> GraphInterface:
    """Return a graph's inputs, outputs and states as the manifest has them; `file` is the one that holds the graph.

    Raises:
        EngineError: one has a type that is not among `types`.
    """
    outputs = {str(value.name): value for value in model.graph.outputs}
    states = [value for value in model.graph.inputs if f"{value.name}.out" in outputs]
    others = [value for value in model.graph.inputs if value not in states]
    results = [value for name, value in outputs.items() if name not in {f"{state.name}.out" for state in states}]
    return GraphInterface(
        file=file,
        inputs=tuple(TensorInterface(str(value.name), *_type(value, types)) for value in others),
        outputs=tuple(TensorInterface(str(value.name), *_type(value, types)) for value in results),
        states=tuple(StateInterface(str(value.name), f"{value.name}.out", *_type(value, types)) for value in states),
    )


def _type(value: ir.Value, types: Mapping[ir.DataType, DType]) -> tuple[DType, tuple[int | str, ...]]:
    """Return dtype and shape as the manifest spells them."""
    if value.dtype is None or value.dtype not in types or value.shape is None:
        raise EngineError(
            f"{value.name}: graph inputs and outputs must be {' or '.join(sorted(types.values()))} of known rank; "
            f"found {value.dtype} {value.shape}"
        )
    return types[value.dtype], tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
