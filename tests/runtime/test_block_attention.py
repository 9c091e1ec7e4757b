"""The operator BlockAttention in ONNX Runtime: in place, any path, any cut of the context, and what it refuses."""

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
    "softcap": 0.0,
}
SHAPES: dict[str, list[int | str]] = {
    "qkv": [1, "S", (H + 2 * G) * D],
    "context_k": [1, "T", G * D],
    "context_v": [1, "T", G * D],
    "k_cache": [1, G, C, D],
    "v_cache": [1, G, C, D],
    "context_position": [1],
    "position": [1],
    "q_norm": [D],
    "k_norm": [D],
    "cos": [C, D // 2],
    "sin": [C, D // 2],
}
POSITIONS = ("context_position", "position")
TOLERANCE = 5e-6


def model(absent: tuple[str, ...] = (), shapes: dict[str, list[int | str]] | None = None, **changed: Any) -> Any:
    """One node; inputs that are absent at the end are left out."""
    shapes = SHAPES | (shapes or {})
    names = ["" if name in absent else name for name in SHAPES]
    while not names[-1]:
        names.pop()
    types = {name: TensorProto.INT64 if name in POSITIONS else TensorProto.FLOAT for name in SHAPES}
    inputs = [helper.make_tensor_value_info(n, types[n], shapes[n]) for n in names if n]
    ranks = {"out": 3, "k_cache.out": 4, "v_cache.out": 4}
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * rank) for n, rank in ranks.items()]
    attributes = ATTRIBUTES | changed
    node = helper.make_node("BlockAttention", names, list(ranks), name="layer", domain="forerun.runtime", **attributes)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("forerun.runtime", 1)]
    return helper.make_model(helper.make_graph([node], "g", inputs, outputs), opset_imports=opsets, ir_version=10)


def open_session(made: onnx.ModelProto, threads: int = 2) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(forerun.kernel_library()))
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(rows: int, context: int, start: int, kept: int, seed: int = 0) -> dict[str, Any]:
    """A block after the first `kept` of the context's rows."""
    rng = np.random.default_rng(seed)
    sizes = {"S": rows, "T": context}
    made: dict[str, Any] = {
        name: rng.standard_normal([size if isinstance(size, int) else sizes[size] for size in shape], np.float32)
        for name, shape in SHAPES.items()
    }
    return made | {"context_position": np.array([start]), "position": np.array([start + kept])}


def run(session: ort.InferenceSession, given: dict[str, Any]) -> list[np.ndarray]:
    wanted = {each.name for each in session.get_inputs()}
    return session.run(None, {name: array for name, array in given.items() if name in wanted})  # type: ignore[return-value]


