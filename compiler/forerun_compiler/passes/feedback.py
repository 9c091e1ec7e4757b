"""Outputs in the form of the next run's inputs, for a loop whose tokens and position never leave the device.

| graph | `next_tokens` | `next_position` [1] |
|---|---|---|
| round | [1,K+1]: the target's own token, then the next draft | position + n_known + n_accepted |
| plain | [1,1]: the token | position + n_known |

Both are int64, and come before the states among the outputs.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.graph import input_named, output_named
from forerun_compiler.passes.emitter import Emitter

NEXT_TOKENS, NEXT_POSITION = "next_tokens", "next_position"


def add_feedback(model: ir.Model) -> int:
    """Add both outputs to a round or a plain graph; return how many were added.

    Raises:
        PassError: an input or output of the table is not there.
    """
    graph = model.graph
    emit = Emitter(graph, "feedback.")
    committed = output_named(graph, "committed")
    position = emit("Add", input_named(graph, "position"), input_named(graph, "n_known"))
    names = {str(value.name) for value in graph.outputs}
    if "draft_tokens" in names:
        drafts, accepted = output_named(graph, "draft_tokens"), output_named(graph, "n_accepted")
        own = emit("Gather", committed, accepted, axis=1)
        tokens = emit("Concat", own, drafts, axis=1)
        assert drafts.shape is not None
        width = int(drafts.shape[1]) + 1  # type: ignore[arg-type]
        position = emit("Add", position, accepted)
    else:
        tokens, width = emit("Identity", committed), 1
    states = [index for index, value in enumerate(graph.outputs) if str(value.name).endswith(".out")]
    for offset, (value, name, shape) in enumerate(((tokens, NEXT_TOKENS, [1, width]), (position, NEXT_POSITION, [1]))):
        value.name, value.type, value.shape = name, ir.TensorType(ir.DataType.INT64), ir.Shape(shape)
        graph.outputs.insert(states[0] + offset, value)
    return 2
