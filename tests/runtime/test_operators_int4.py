"""The operators LinearInt4 and GatedLinearInt4 in sessions of others: the reference's bits, paths and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from forerun_compiler.number_formats.linear_int4 import gated_linear_int4, linear_int4
from forerun_compiler.number_formats.linear_int8 import Norm
from forerun_compiler.number_formats.packing import pack_nibbles, pack_scales
from operator_sessions import assert_mapped, open_session, run

RNG = np.random.default_rng(0)
GROUPS = (32, 64, 128)
N, K = 992, 200
"""Enough columns for several parts, as gates and values too; the last group and the last block are short."""


@dataclass(frozen=True)
class Weight:
    """Codes [N,K], scales bfloat16 [N,groups] and the size of a group."""

    codes: np.ndarray
    scale: np.ndarray
    group: int

    def linear(self, x: np.ndarray, norm: Norm | None = None, addend: np.ndarray | None = None) -> np.ndarray:
        return linear_int4(x, self.codes, self.scale, self.group, norm, addend)


def random_weight(group: int, n: int = N, k: int = K) -> Weight:
    scale = RNG.uniform(-0.01, 0.01, (n, -(-k // group))).astype(ml_dtypes.bfloat16)
    return Weight(RNG.integers(-8, 8, (n, k)).astype(np.int8), scale, group)


WEIGHT = random_weight(128)


def rows(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True)
class Node:
    """What a model of one node is made of; None leaves an attribute or an input out."""

    packed: np.ndarray
    scale: np.ndarray
    group: int | None
    outputs: int | None
    op: str = "LinearInt4"
    path: str | None = None
    norm: Norm | None = None
    addend: np.ndarray | None = None

    def model(self) -> onnx.ModelProto:
        constants = {"w": self.packed, "s": self.scale, "norm": self.norm and self.norm.weight, "addend": self.addend}
        given = {name: array for name, array in constants.items() if array is not None}
        names = ["x", *(name if name in given else "" for name in constants)]
        while not names[-1]:
            names.pop()
        attributes = {"group_size": self.group, "outputs": self.outputs, "path": self.path}
        attributes["epsilon"] = self.norm and self.norm.epsilon
        node = helper.make_node(self.op, names, ["y"], "product", domain="forerun.runtime")
        node.attribute.extend(helper.make_attribute(*each) for each in attributes.items() if each[1] is not None)
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in given.items()],
        )
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node_of(weight: Weight) -> Node:
    return Node(pack_nibbles(weight.codes), pack_scales(weight.scale), weight.group, len(weight.codes))


def refusal(node: Node, x: np.ndarray) -> str:
    with pytest.raises(Exception, match=rf"{node.op} product: ") as failure:
        run(open_session(node.model()), x)
    return str(failure.value)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("shape", [(1, 1, K), (2, 9, K), (3, 0, K), (K,), (1, 33, K)])
def test_the_references_bits_whatever_the_shape(shape: tuple[int, ...], group: int) -> None:
    weight, x = random_weight(group), rows(*shape)
    found = run(open_session(node_of(weight).model()), x)
    assert found.shape == (*shape[:-1], N)
    np.testing.assert_array_equal(found, weight.linear(x))


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("n", [1, 16, 17])
@pytest.mark.parametrize("k", [1, 31, 33, 64, 65, 97, 129])
def test_sizes_that_are_no_multiple_of_a_block(n: int, k: int, group: int) -> None:
    weight, x = random_weight(group, n, k), rows(1, 5, k)
    np.testing.assert_array_equal(run(open_session(node_of(weight).model()), x), weight.linear(x))


def test_a_row_of_zeros_gives_zeros_and_one_that_is_not_finite_nans() -> None:
    x = rows(1, 4, K)
    x[0, 0], x[0, 1, 7], x[0, 2, 199] = 0, np.nan, -np.inf
    found = run(open_session(node_of(WEIGHT).model()), x)
    np.testing.assert_array_equal(found, WEIGHT.linear(x))
    assert not found[0, 0].any()
    assert np.isnan(found[0, 1:3]).all()


@pytest.mark.parametrize("group", GROUPS)
def test_all_paths_of_this_processor_agree(group: int) -> None:
    weight, x = random_weight(group), rows(1, 19, K)
    message = refusal(replace(node_of(weight), path="abacus"), x)
    names = message.split("it has ")[1].split(".")[0].split()
    assert names[-1] == "portable"
    for name in names:
        found = run(open_session(replace(node_of(weight), path=name).model()), x)
        np.testing.assert_array_equal(found, weight.linear(x), name)


def test_one_thread_or_several_give_the_same_bits() -> None:
    x, model = rows(1, 11, K), node_of(WEIGHT).model()
    for threads in (1, 2, 4):
        np.testing.assert_array_equal(run(open_session(model, threads), x), WEIGHT.linear(x))


@pytest.mark.parametrize("addend_shape", [(N,), (2, 3, N)], ids=["bias", "residual"])
def test_a_norm_and_an_addend(addend_shape: tuple[int, ...]) -> None:
    norm, addend, x = Norm(rows(K), 1e-5), rows(*addend_shape), rows(2, 3, K)
    found = run(open_session(replace(node_of(WEIGHT), norm=norm, addend=addend).model()), x)
    np.testing.assert_array_equal(found, WEIGHT.linear(x, norm, addend))


@pytest.mark.parametrize("group", GROUPS)
def test_gates_and_values_by_turns(group: int) -> None:
    weight, norm, x = random_weight(group), Norm(rows(K), 1e-5), rows(1, 7, K)
    found = run(open_session(replace(node_of(weight), op="GatedLinearInt4", norm=norm).model()), x)
    expected = gated_linear_int4(x, weight.codes, weight.scale, group, norm)
    assert found.shape == (1, 7, N // 2)
    # The reference's sigmoid is that of float64.
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(("group", "outputs"), [(None, N), (16, N), (128, None), (128, 0)])
def test_attributes_that_are_missing_or_wrong(group: int | None, outputs: int | None) -> None:
    message = refusal(replace(node_of(WEIGHT), group=group, outputs=outputs), rows(1, 2, K))
    assert "expected the attributes group_size, of 32, 64 or 128, and outputs, of at least 1" in message
    assert f"found {group or 0} and {outputs or 0}" in message


def test_another_size_of_weight_or_scales() -> None:
    node, x = node_of(WEIGHT), rows(1, 2, K)
    assert "expected a packed weight [62, 4, 512]; found 3 dimensions, [61, 4, 512]" in refusal(
        replace(node, packed=node.packed[:-1]), x
    )
    wanted = "for x [..., 200] in groups of 128 and 992 outputs expected a weight_scale [62, 2, 16]; found "
    assert wanted + "3 dimensions, [62, 1, 16]" in refusal(replace(node, scale=node.scale[:, :1].copy()), x)
    assert wanted + "1 dimensions, [1984]" in refusal(replace(node, scale=node.scale.reshape(-1)), x)
    assert "expected a packed weight [61, 4, 512]" in refusal(replace(node, outputs=975), x)
    assert "expected a packed weight [62, 5, 512]" in refusal(node, rows(1, 2, 300))


def test_gated_outputs_in_other_multiples() -> None:
    node = replace(node_of(random_weight(64, n=48)), op="GatedLinearInt4")
    assert "expected N as a multiple of 32, gates and values in turn; found 48" in refusal(node, rows(1, 2, K))


@pytest.mark.parametrize("dtypes", [(np.int8, ml_dtypes.bfloat16), (np.uint8, np.float32)], ids=["weight", "scale"])
def test_other_dtypes(dtypes: Sequence[type]) -> None:
    node = node_of(WEIGHT)
    other = replace(node, packed=node.packed.view(dtypes[0]), scale=node.scale.astype(dtypes[1]))
    with pytest.raises(Exception, match=r"Type 'tensor\((int8|float)\)' of input parameter"):
        open_session(other.model())


def test_the_weights_file_stays_mapped(tmp_path: Path) -> None:
    packed = np.full((512, 64, 512), 0x99, np.uint8)  # 16 MB
    scale = np.ones((512, 32, 16), ml_dtypes.bfloat16)
    model = Node(packed, scale, 128, 8192).model()
    assert_mapped(model, packed, tmp_path)
