"""Trees of rows in standard operators: their depths, and what each row sees as a bias on the scores.

`parents` [1,T] names for each row its parent among the rows, or -1 for the text before the run; see
`dialect_attention`. Our own operator takes it as it is; these forms are for what that does not compute.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.graph import find_nodes, replace_node
from forerun_compiler.passes.emitter import Emitter, operands

_SQUARINGS = 12
"""Of the matrix of parents: ancestors of up to 4096 generations, more than a run has rows."""
_UNSEEN = -1e30
"""Added to a score whose weight must become 0; far below any score, and finite."""


def lower_tree_depth(model: ir.Model) -> int:
    """Replace every TreeDepth by standard operators, or drop it where nothing reads it; return how many there were."""
    nodes = find_nodes(model.graph, dialect.TreeDepth.OP_TYPE, dialect.DOMAIN)
    for number, node in enumerate(nodes):
        if node.outputs[0].uses() or node.outputs[0].is_graph_output():
            emit = Emitter(model.graph, f"tree_depth.{number}.", before=node)
            depth = _depth(emit, _related(emit, operands(node, 1)[0]))
            replace_node(node, [], [emit("Unsqueeze", depth, emit.constant([0]))])
        else:
            model.graph.remove(node, safe=True)
    return len(nodes)


def tree_bias(emit: Emitter, parents: ir.Value, position: ir.Value, window: int) -> ir.Value:
    """Return float32 [1,1,T,position+T]: 0 where a row sees a key, else what makes its weight 0."""
    related = _related(emit, parents)
    place = emit("Add", _depth(emit, related), position)  # [T], in the text
    text = emit("Range", emit.constant(0), emit("Squeeze", position), emit.constant(1))
    key = emit("Unsqueeze", emit("Concat", text, place, axis=0), emit.constant([0]))
    query = emit("Unsqueeze", place, emit.constant([1]))
    # All of the text, then the ancestors: the matrix gets `position` columns of ones before its own.
    columns = emit("Concat", emit.constant([0]), position, emit.constant([0, 0]), axis=0)
    padded = emit("Pad", related, columns, emit.constant(1, np.float32))
    seen = emit("Greater", padded, emit.constant(0, np.float32))
    if window:
        seen = emit("And", seen, emit("Less", emit("Sub", query, key), emit.constant(window)))
    bias = emit("Where", seen, emit.constant(0, np.float32), emit.constant(_UNSEEN, np.float32))
    return emit("Unsqueeze", bias, emit.constant([0, 1]))


def _related(emit: Emitter, parents: ir.Value) -> ir.Value:
    """Return float32 [T,T]: 1 where the column is an ancestor of the row, or the row itself."""
    rows = emit("Squeeze", parents, emit.constant([0]))
    own = emit("Range", emit.constant(0), emit("Squeeze", emit("Shape", rows)), emit.constant(1))
    columns = emit("Unsqueeze", own, emit.constant([0]))
    pairs = [emit("Equal", emit("Unsqueeze", each, emit.constant([1])), columns) for each in (own, rows)]
    related = emit("Cast", emit("Or", *pairs), to=int(ir.DataType.FLOAT))
    for _ in range(_SQUARINGS):
        related = emit("Min", emit("MatMul", related, related), emit.constant(1, np.float32))
    return related


def _depth(emit: Emitter, related: ir.Value) -> ir.Value:
    """Return int64 [T]: how many ancestors each row has."""
    count = emit("ReduceSum", related, emit.constant([1]), keepdims=0)
    return emit("Sub", emit("Cast", count, to=int(ir.DataType.INT64)), emit.constant(1))
