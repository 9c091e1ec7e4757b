"""Our attention over caches of int8 in ONNX Runtime: the dialect's codes and scales, and its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attention_nodes import INT8_TOLERANCE, C, D, G, H, expected, random_feeds, run_node

PATHS = ("", "portable")  # the best one and the one that all processors have


def forced(path: str) -> dict[str, str]:
    return {"path": path} if path else {}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_codes_and_scales_are_the_dialect_s(rows: int, path: str) -> None:
    for position in (0, 61, C - rows):
        given = random_feeds(rows, position, int8=True, seed=position)
        out, *states = run_node(given, **forced(path))
        want, *want_states = expected(given)
        np.testing.assert_allclose(out, want, rtol=0, atol=INT8_TOLERANCE)
        for found, reference in zip(states, want_states, strict=True):
            assert found.dtype == reference.dtype
            np.testing.assert_array_equal(found, reference)


def test_window_and_softcap() -> None:
    given = random_feeds(5, 90, int8=True)
    found = run_node(given, window=70, softcap=2.0)[0]
    np.testing.assert_allclose(found, expected(given, window=70, softcap=2.0)[0], rtol=0, atol=INT8_TOLERANCE)


def test_rows_together_and_alone_have_the_same_bits() -> None:
    given = random_feeds(8, 60, int8=True)
    together = run_node(given)
    states = {name: given[name] for name in ("k_cache", "v_cache", "k_scale", "v_scale")}
    for row in range(8):
        one = given | states | {"qkv": given["qkv"][:, row : row + 1], "position": np.array([60 + row])}
        out, *after = run_node(one)
        np.testing.assert_array_equal(out[0, 0], together[0][0, row])
        states = dict(zip(states, after, strict=True))
    for found, want in zip(states.values(), together[1:], strict=True):
        np.testing.assert_array_equal(found, want)


def test_a_row_that_is_not_finite_stays_alone() -> None:
    given = random_feeds(4, 9, int8=True)
    clean = run_node(given)
    given["qkv"][0, 2, -1] = np.inf  # of the last value head
    out, _, v_cache, _, v_scale = run_node(given)
    np.testing.assert_array_equal(out[0, :2], clean[0][0, :2])
    assert np.isnan(v_scale[0, G - 1, 11])
    assert not v_cache[0, G - 1, 11].any()
    assert np.isnan(out[0, 2:].reshape(2, H, D)[:, H - 1]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k_scale": np.zeros((1, G, C - 1), np.float32)}, r"expected scales \[1, 2, 150\].*found \[1, 2, 149\]"),
        ({"v_cache": np.zeros((1, G, C - 1, D), np.int8)}, r"caches \[B, 2, C, 32\]; found .* and \[1, 2, 149, 32\]"),
        ({"position": np.array([C - 1])}, "3 rows at position 149 do not fit into a cache of 150"),
    ],
)
def test_wrong_inputs_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run_node(random_feeds(3, 5, int8=True) | changed)


def test_caches_of_float32_are_refused() -> None:
    given = random_feeds(3, 5, int8=True)
    with pytest.raises(Exception, match=r"tensor\(float\).*k_cache.*is invalid"):
        run_node(given | {"k_cache": given["k_cache"].astype(np.float32)})
