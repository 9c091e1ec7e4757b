"""A state that is computed anew gets a TensorScatter of all its rows: the one node that TensorRT runs in place.

Only so are the graph input NAME and the graph output `NAME.out` one buffer by the engine's own plan, which orders all
reads of the old contents before the write. TensorRT's takes four dimensions: a state [1,R,V] becomes [1,1,R,V].
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.errors import PassError
from forerun_compiler.graph import producer
from forerun_compiler.passes.emitter import Emitter

RANK = 4


def scatter_states(model: ir.Model) -> int:
    """Write every state of the graph that no TensorScatter writes by one; return how many there were.

    Raises:
        PassError: a state of other than three dimensions.
    """
    graph = model.graph
    outputs = {str(value.name): value for value in graph.outputs}
    left = [state for state in graph.inputs if f"{state.name}.out" in outputs]
    left = [state for state in left if producer(outputs[f"{state.name}.out"], "TensorScatter") is None]
    for state in left:
        _scatter(graph, state, outputs[f"{state.name}.out"])
    return len(left)


def _scatter(graph: ir.Graph, state: ir.Value, new: ir.Value) -> None:
    if state.shape is None or len(state.shape) != RANK - 1:
        raise PassError(f"state {state.name!r}: expected three dimensions, found the shape {state.shape}")
    emit = Emitter(graph, f"{state.name}.")
    readers, old_shape = state.uses(), state.shape
    first = next(node for node in graph if any(use.node is node for use in readers)) if readers else None
    state.shape = ir.Shape([1, *old_shape])
    if first is not None:
        reading = Emitter(graph, f"{state.name}.read.", before=first)
        old = reading("Squeeze", state, reading.constant([0]))
        old.type, old.shape = state.type, old_shape
        for use in readers:
            use.node.replace_input_with(use.idx, old)
    name, new.name = str(new.name), f"{new.name}.rows"
    written = emit("TensorScatter", state, emit("Unsqueeze", new, emit.constant([0])), emit.constant([0]), axis=-2)
    written.name, written.type, written.shape = name, state.type, state.shape
    graph.outputs[list(graph.outputs).index(new)] = written
