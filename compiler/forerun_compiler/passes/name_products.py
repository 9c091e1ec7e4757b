"""MatMul(x, Transpose(weight)) of the traced form becomes forerun::Linear, which knows its layer's name.

Names are those of the checkpoint behind the part's: `target.model.layers.0.self_attn.q_proj`, `drafter.fc`. The product
that makes the logits is `target.lm_head` or `drafter.lm_head`, wherever its weight comes from: a tied one is the
embedding's, a borrowed one the target's.
"""

from __future__ import annotations

import onnx_ir as ir

from forerun_compiler.dialect import DOMAIN, VERSION, Linear
from forerun_compiler.errors import PassError
from forerun_compiler.graph import find_nodes, producer, remove_unused, replace_node
from forerun_compiler.passes.emitter import operands

TARGET, DRAFTER = "target", "drafter"
LM_HEAD = "lm_head"
_LOGITS = {"target/logits": TARGET, "block/logits": DRAFTER}


def name_products(model: ir.Model) -> int:
    """Rewrite every product with a transposed weight, those in branches too; return how many.

    Raises:
        PassError: a transposed weight has a user that is no plain product.
    """
    heads = {id(node): part for name, part in _LOGITS.items() if (node := _head(model.graph, name)) is not None}
    count = 0
    for graph in model.graphs():
        for turn in find_nodes(graph, "Transpose"):
            weight = turn.inputs[0]
            if weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
                continue
            for use in list(turn.outputs[0].uses()):
                if use.node.op_type != "MatMul" or use.idx != 1:
                    raise PassError(
                        f"node {use.node.name!r} ({use.node.op_type}): a transposed weight that is no plain product: "
                        "cannot be lowered"
                    )
                part = heads.get(id(use.node))
                _rewrite(use.node, weight, _layer(use.node, weight) if part is None else f"{part}.{LM_HEAD}")
                count += 1
    if count:
        model.graph.opset_imports[DOMAIN] = VERSION
    remove_unused(model)
    return count


def products(model: ir.Model) -> list[ir.Node]:
    """Return all forerun::Linear nodes, those in branches too."""
    return [node for graph in model.graphs() for node in find_nodes(graph, Linear.OP_TYPE, DOMAIN)]


def _rewrite(product: ir.Node, weight: ir.Value, layer: str) -> None:
    x, _ = operands(product, 2)
    attributes = Linear(layer).attributes()
    new = ir.node(
        Linear.OP_TYPE, [x, weight], attributes, domain=DOMAIN, outputs=[ir.val(None)], name=f"{product.name}.linear"
    )
    replace_node(product, [new], new.outputs)


def _layer(product: ir.Node, weight: ir.Value) -> str:
    """`target/model.layers.0.mlp.up_proj.weight` -> target.model.layers.0.mlp.up_proj; all else is the drafter's.

    The product tells the part: a weight that both parts read carries the name of the one that was linked first.
    """
    part = TARGET if str(product.name).startswith(f"{TARGET}/") else DRAFTER
    stem = str(weight.name).rpartition("/")[2].removesuffix(".weight").removeprefix("module.")
    return f"{part}.{stem}"


def _head(graph: ir.Graph, logits: str) -> ir.Node | None:
    """Return the product behind the logits, through what scales or caps them."""
    node = next((node for node in graph for value in node.outputs if value.name == logits), None)
    while node is not None:
        if node.op_type == "MatMul" and producer(node.inputs[1], "Transpose") is not None:
            return node
        node = next((made for value in node.inputs if value is not None and (made := value.producer())), None)
    return None
