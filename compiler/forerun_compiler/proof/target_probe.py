"""A graph of a bundle cut down to its target, with the logits as an output: what the bundle's own kernels compute.

The loop here is Python and knows nothing of the C core's: it is the reference for bundles whose target is quantized.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forerun_compiler.errors import BundleError
from forerun_compiler.manifest import GraphInterface, Manifest, StateInterface
from forerun_compiler.ort_session import open_session

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    Logits = npt.NDArray[np.float32]

LOGITS = "target/logits"
"""Linking inlines the traced target with the prefix "target/"; its output has the name "logits" there."""


class TargetProbe:
    """The target of a bundle as one of its graphs computes it; holds the caches of one text."""

    def __init__(self, folder: Path, manifest: Manifest, graph: str, threads: int = 0) -> None:
        """Open `graph`, "round" or "plain"; `threads` 0 lets the library choose.

        Raises:
            BundleError: the graph has no logits of that name.
            EngineError: ONNX Runtime is missing or refuses the graph.
        """
        interface = manifest.graphs[graph]
        self.facts = manifest.model
        file = folder / interface.file
        self._states = _target_states(interface)
        self._session = open_session(file, threads, _with_logits(file, self._states))
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._caches = {state.name: _zeros(state) for state in self._states}

    def run(self, tokens: Sequence[int], n_known: int, position: int) -> Logits:
        """Run the graph over `tokens`, whose first is number `position` of the text, and write their cache rows.

        Returns logits float32 [R,V]: row i follows token n_known - 1 + i. The plain graph gives one row, the round
        min(T, verify_len + 1), of which those past the last token repeat it.
        """
        import numpy as np

        feeds = {
            "tokens": np.array([tokens], np.int64),
            "n_known": np.array([n_known], np.int64),
            "n_draft": np.array([len(tokens) - n_known], np.int64),
            "position": np.array([position], np.int64),
        }
        binding = self._session.io_binding()
        for name in self._inputs & set(feeds):
            binding.bind_cpu_input(name, feeds[name])
        for state in self._states:
            cache = self._caches[state.name]
            binding.bind_cpu_input(state.name, cache)
            binding.bind_output(state.output, "cpu", 0, cache.dtype, cache.shape, cache.ctypes.data)
        binding.bind_output(LOGITS, "cpu")
        self._session.run_with_iobinding(binding)
        found = binding.get_outputs()[-1].numpy()
        return np.asarray(found.reshape(-1, self.facts.vocab_size))

    def read(self, tokens: Sequence[int], position: int = 0) -> Logits:
        """Read known tokens as the runtime reads a prompt, `prefill_chunk` at a time; the logits [V] after them."""
        chunk = self.facts.prefill_chunk
        for start in range(0, len(tokens), chunk):
            part = tokens[start : start + chunk]
            logits: Logits = self.run(part, len(part), position + start)[0]
        return logits

    def verify_rows(self, tokens: Sequence[int], position: int = 0) -> Iterator[Logits]:
        """The logits [V] after each of `tokens`, computed as the widest round verifies: verify_len + 1 rows a run."""
        width = self.facts.verify_len + 1
        for start in range(0, len(tokens), width):
            part = list(tokens[start : start + width])
            logits = self.run(part + [0] * (width - len(part)), 1, position + start)
            yield from logits[: len(part)]


def _zeros(state: StateInterface) -> npt.NDArray[Any]:
    import numpy as np

    return np.zeros([int(size) for size in state.shape], state.dtype)


def _target_states(interface: GraphInterface) -> tuple[StateInterface, ...]:
    return tuple(state for state in interface.states if state.name.startswith("target."))


def _with_logits(file: Path, states: Sequence[StateInterface]) -> bytes:
    """The graph with the target's states and its logits as the only outputs, and nothing that they do not need."""
    import onnx_ir as ir

    model = ir.load(file)
    graph = model.graph
    written = {state.output for state in states}
    outputs = [*(value for value in graph.outputs if value.name in written), _logits(graph, file)]
    nodes, values = _needed(outputs)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    graph.remove([node for node in graph if node not in nodes])
    for value in [value for value in graph.inputs if value not in values]:
        graph.inputs.remove(value)
    for name in [name for name, value in graph.initializers.items() if value not in values]:
        del graph.initializers[name]
    return bytes(ir.to_proto(model).SerializeToString())


def _needed(outputs: Sequence[ir.Value]) -> tuple[set[ir.Node], set[ir.Value]]:
    """The nodes that make `outputs`, and all values that they read; a branch reads for the node that holds it.

    Not `graph.remove_unused`: that one counts what a dropped node's branches read as still in use.
    """

    nodes: set[ir.Node] = set()
    values: set[ir.Value] = set()
    waiting = list(outputs)
    while waiting:
        value = waiting.pop()
        values.add(value)
        node = value.producer()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += _read_by(node)
    return nodes, values


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    import onnx_ir as ir

    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().outputs
            for inner in attribute.as_graph().all_nodes():
                yield from (value for value in inner.inputs if value is not None)


def _logits(graph: ir.Graph, file: Path) -> ir.Value:
    import onnx_ir as ir

    for node in graph:
        for value in node.outputs:
            if value.name == LOGITS:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                value.shape = None  # a round chooses the number of rows
                return value
    raise BundleError(f"{file}: expected a value named {LOGITS!r}, found none; build the bundle again")
