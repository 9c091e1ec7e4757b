"""The operator CachedAttention in ONNX Runtime: in place, any path, the same bits for a row, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import forerun

H, G, D, C = 4, 2, 32, 100
ATTRIBUTES: dict[str, Any] = {
    "num_heads": H,
    "kv_num_heads": G,
    "head_dim": D,
    "scale": 0.2,
    "epsilon": 1e-6,
    "window": 0,
    "softcap": 0.0,
    "causal": 1,
}
SHAPES: dict[str, list[int | str]] = {
    "qkv": [1, "T", (H + 2 * G) * D],
    "k_cache": [1, G, C, D],
    "v_cache": [1, G, C, D],
    "position": [1],
    "q_norm": [D],
    "k_norm": [D],
    "cos": [C, D // 2],
    "sin": [C, D // 2],
}


def model(absent: tuple[str, ...] = (), shapes: dict[str, list[int | str]] | None = None, **changed: Any) -> Any:
    """One node; inputs that are absent at the end are left out."""
    shapes = SHAPES | (shapes or {})
    names = ["" if name in absent else name for name in SHAPES]
    while not names[-1]:
        names.pop()
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.INT64 if n == "position" else TensorProto.FLOAT, shapes[n])
        for n in names
        if n
    ]
    sizes = {"out": [1, "T", H * D], "k_cache.out": shapes["k_cache"], "v_cache.out": shapes["v_cache"]}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * len(shape)) for n, shape in sizes.items()]
    attributes = ATTRIBUTES | changed
    node = helper.make_node("CachedAttention", names, list(sizes), name="layer", domain="forerun.runtime", **attributes)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
    return helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets, ir_version=10)


def open_session(made: onnx.ModelProto, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(rows: int, position: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {
        name: rng.standard_normal([rows if size == "T" else size for size in shape], np.float32)
        for name, shape in SHAPES.items()
    }
    made["position"] = np.array([position])
    return made


def run(session: ort.InferenceSession, given: dict[str, Any]) -> list[np.ndarray]:
    wanted = {each.name for each in session.get_inputs()}
    return session.run(None, {name: array for name, array in given.items() if name in wanted})  # type: ignore[return-value]


def reference(given: dict[str, Any], rows: int) -> np.ndarray:
    """With norms and rotation, in float64."""
    wide = {name: np.asarray(array, np.float64) for name, array in given.items()}
    start = int(given["position"][0])
    heads = wide["qkv"][0].reshape(rows, H + 2 * G, D)
    cos, sin = (wide[name][start : start + rows, None] for name in ("cos", "sin"))

    def prepared(x: np.ndarray, norm: np.ndarray) -> np.ndarray:
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    q, k = prepared(heads[:, :H], wide["q_norm"]), prepared(heads[:, H : H + G], wide["k_norm"])
    keys, values = wide["k_cache"][0], wide["v_cache"][0]
    keys[:, start : start + rows], values[:, start : start + rows] = k.swapaxes(0, 1), heads[:, H + G :].swapaxes(0, 1)
    out = np.empty((rows, H, D))
    for row in range(rows):
        for head in range(H):
            seen = slice(0, start + row + 1)
            scores = keys[head * G // H, seen] @ q[row, head] * 0.2
            weights = np.exp(scores - scores.max())
            out[row, head] = weights / weights.sum() @ values[head * G // H, seen]
    return out.reshape(1, rows, H * D)


def paths() -> list[str]:
    try:
        open_session(model(path="none"))
    except Exception as error:  # its own exception classes are private
        return str(error).split("it has")[1].strip(" .\n").split()
    raise AssertionError("a path that no processor has was taken")


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_every_path(path: str, rows: int) -> None:
    session = open_session(model(path=path))
    for position in (0, 13, C - rows):
        given = feeds(rows, position)
        got, k, v = run(session, given)
        np.testing.assert_allclose(got, reference(given, rows), rtol=0, atol=5e-6)
        kept = np.r_[0:position, position + rows : C]
        np.testing.assert_array_equal(k[:, :, kept], given["k_cache"][:, :, kept])
        np.testing.assert_array_equal(v[:, :, kept], given["v_cache"][:, :, kept])


@pytest.mark.parametrize("threads", [1, 3])
def test_in_place_and_alone_is_copied_and_together(threads: int) -> None:
    session, together = open_session(model(), threads), feeds(8, 60)
    want = run(session, together)
    states = {name: together[name].copy() for name in ("k_cache", "v_cache")}
    for row in range(8):
        binding = session.io_binding()
        alone = together | states | {"qkv": together["qkv"][:, row : row + 1], "position": np.array([60 + row])}
        for name, array in alone.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array) if name == "qkv" else array)
        binding.bind_output("out")
        for name, array in states.items():
            binding.bind_output(f"{name}.out", "cpu", 0, np.float32, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.get_outputs()[0].numpy()[0, 0], want[0][0, row])
    np.testing.assert_array_equal(states["k_cache"], want[1])
    np.testing.assert_array_equal(states["v_cache"], want[2])


@pytest.mark.parametrize(
    "absent",
    [("q_norm", "k_norm"), ("cos", "sin"), ("q_norm", "k_norm", "cos", "sin"), ("q_norm",)],
    ids=str,
)
def test_what_is_absent_is_not_done(absent: tuple[str, ...]) -> None:
    given = feeds(3, 5)
    unit = {"cos": np.ones_like(given["cos"]), "sin": np.zeros_like(given["sin"])}
    if {"q_norm", "k_norm"} <= set(absent):  # heads of mean square 1: a norm of ones changes nothing
        rows = given["qkv"].reshape(3, -1, D)
        given["qkv"] = (rows / np.sqrt((rows**2).mean(-1, keepdims=True))).reshape(1, 3, -1)
        unit |= {"q_norm": np.ones(D, np.float32), "k_norm": np.ones(D, np.float32)}
    elif "q_norm" in absent:
        rows = given["qkv"].reshape(3, -1, D)
        rows[:, :H] /= np.sqrt((rows[:, :H] ** 2).mean(-1, keepdims=True))
        unit |= {"q_norm": np.ones(D, np.float32)}
    got = run(open_session(model(absent)), given)
    want = given | {name: unit[name] for name in absent}
    np.testing.assert_allclose(got[0], reference(want, 3), rtol=0, atol=5e-6)


def test_a_row_of_nans_stays_alone() -> None:
    session, given = open_session(model()), feeds(4, 9)
    clean = run(session, given)[0]
    given["qkv"][0, 2] = np.nan
    found = run(session, given)[0]
    np.testing.assert_array_equal(found[0, :2], clean[0, :2])
    assert np.isnan(found[0, 2:]).all()


def test_no_rows() -> None:
    out, k, _ = run(open_session(model()), given := feeds(0, 5))
    assert out.shape == (1, 0, H * D)
    np.testing.assert_array_equal(k, given["k_cache"])


@pytest.mark.parametrize(
    ("shapes", "changed", "message"),
    [
        ({}, {"position": np.array([C - 2])}, "3 rows at position 98 do not fit into a cache of 100"),
        ({}, {"position": np.array([-1])}, "3 rows at position -1 do not fit"),
        ({"qkv": [1, "T", 200]}, {"qkv": np.zeros((1, 3, 200), np.float32)}, r"expected qkv \[B, T, 256\]"),
        ({"k_cache": [1, G, 7, D]}, {"k_cache": np.zeros((1, G, 7, D), np.float32)}, r"\[1, 2, 7, 32\]"),
        ({"position": [2]}, {"position": np.array([1, 2])}, r"expected position \[1\]; found \[2\]"),
        ({"q_norm": [D + 1]}, {"q_norm": np.zeros(D + 1, np.float32)}, r"expected norms \[32\]; found \[33\]"),
        ({"cos": [C, D]}, {"cos": np.zeros((C, D), np.float32)}, r"at most 16\]; found \[100, 32\]"),
        ({"sin": [C, 3]}, {"sin": np.zeros((C, 3), np.float32)}, r"found \[100, 16\] and \[100, 3\]"),
        ({"cos": [5, 16], "sin": [5, 16]}, {n: np.zeros((5, 16), np.float32) for n in ("cos", "sin")}, "at least 8"),
    ],
)
def test_wrong_inputs_are_refused(shapes: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(open_session(model(shapes=shapes)), feeds(3, 5) | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"num_heads": 3},
        {"kv_num_heads": 0},
        {"head_dim": 24},
        {"head_dim": 272},
        {"softcap": -1.0},
        {"softcap": float("nan")},
        {"scale": float("inf")},
        {"epsilon": -1.0},
    ],
    ids=str,
)
def test_wrong_attributes_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="CachedAttention layer: expected num_heads a multiple of kv_num_heads"):
        open_session(model(**changed))


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(Exception, match="CachedAttention layer: expected a window of at least 0; found -1"):
        open_session(model(window=-1))
