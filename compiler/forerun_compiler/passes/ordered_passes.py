"""Ordered tables of passes: what a row is, and how a table takes a graph from the dialect to an execution library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.graph import check_graph, remove_unused


@dataclass(frozen=True)
class Pass:
    """A rewrite in place that returns how often it fired; one that must fire and does not is an error."""

    name: str
    run: Callable[[ir.Model], int]
    must_fire: bool


def run_passes(model: ir.Model, passes: Sequence[Pass], library: str) -> dict[str, int]:
    """Lower a linked graph in place for a library; return how often each pass fired.

    Raises:
        PassError: a pass that must fire changed nothing, or an op of the dialect is left.
    """
    fired = {}
    for step in passes:
        fired[step.name] = run_pass(step, model)
    if left := sorted({node.op_type for node in model.graph.all_nodes() if node.domain == dialect.DOMAIN}):
        raise PassError(f"lowering {model.graph.name!r} for {library} left {', '.join(left)} of the dialect")
    model.graph.opset_imports.pop(dialect.DOMAIN, None)
    return fired


def run_pass(step: Pass, model: ir.Model) -> int:
    """Run one pass, drop what nothing needs any more, and check the graph."""
    count = step.run(model)
    if step.must_fire and not count:
        raise PassError(
            f"pass {step.name!r} found nothing to rewrite in {model.graph.name!r}, which it must: "
            "the graph is not of the form that the trace gives"
        )
    remove_unused(model)
    check_graph(model, step.name)
    return count
