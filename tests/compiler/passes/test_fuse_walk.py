"""A greedy walk becomes one operator with the same tokens; a walk that is not one chain of slots stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler.graph import remove_unused
from forerun_compiler.passes.fuse_walk import fuse_walk
from forerun_compiler.passes.own_products import ADDEND
from forerun_compiler.passes.quantize_int4 import quantize_int4
from forerun_compiler.passes.quantize_int8 import OPERATORS, quantize_int8
from hand_graphs import FLOAT, INT, Array, constant, make_model, node, op_types, run
from product_graphs import OPS, RNG, apply, of_each_precision, product

E, R, H, V = 20, 7, 33, 50
"""Of the state, a row of the table, a hidden row; tokens."""


def random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


class Walk:
    """Two slots, as they stand behind the fusions before: 15 nodes."""

    def __init__(self, scheme: str = "int8") -> None:
        self.scheme = scheme
        self.anchor = ir.val("anchor", INT, [1, 1])
        self.logits, self.hidden = ir.val("logits", FLOAT, [1, 2, V]), ir.val("hidden", FLOAT, [1, 2, H])
        self.table, self.bias = constant("table", random(V, R)), constant("bias", random(3 * E))
        self.joint = constant("joint.w", random(3 * E, E + R + H))
        self.output = constant("output.w", random(V, E))
        self.addends: dict[str, ir.Value] = {}
        cuts = [("logits", self.logits, V), ("hidden", self.hidden, H)]
        self.splits = [
            node("Split", [value], *((f"{name}{i}", [1, 1, n]) for i in range(2)), axis=1, num_outputs=2)
            for name, value, n in cuts
        ]
        first = self.slot(0, self.anchor, constant("zeros", np.zeros((1, 1, E))))
        second = self.slot(1, first[-1].outputs[0], first[3].outputs[0])
        tokens = [first[-1].outputs[0], second[-1].outputs[0]]
        self.slots = [first, second]
        self.end = node("Concat", tokens, ("tokens", [1, 2]), axis=1)
        self.end.outputs[0].dtype = INT
        self.more: list[ir.Node] = []

    def slot(self, number: int, token: ir.Value, state: ir.Value) -> list[ir.Node]:
        name = f"slot{number}."
        row = node("Gather", [self.table, token], (f"{name}row", [1, 1, R]), axis=0)
        hidden = self.splits[1].outputs[number]
        read = node("Concat", [state, row.outputs[0], hidden], (f"{name}read", [1, 1, E + R + H]), axis=-1)
        joint = product(read.outputs[0], f"{name}joint", 3 * E, self.joint, self.scheme)
        shape = (1, 1, E)
        step = node(
            "GatedRecurrence",
            [joint.outputs[0], state],
            (f"{name}next", shape),
            (f"{name}out", shape),
            domain=OPERATORS,
        )
        output = product(step.outputs[1], f"{name}output", V, self.output, self.scheme)
        choice = node("ArgMax", output.outputs, (f"{name}token", [1, 1]), axis=-1, keepdims=0, select_last_index=0)
        choice.outputs[0].dtype = INT
        self.addends |= {f"{name}joint": self.bias, f"{name}output": self.splits[0].outputs[number]}
        return [row, read, joint, step, output, choice]

    def model(self) -> ir.Model:
        """The products as the project's own operators, with what fusions put among their inputs."""
        nodes = [*self.splits, *(each for slot in self.slots for each in slot), self.end]
        outputs = [self.end.outputs[0], *(value for each in self.more for value in each.outputs)]
        assert len(nodes) <= 15
        model = make_model([self.anchor, self.logits, self.hidden], [*nodes, *self.more], outputs)
        model.graph.register_initializer(self.bias)
        assert quantize_int8(model) + quantize_int4(model) == 4
        for each in model.graph:
            if each.op_type == OPS[self.scheme]:
                each.resize_inputs(ADDEND + 1)
                each.replace_input_with(ADDEND, self.addends[str(each.outputs[0].name)])
        remove_unused(model)
        return model


@of_each_precision
def test_a_walk(scheme: str) -> None:
    model = Walk(scheme).model()
    all_feeds = [
        {"anchor": np.array([[token]]), "logits": random(1, 2, V), "hidden": random(1, 2, H)}
        for token in range(0, V, 7)
    ]
    before = [run(model, feeds)["tokens"] for feeds in all_feeds]
    assert len(np.unique(before)) > 5
    assert apply(model, fuse_walk) == 1
    assert op_types(model) == ["GreedyWalk"]
    for feeds, tokens in zip(all_feeds, before, strict=True):
        np.testing.assert_array_equal(run(model, feeds)["tokens"], tokens)


def read_inside(walk: Walk) -> None:
    walk.more.append(node("Neg", walk.slots[0][2].outputs, ("negated", [1, 1, 3 * E])))


def read_the_scores(walk: Walk) -> None:
    walk.more.append(node("Neg", walk.slots[1][4].outputs, ("negated", [1, 1, V])))


def another_table(walk: Walk) -> None:
    walk.slots[1][0].replace_input_with(0, constant("other", random(V, R)))


def a_short_table(walk: Walk) -> None:
    """Whose rows are fewer than the tokens."""
    short = constant("short", random(V - 1, R))
    for slot in walk.slots:
        slot[0].replace_input_with(0, short)


def another_weight(walk: Walk) -> None:
    walk.slots[1][4].replace_input_with(1, constant("other", random(V, E)))


def another_state(walk: Walk) -> None:
    ones = constant("ones", np.ones((1, 1, E)))
    walk.slots[0][1].replace_input_with(0, ones)
    walk.slots[0][3].replace_input_with(1, ones)


def two_states(walk: Walk) -> None:
    walk.slots[1][3].replace_input_with(1, constant("others", np.ones((1, 1, E))))


def another_token(walk: Walk) -> None:
    """The second slot goes on from the anchor, too."""
    walk.slots[1][0].replace_input_with(1, walk.anchor)


def turned_slots(walk: Walk) -> None:
    first, second = walk.splits[1].outputs
    walk.slots[0][1].replace_input_with(2, second)
    walk.slots[1][1].replace_input_with(2, first)


def the_last_of_the_largest(walk: Walk) -> None:
    walk.slots[1][5].attributes["select_last_index"] = ir.AttrInt64("select_last_index", 1)


def other_order(walk: Walk) -> None:
    walk.end.replace_input_with(0, walk.slots[1][5].outputs[0])
    walk.end.replace_input_with(1, walk.slots[0][5].outputs[0])


@pytest.mark.parametrize(
    "change",
    [
        read_inside,
        read_the_scores,
        another_table,
        a_short_table,
        another_weight,
        another_state,
        two_states,
        another_token,
        turned_slots,
        the_last_of_the_largest,
        other_order,
    ],
)
def test_what_is_no_such_walk_stays(change: Callable[[Walk], None]) -> None:
    walk = Walk()
    change(walk)
    model = walk.model()
    before = op_types(model)
    assert apply(model, fuse_walk) == 0
    assert op_types(model) == before