def reference(given: dict[str, Any]) -> list[np.ndarray]:
    """With norms and rotation, in float64: out, and the caches as they are up to the block's end."""
    wide = {name: np.asarray(array, np.float64) for name, array in given.items()}
    start, position = (int(given[name][0]) for name in POSITIONS)
    rows, kept = given["qkv"].shape[1], position - start
    heads = wide["qkv"][0].reshape(rows, H + 2 * G, D)

    def prepared(x: np.ndarray, norm: np.ndarray, at: int) -> np.ndarray:
        cos, sin = (wide[name][at : at + len(x), None] for name in ("cos", "sin"))
        a, b = np.split(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * norm, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    keys, values = wide["k_cache"], wide["v_cache"]
    for k, v, at in (
        (wide["context_k"][0, :kept].reshape(kept, G, D), wide["context_v"][0, :kept].reshape(kept, G, D), start),
        (heads[:, H : H + G], heads[:, H + G :], position),
    ):
        keys[0, :, at : at + len(k)] = prepared(k, wide["k_norm"], at).swapaxes(0, 1)
        values[0, :, at : at + len(k)] = v.swapaxes(0, 1)
    seen, q = slice(0, position + rows), prepared(heads[:, :H], wide["q_norm"], position)
    scores = np.einsum("rhd,hkd->rhk", q, keys[0].repeat(H // G, axis=0)[:, seen]) * 0.2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("rhk,hkd->rhd", weights, values[0].repeat(H // G, axis=0)[:, seen])
    return [out.reshape(1, rows, H * D), keys, values]


def paths() -> list[str]:
    try:
        open_session(model(path="none"))
    except Exception as error:  # its own exception classes are private
        return str(error).split("it has")[1].strip(" .\n").split()
    raise AssertionError("a path that no processor has was taken")


@pytest.mark.parametrize("path", paths())
def test_a_block_and_any_part_of_its_context(path: str) -> None:
    session = open_session(model(path=path))
    for rows, context, start, kept in ((7, 8, 0, 1), (7, 8, 20, 8), (1, 1, 63, 1), (40, 30, 10, 17), (7, 3, 60, 0)):
        given = feeds(rows, context, start, kept)
        for found, expected in zip(run(session, given), reference(given), strict=True):
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE, err_msg=f"{rows=} {context=} {kept=}")


def test_caches_are_written_in_place_and_rows_of_the_context_after_the_block_s_position_are_not_read() -> None:
    given = feeds(7, 9, 30, 4)
    expected = run(session := open_session(model()), given)
    given["context_k"][:, 4:] = given["context_v"][:, 4:] = np.nan
    binding, outputs = session.io_binding(), ("out", "k_cache.out", "v_cache.out")
    for name, array in given.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output("out")
    for name in outputs[1:]:
        array = given[name.removesuffix(".out")]
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    for found, want in zip(
        (binding.copy_outputs_to_cpu()[0], given["k_cache"], given["v_cache"]), expected, strict=True
    ):
        np.testing.assert_array_equal(found, want)


def test_bits_depend_on_neither_threads_nor_the_context_s_cut() -> None:
    given = feeds(20, 12, 50, 12)
    whole = [run(open_session(model(), threads), given) for threads in (1, 2, 3)]
    session = open_session(model())
    first = run(session, given | {"position": np.array([55])})
    rest = {name: given[name][:, 5:] for name in ("context_k", "context_v")}
    rest |= {"k_cache": first[1], "v_cache": first[2], "context_position": np.array([55])}
    for each in (whole[1], whole[2], run(session, given | rest)):
        for found, expected in zip(each, whole[0], strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("absent", [("cos", "sin"), ("q_norm", "k_norm"), ("q_norm", "k_norm", "cos", "sin")], ids=str)
def test_optional_inputs(absent: tuple[str, ...]) -> None:
    given = feeds(3, 4, 6, 2)
    unit = {"cos": np.ones((C, D // 2), np.float32), "sin": np.zeros((C, D // 2), np.float32)}
    if "q_norm" in absent:  # rows whose norm is one already
        for name, normed in (("qkv", H + G), ("context_k", G)):
            rows = given[name].reshape(-1, given[name].shape[2] // D, D)
            rows[:, :normed] /= np.sqrt((rows[:, :normed] ** 2).mean(-1, keepdims=True))
        unit |= {"q_norm": np.ones(D, np.float32), "k_norm": np.ones(D, np.float32)}
    expected = reference(given | {name: unit[name] for name in absent})
    for found, want in zip(run(open_session(model(absent)), given), expected, strict=True):
        np.testing.assert_allclose(found, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("shapes", "changed", "message"),
    [
        ({}, {"position": np.array([C - 2])}, "3 rows at position 98 do not fit into a cache of 100"),
        (
            {},
            {"position": np.array([10])},
            "the 4 rows of the context at position 5 or at their end; found it at position 10",
        ),
        (
            {},
            {"position": np.array([4])},
            "the 4 rows of the context at position 5 or at their end; found it at position 4",
        ),
        ({}, {"context_position": np.array([-1])}, "of the context at position -1"),
        ({"context_position": [2]}, {"context_position": np.array([5, 5])}, r"context_position \[1\]; found \[2\]"),
        ({"context_v": [1, 3, G * D]}, {"context_v": np.zeros((1, 3, G * D), np.float32)}, r"and \[1, 3, 64\]"),
        ({"context_k": [1, "T", D]}, {"context_k": np.zeros((1, 4, D), np.float32)}, r"\[B, N, 64\]; found \[1, 4, 32"),
        ({"k_norm": [D + 1]}, {"k_norm": np.zeros(D + 1, np.float32)}, r"expected norms \[32\]; found \[33\]"),
        ({"cos": [9, 16], "sin": [9, 16]}, {n: np.zeros((9, 16), np.float32) for n in ("cos", "sin")}, "at least 10"),
    ],
)
def test_wrong_inputs_are_refused(shapes: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        run(open_session(model(shapes=shapes)), feeds(3, 4, 5, 2) | changed)


def test_wrong_attributes_are_refused() -> None:
    with pytest.raises(Exception, match="BlockAttention layer: expected num_heads a multiple of kv_num_heads"):
        open_session(model(num_heads=3))
