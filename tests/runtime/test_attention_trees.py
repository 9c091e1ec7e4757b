"""Rows that are nodes of a tree, and ragged batches, in ONNX Runtime: the dialect's numbers, each chain's own bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention_nodes import INT8_TOLERANCE, TOLERANCE, C, D, H, expected, random_feeds, run_node
from forerun_compiler import dialect

TREE = np.array([[-1, 0, 1, 1, 2, 3, 3, 0, 7, 1]])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("attributes", [{}, {"window": 5}, {"window": 66, "softcap": 2.0}], ids=str)
def test_a_tree(int8: bool, attributes: dict[str, Any]) -> None:
    for position in (0, 3, 58, 64, C - 10):
        given = random_feeds(10, position, int8=int8, seed=position) | {"parents": TREE}
        found, want = run_node(given, **attributes), expected(given, **attributes)
        np.testing.assert_allclose(found[0], want[0], rtol=0, atol=INT8_TOLERANCE if int8 else TOLERANCE)
        for state, reference in zip(found[1:], want[1:], strict=True):
            np.testing.assert_array_equal(state, reference)


@pytest.mark.parametrize("int8", [False, True])
def test_a_node_has_the_bits_of_its_chain_alone(int8: bool) -> None:
    """With rotation: a node's position is that of its chain."""
    angles = np.random.default_rng(1).uniform(0, 7, (C, D // 2))
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    given = random_feeds(10, 60, int8=int8) | tables
    together = run_node(given | {"parents": TREE})[0]
    for node in range(10):
        chain = [node]
        while TREE[0, chain[0]] >= 0:
            chain.insert(0, TREE[0, chain[0]])
        alone = run_node(given | {"qkv": given["qkv"][:, chain]})[0]
        np.testing.assert_array_equal(together[0, node], alone[0, -1])


def test_a_chain_is_causal() -> None:
    given = random_feeds(200 - 60, 5)
    chain = given | {"parents": np.arange(140)[None] - 1}
    for found, want in zip(run_node(chain), run_node(given), strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_ragged_batch(int8: bool, threads: int) -> None:
    given = random_feeds(10, 3, 120, 64, 77, int8=int8) | {"rows": np.array([10, 1, 0, 7])}
    given["parents"] = np.concatenate([TREE, np.arange(10)[None] - 1, TREE, TREE])
    found, want = run_node(given, threads), expected(given)
    np.testing.assert_allclose(found[0], want[0], rtol=0, atol=INT8_TOLERANCE if int8 else TOLERANCE)
    for state, reference in zip(found[1:], want[1:], strict=True):
        np.testing.assert_array_equal(state, reference)
    for b, rows in enumerate(given["rows"]):
        one = {name: array[b : b + 1] for name, array in given.items() if name != "rows"}
        one |= {name: one[name][:, :rows] for name in ("qkv", "parents")}
        alone = run_node(one)
        np.testing.assert_array_equal(found[0][b, :rows], alone[0][0])
        assert not found[0][b, rows:].any()
        for state, reference in zip(found[1:], alone[1:], strict=True):
            np.testing.assert_array_equal(state[b : b + 1], reference)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parents": np.array([[-1, 1, 1]])}, "expected a parent of -1 to 0; found 1 of row 1"),
        ({"parents": np.array([[-2, 0, 1]])}, "expected a parent of -1 to -1; found -2 of row 0"),
        ({"parents": np.array([[-1, 0]])}, r"causal 1 and parents \[1, 3\]; found 1 and \[1, 2\]"),
        ({"rows": np.array([4])}, "expected rows of 0 to 3; found 4 in sequence 0"),
        ({"rows": np.array([1, 1])}, r"expected rows \[1\]; found \[2\]"),
        ({"position": np.array([1, 1])}, r"expected position \[1\]; found \[2\]"),
    ],
)
def test_wrong_inputs_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run_node(random_feeds(3, 5) | changed)


def test_a_tree_without_a_causal_mask_and_one_too_large_are_refused() -> None:
    with pytest.raises(Exception, match=r"expected causal 1 and parents \[1, 10\]; found 0"):
        run_node(random_feeds(10, 5) | {"parents": TREE}, causal=0)
    with pytest.raises(Exception, match="expected at most 128 rows that are no chain; found 130"):
        run_node(random_feeds(130, 5) | {"parents": np.full((1, 130), -1)})


def test_rows_beyond_those_that_are_there_may_lie_beyond_the_cache() -> None:
    given = random_feeds(8, C - 2) | {"rows": np.array([2])}
    out, k_cache, _ = run_node(given)
    assert out.shape == (1, 8, H * D)
    np.testing.assert_array_equal(k_cache, expected(given)[1])


def test_depths() -> None:
    np.testing.assert_array_equal(dialect.tree_depth(TREE), [[0, 1, 2, 2, 3, 3, 3, 1, 2, 2]])
