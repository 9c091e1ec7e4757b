"""The operator GreedyWalk in ONNX Runtime: the reference's tokens, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from forerun_compiler.number_formats.linear_int4 import linear_int4
from forerun_compiler.number_formats.linear_int8 import linear_int8
from forerun_compiler.number_formats.packing import pack_blocks, pack_nibbles, pack_scales
from operator_sessions import open_session

RNG = np.random.default_rng(0)
K, E, R, H, V = 5, 40, 24, 70, 3000
"""Slots; numbers of the state, a row of the table, a hidden row; tokens: several parts of a product."""
Array = np.ndarray


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Product:
    """A weight [n,k] as codes, with scales of one precision; group 0 is int8."""

    n: int
    k: int
    group: int
    codes: Array = field(init=False)
    scale: Array = field(init=False)

    def __post_init__(self) -> None:
        codes = RNG.integers(-8, 8, (self.n, self.k)) if self.group else RNG.integers(-127, 128, (self.n, self.k))
        groups = (-(-self.k // self.group),) if self.group else ()
        scale = RNG.uniform(0.001, 0.01, (self.n, *groups))
        object.__setattr__(self, "codes", codes.astype(np.int8))
        object.__setattr__(self, "scale", scale.astype(ml_dtypes.bfloat16 if self.group else np.float32))

    def of(self, x: Array, addend: Array) -> Array:
        if self.group:
            return linear_int4(x, self.codes, self.scale, self.group, None, addend)
        return linear_int8(x, self.codes, self.scale, None, addend)

    def inputs(self) -> tuple[Array, Array]:
        if self.group:
            return pack_nibbles(self.codes), pack_scales(self.scale)
        return pack_blocks(self.codes), self.scale

    def attributes(self, prefix: str) -> dict[str, int]:
        return {f"{prefix}_group_size": self.group, f"{prefix}_outputs": self.n} if self.group else {}


@dataclass
class Head:
    """A recurrent Markov head; `state_size` is what the node says."""

    group: int = 0
    state_size: int = E
    bias: Array = field(default_factory=lambda: floats(3 * E))
    table: Array = field(default_factory=lambda: floats(V, R))
    joint: Product = field(init=False)
    output: Product = field(init=False)

    def __post_init__(self) -> None:
        self.joint, self.output = Product(3 * E, E + R + H, self.group), Product(V, E, self.group)

    def tokens(self, feeds: Mapping[str, Array]) -> list[int]:
        """Slot by slot by the references."""
        state, token, found = np.zeros((1, E), np.float32), int(feeds["anchor"].item()), []
        for logits, hidden in zip(feeds["logits"][0], feeds["hidden"][0], strict=True):
            x = np.concatenate([state, self.table[None, token], hidden[None]], -1)
            keep, candidate, out = np.split(self.joint.of(x, self.bias), 3, -1)
            keep = 1 / (1 + np.exp(-keep))
            state = (keep * state + (1 - keep) * np.tanh(candidate)).astype(np.float32)
            token = int(self.output.of(np.tanh(out), logits[None]).argmax())
            found.append(token)
        return found

    def model(self) -> onnx.ModelProto:
        joint, output = self.joint.inputs(), self.output.inputs()
        arrays = [self.table, *joint, self.bias, *output]
        names = ["table", "joint", "joint_scale", "bias", "output", "output_scale"]
        attributes = self.joint.attributes("joint") | self.output.attributes("output")
        walk = helper.make_node(
            "GreedyWalk",
            ["anchor", "logits", "hidden", *names],
            ["tokens"],
            "walk",
            domain="forerun.runtime",
            state_size=self.state_size,
            **attributes,
        )
        inputs = [
            helper.make_tensor_value_info("anchor", TensorProto.INT64, [None]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 3) for name in ("logits", "hidden")),
        ]
        outputs = [helper.make_tensor_value_info("tokens", TensorProto.INT64, None)]
        constants = [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]
        graph = helper.make_graph([walk], "one", inputs, outputs, constants)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def run(self, feeds: Mapping[str, Array], threads: int = 2) -> Array:
        (tokens,) = open_session(self.model(), threads).run(None, dict(feeds))
        return tokens


def feeds(anchor: int = 7, slots: int = K) -> dict[str, Array]:
    return {"anchor": np.array([anchor]), "logits": 3 * floats(1, slots, V), "hidden": floats(1, slots, H)}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("group", [0, 32, 64, 128])
def test_the_tokens_of_the_reference(group: int, threads: int) -> None:
    """Its state is rounded elsewhere, by less than what could turn one of these choices over."""
    head = Head(group)
    for anchor in (0, 7, V - 1):
        given = feeds(anchor)
        found = head.run(given, threads)
        assert found.shape == (1, K)
        assert found[0].tolist() == head.tokens(given)


def test_no_slots_give_no_tokens() -> None:
    assert Head().run(feeds(slots=0)).shape == (1, 0)


@pytest.mark.parametrize("anchor", [-1, V])
def test_an_anchor_beyond_the_table_is_refused(anchor: int) -> None:
    with pytest.raises(Exception, match=rf"GreedyWalk walk: expected an anchor below {V}; found {anchor}\."):
        Head().run(feeds(anchor))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": floats(1, K - 1, V)}, r"expected one anchor, logits \[1, K, V\].*found 1 anchors, \[1, 4, 3000\]"),
        ({"logits": floats(2, K, V), "hidden": floats(2, K, H)}, r"expected one anchor.*\[2, 5, 3000\]"),
        ({"logits": floats(1, K, V + 1)}, r"a table \[at least V, R\].*\[3000, 24\]"),
        ({"logits": floats(1, K, V - 1)}, "expected 2999 outputs of output of walk; found 3000"),
        ({"hidden": floats(1, K, H + 64)}, r"LinearInt8 joint of walk: for x \[\.\.\., 198\].*Build the bundle again"),
        ({"anchor": np.array([1, 2])}, "expected one anchor.*found 2 anchors"),
    ],
)
def test_other_shapes_are_refused(changed: dict[str, Array], message: str) -> None:
    with pytest.raises(Exception, match=message):
        Head().run(feeds() | changed)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (Head(bias=floats(3 * E - 1)), r"expected a bias of 120 numbers; found \[119\]"),
        (Head(state_size=0), "expected the attribute state_size of at least 1; found 0"),
    ],
)
def test_another_head_is_refused(head: Head, message: str) -> None:
    with pytest.raises(Exception, match=f"GreedyWalk walk: {message}"):
        head.run(feeds())


def test_scales_of_another_precision_are_refused() -> None:
    """The operator takes both, so that the library cannot know."""
    model = Head(128).model()
    (node,) = model.graph.node
    for attribute in [each for each in node.attribute if each.name.startswith("output_")]:
        node.attribute.remove(attribute)
    with pytest.raises(Exception, match="LinearInt8 output of walk: expected scales of ONNX's type 1; found 16"):
        open_session(model).run(None, feeds())
