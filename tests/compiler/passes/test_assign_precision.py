"""Which layer gets which scheme, and what stays dense for which reason."""

from __future__ import annotations

import pytest

from forerun_compiler.dialect import Linear
from forerun_compiler.manifest import Override, Precision
from forerun_compiler.passes.assign_precision import Choice, assign_precision, matches, part_of
from forerun_compiler.passes.name_products import products
from forerun_compiler.schemes import TENSORRT_RTX
from tiny_pairs import pair


def choices(precision: Precision) -> dict[str, Choice]:
    model = pair().linked.round.clone()
    found = assign_precision(model, precision)
    on_nodes = {Linear.from_node(node).layer: Linear.from_node(node).scheme for node in products(model)}
    assert on_nodes == {choice.layer: choice.scheme for choice in found}
    return {choice.layer: choice for choice in found}


def test_each_part_gets_its_own_scheme() -> None:
    found = choices(Precision("int8", "int4", "int8-static", "int4-group32"))
    assert found["target.model.layers.0.self_attn.q_proj"] == Choice(
        "target.model.layers.0.self_attn.q_proj", "target", "int8", None
    )
    assert found["drafter.layers.0.mlp.up_proj"].scheme == "int4"
    assert (found["target.lm_head"].part, found["target.lm_head"].scheme) == ("lm_head", "int8-static")
    assert (found["drafter.lm_head"].part, found["drafter.lm_head"].scheme) == ("drafter_lm_head", "int4-group32")


def test_what_must_not_be_narrowed_stays_dense_and_says_why() -> None:
    found = choices(Precision("fp8", "fp8", "fp8", "fp8"))
    assert found["drafter.fc"].scheme == "float32"
    assert "outliers" in str(found["drafter.fc"].reason)
    assert found["drafter.confidence_head.proj"].reason == "1 output is too few to gain"
    # Calibrated ranges exist in the main graph only; a dynamic scheme needs none.
    assert "branch" in str(found["drafter.markov_head.markov_w2"].reason)
    assert choices(Precision(drafter="int8"))["drafter.markov_head.markov_w2"].scheme == "int8"


@pytest.mark.parametrize("scheme", ["int4", "int4-group64", "int4-group32"])
def test_fc_takes_int8_where_the_drafter_is_int4(scheme: str) -> None:
    found = choices(Precision(drafter=scheme))["drafter.fc"]
    assert found.scheme == "int8"
    assert str(found.reason).endswith(f"whose outliers leave {scheme} too little: int8 instead")
    assert choices(Precision(drafter="int8"))["drafter.fc"] == Choice("drafter.fc", "drafter", "int8", None)
    dense = Precision(drafter=scheme, overrides=(Override("drafter.fc", "float32"),))
    assert choices(dense)["drafter.fc"] == Choice("drafter.fc", "drafter", "float32", None)


@pytest.mark.parametrize("scheme", ["int4", "int8", "int8-static"])
def test_fc_stays_dense_for_tensorrt(scheme: str) -> None:
    found = {
        each.layer: each
        for each in assign_precision(pair().linked.round.clone(), Precision(drafter=scheme), TENSORRT_RTX)
    }
    assert found["drafter.fc"].scheme == "float32"
    assert "outliers" in str(found["drafter.fc"].reason)


def test_the_last_override_that_matches_counts() -> None:
    overrides = (Override("*.layers.1.*", "float32"), Override("target.*.layers.1.mlp.*", "int4"))
    found = choices(Precision("int8", "int8", overrides=overrides))
    assert found["target.model.layers.1.mlp.up_proj"].scheme == "int4"
    assert found["target.model.layers.1.self_attn.q_proj"].scheme == "float32"
    assert found["target.model.layers.1.self_attn.q_proj"].reason is None
    assert found["target.model.layers.0.mlp.up_proj"].scheme == "int8"


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        ("target.lm_head", "lm_head"),
        ("drafter.lm_head", "drafter_lm_head"),
        ("target.model.layers.0.mlp.up_proj", "target"),
        ("drafter.fc", "drafter"),
    ],
)
def test_parts_of_layers(layer: str, part: str) -> None:
    assert part_of(layer) == part


def test_patterns_are_shell_style() -> None:
    assert matches("target.*.[qk]_proj", "target.model.layers.0.self_attn.q_proj")
    assert not matches("TARGET.*", "target.lm_head")
