"""Products with transposed weights get the names of their layers, in branches and behind logits too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.passes.name_products import name_products, products
from hand_graphs import FLOAT, INT, constant, make_model, node, op_types
from tiny_pairs import pair

TOLERANCE = 1e-6
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 4), np.float32)


def traced(x: ir.Value, weight: ir.Value, name: str, rows: str = "T") -> list[ir.Node]:
    assert weight.const_value is not None
    width, depth = weight.const_value.shape.numpy()  # type: ignore[attr-defined]
    turn = node("Transpose", [weight], (f"{name}.T", [depth, width]), perm=[1, 0])
    return [turn, node("MatMul", [x, turn.outputs[0]], (name, [1, rows, width]))]


def layers(model: ir.Model) -> list[str]:
    return [dialect.Linear.from_node(each).layer for each in products(model)]


def test_a_product_becomes_a_linear_layer_with_its_name() -> None:
    x = ir.val("x", FLOAT, [1, "T", 4])
    nodes = traced(x, constant("target/model.layers.0.up_proj.weight", WEIGHT), "target/a")
    model = make_model([x], nodes, [nodes[1].outputs[0]])
    feeds = {"x": RNG.standard_normal((1, 3, 4), np.float32)}
    before = dialect.evaluate(model, feeds)
    assert name_products(model) == 1
    assert op_types(model) == ["Linear"]
    assert layers(model) == ["target.model.layers.0.up_proj"]
    np.testing.assert_allclose(dialect.evaluate(model, feeds)["target/a"], before["target/a"], rtol=0, atol=TOLERANCE)


def test_the_product_behind_scaled_logits_is_the_head() -> None:
    ids, tied = ir.val("ids", INT, [1, "T"]), constant("target/embed.weight", WEIGHT)
    look = node("Gather", [tied, ids], ("rows", [1, "T", 4]))
    nodes = traced(look.outputs[0], tied, "target/product")
    scaled = node("Div", [nodes[1].outputs[0], constant("two", 2.0)], ("target/logits", [1, "T", 6]))
    model = make_model([ids], [look, *nodes, scaled], scaled.outputs)
    assert name_products(model) == 1
    assert layers(model) == ["target.lm_head"]


def test_another_use_of_a_transposed_weight_is_refused() -> None:
    ids, weight = ir.val("ids", INT, [1, "T"]), constant("w", WEIGHT)
    look = node("Gather", [weight, ids], ("x", [1, "T", 4]))
    turn = node("Transpose", [weight], ("w.T", [4, 6]), perm=[1, 0])
    negated = node("Neg", turn.outputs, ("n", [4, 6]))
    model = make_model([ids], [look, turn, negated], [look.outputs[0], negated.outputs[0]])
    with pytest.raises(PassError, match=r"\(Neg\): a transposed weight that is no plain product: cannot be lowered"):
        name_products(model)


def test_a_linked_pair_has_every_layer_of_both_parts() -> None:
    linked = pair().linked
    names = set(layers(linked.round))
    for layer in range(3):
        for kind in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            assert f"target.model.layers.{layer}.{kind}" in names
    assert {"target.lm_head", "drafter.lm_head", "drafter.fc", "drafter.layers.1.mlp.up_proj"} <= names
    assert {name for name in names if name.startswith("target.")} == set(layers(linked.plain))
    # The walk's products stand in the branches of an If.
    assert "drafter.markov_head.markov_w2" in names
    assert "drafter.confidence_head.proj" in names
