"""The operator LinearInt8 in sessions of others: bits, rows, paths, threads, refusals, and weights that stay mapped."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import forerun
from forerun_compiler.number_formats.linear_int8 import linear_int8
from forerun_compiler.number_formats.packing import pack_blocks
from operator_sessions import assert_mapped, open_session, run

RNG = np.random.default_rng(0)
N, K = 1000, 200
"""Enough columns for several parts, and no multiple of a block in either direction."""
CODES = RNG.integers(-127, 128, (N, K)).astype(np.int8)
SCALE = RNG.uniform(0.001, 0.01, N).astype(np.float32)
PACKED = pack_blocks(CODES)


def build(
    packed: np.ndarray = PACKED, scale: np.ndarray = SCALE, shape: Sequence[int | str] = ("B", "T", "K"), path: str = ""
) -> onnx.ModelProto:
    node = helper.make_node("LinearInt8", ["x", "w", "s"], ["y"], "product", domain="forerun.runtime")
    if path:
        node.attribute.append(helper.make_attribute("path", path))
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(packed, "w"), numpy_helper.from_array(scale, "s")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def rows(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1, K), (1, 8, K), (2, 9, K), (1, 128, K), (3, 0, K), (K,), (2, 1, 3, 1, K)])
def test_the_references_bits(shape: tuple[int, ...]) -> None:
    x = rows(*shape)
    found = run(open_session(build(shape=[*"abcdefgh"[: len(shape) - 1], "K"])), x)
    assert found.shape == (*shape[:-1], N)
    np.testing.assert_array_equal(found, linear_int8(x, CODES, SCALE))


@pytest.mark.parametrize("n", [1, 15, 16, 17])
@pytest.mark.parametrize("k", [1, 3, 64, 65])
def test_odd_sizes(n: int, k: int) -> None:
    codes = RNG.integers(-127, 128, (n, k)).astype(np.int8)
    x = rows(1, 5, k)
    found = run(open_session(build(pack_blocks(codes), SCALE[:n])), x)
    np.testing.assert_array_equal(found, linear_int8(x, codes, SCALE[:n]))


def test_rows_that_are_zero_or_not_finite() -> None:
    x = rows(1, 4, K)
    x[0, 0], x[0, 1, 7], x[0, 2, 199] = 0, np.nan, -np.inf
    found = run(open_session(build()), x)
    np.testing.assert_array_equal(found, linear_int8(x, CODES, SCALE))
    assert not found[0, 0].any()
    assert np.isnan(found[0, 1:3]).all()
    assert np.isfinite(found[0, 3]).all()


def test_a_row_is_the_same_alone_and_in_any_company() -> None:
    session, row = open_session(build()), rows(1, 1, K)
    alone = run(session, row)
    for width, place in [(8, 0), (8, 7), (17, 16), (128, 77)]:
        x = 100 * rows(1, width, K)
        x[0, place] = row[0, 0]
        np.testing.assert_array_equal(run(session, x)[0, place], alone[0, 0])


def test_threads_do_not_matter() -> None:
    x = rows(1, 11, K)
    found = [run(open_session(build(), threads), x) for threads in (1, 2, 4)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_runs_of_one_session_may_overlap() -> None:
    session = open_session(build())
    inputs = [rows(1, 1 + number % 20, K) for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for x, found in zip(inputs, pool.map(lambda x: run(session, x), inputs), strict=True):
            np.testing.assert_array_equal(found, linear_int8(x, CODES, SCALE))


def test_every_path_of_this_processor_gives_the_same_bits() -> None:
    with pytest.raises(
        Exception, match=r"LinearInt8 product: this processor has no path \"abacus\"; it has "
    ) as failure:
        open_session(build(path="abacus"))
    names = str(failure.value).split("it has ")[1].split(".")[0].split()
    assert names[-1] == "portable"
    x = rows(1, 19, K)
    for name in names:
        np.testing.assert_array_equal(run(open_session(build(path=name)), x), linear_int8(x, CODES, SCALE), name)


def refused(model: onnx.ModelProto, x: np.ndarray) -> str:
    # In our words, or in the library's around what both our operators say.
    said = r"LinearInt8 product: |LinearInt8 node. Name:'product' .*: forerun: "
    with pytest.raises(Exception, match=said) as failure:
        run(open_session(model), x)
    return str(failure.value)


def test_another_number_of_inputs_is_refused() -> None:
    message = refused(build(), rows(1, 2, 300))
    assert "for x [..., 300] and weight_scale [1000] expected a packed weight [63, 5, 1024]" in message
    assert "found 3 dimensions, [63, 4, 1024]" in message


@pytest.mark.parametrize("packed", [PACKED[:-1], PACKED.reshape(-1), PACKED.reshape(63, 4, 16, 64), PACKED[:, :, :-1]])
def test_another_size_of_the_weight_is_refused(packed: np.ndarray) -> None:
    message = refused(build(np.ascontiguousarray(packed)), rows(1, 2, K))
    assert "expected a packed weight [63, 4, 1024]; found" in message


def test_other_dimensions_are_refused() -> None:
    assert "expected x [..., K] and weight_scale [N]; found 3 dimensions and 2" in refused(
        build(scale=SCALE.reshape(1, -1)), rows(1, 2, K)
    )
    assert "N of at least 1; found K 200 and N 0" in refused(build(scale=SCALE[:0]), rows(1, 2, K))
    assert "expected K from 1 to 131072" in refused(build(), rows(1, 2, 0))
    assert "more than 8 dimensions" in refused(build(shape=list("abcdefghi")), rows(1, 1, 1, 1, 1, 1, 1, 1, K))


@pytest.mark.parametrize(
    ("packed", "scale"), [(PACKED.view(np.int8), SCALE), (PACKED, SCALE.astype(np.float64))], ids=["weight", "scale"]
)
def test_other_types_are_refused(packed: np.ndarray, scale: np.ndarray) -> None:
    with pytest.raises(Exception, match=r"Type 'tensor\((int8|double)\)' of input parameter"):
        open_session(build(packed, scale))


def test_weights_that_are_no_constants_are_checked_in_each_run() -> None:
    model = build()
    del model.graph.initializer[:]
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.UINT8, ["c", "b", 1024]))
    model.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, ["n"]))
    session, x = open_session(model), rows(1, 3, K)
    (found,) = session.run(None, {"x": x, "w": PACKED, "s": SCALE})
    np.testing.assert_array_equal(found, linear_int8(x, CODES, SCALE))
    with pytest.raises(Exception, match="expected a packed weight"):
        session.run(None, {"x": x, "w": PACKED[1:], "s": SCALE})


def test_weights_stay_in_the_mapped_file(tmp_path: Path) -> None:
    packed = np.full((256, 64, 1024), 129, np.uint8)  # 16 MB
    model = build(packed, np.ones(4096, np.float32))
    assert_mapped(model, packed, tmp_path)


def test_the_library_of_operators_is_a_file() -> None:
    assert forerun.kernel_library().is_file()
