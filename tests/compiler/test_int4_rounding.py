"""Int4 layers of a tiny pair, rounded on text: which, for whose inputs, and what that gains."""

from __future__ import annotations

import functools

import numpy as np

import tiny_pairs
from forerun_compiler.int4_rounding import int4_layers, round_layers
from forerun_compiler.manifest import Override, Precision
from forerun_compiler.number_formats import int4
from forerun_compiler.passes.quantize_int4 import RoundedLayer

RNG = np.random.default_rng(6)
TEXTS = tuple(tuple(RNG.integers(0, 256, length).tolist()) for length in (60, 40))
MLP = Override("target.model.layers.0.mlp.*", "int4-group32")
SOME = Precision(lm_head="int4", drafter_lm_head="int4", overrides=(MLP,))
WALK = ("int4", "drafter.markov_head.joint_proj")


def rounded(wanted: set[tuple[str, str]]) -> dict[tuple[str, str], RoundedLayer]:
    linked = tiny_pairs.pair(head="rnn", agree=False).linked
    return round_layers(linked.round, linked.facts, TEXTS, wanted, lambda *_: None)


@functools.cache
def found() -> dict[tuple[str, str], RoundedLayer]:
    return rounded(int4_layers(tiny_pairs.pair(head="rnn", agree=False).linked.round, SOME))


def test_the_layers_are_those_of_int4_schemes() -> None:
    mlp = {("int4-group32", f"target.model.layers.0.mlp.{name}_proj") for name in ("gate", "up", "down")}
    assert {*found()} == {*mlp, ("int4", "target.lm_head"), ("int4", "drafter.lm_head")}
    assert all(0 < each.error < 0.2 for each in found().values())


def test_a_weight_of_two_layers_is_rounded_once() -> None:
    assert found()["int4", "drafter.lm_head"] is found()["int4", "target.lm_head"]


def test_the_codes_are_not_the_nearest() -> None:
    linked = tiny_pairs.pair(head="rnn", agree=False).linked
    weight = linked.round.graph.initializers["target/model.layers.0.mlp.up_proj.weight"].const_value
    assert weight is not None
    ours = found()["int4-group32", "target.model.layers.0.mlp.up_proj"].encoded
    nearest = int4.encode(weight.numpy(), 32)
    assert ours.codes.shape == nearest.codes.shape
    assert ours.codes.tobytes() != nearest.codes.tobytes()


def test_layers_in_branches_are_left_out() -> None:
    layer = ("int4", "target.model.layers.0.mlp.up_proj")
    assert [*rounded({WALK, layer})] == [layer]
    assert rounded({WALK}) == {}


def test_two_runs_give_the_same_bytes() -> None:
    again = rounded({*found()})
    for key, one in found().items():
        assert one.encoded.codes.tobytes() == again[key].encoded.codes.tobytes()
        assert one.encoded.scale.tobytes() == again[key].encoded.scale.tobytes()
        assert one.error == again[key].error
