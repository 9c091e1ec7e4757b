"""The operator DecoderLayer: the bits of its parts at any width and on any threads, caches in place, refusals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

import forerun
from forerun_compiler.passes.fuse_layer import fuse_layer
from hand_graphs import constant
from layer_graphs import Array, C, E, assert_same_bits, feeds_for, layer_model, run_on

PRECISIONS = (("int4",) * 4, ("int8",) * 4, ("int4", "int8", "int4", "int8"))


def fused(**settings: object) -> tuple[ir.Model, ir.Model]:
    """A layer as its parts and as one node."""
    chain = layer_model(**settings)  # type: ignore[arg-type]
    model = chain.clone()
    assert fuse_layer(model) == 1
    return chain, model


@pytest.mark.parametrize("int8_caches", [False, True])
@pytest.mark.parametrize("precisions", PRECISIONS)
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 8, 17])
def test_the_bits_of_the_parts(rows: int, precisions: tuple[str, ...], int8_caches: bool) -> None:
    chain, model = fused(precisions=precisions, int8_caches=int8_caches)
    feeds = feeds_for(chain, rows)
    expected = run_on(chain, feeds, threads=1)
    for threads in (1, 2, 3):
        assert_same_bits(run_on(model, feeds, threads), expected)


def test_rows_of_a_tree() -> None:
    chain, model = fused(tree=True, int8_caches=True)
    feeds = feeds_for(chain, 9)
    assert_same_bits(run_on(model, feeds), run_on(chain, feeds))


def test_a_row_has_the_same_bits_at_any_width() -> None:
    _, model = fused()
    feeds = feeds_for(model, 6)
    together = run_on(model, feeds)["y"]
    states = {name: feeds[name] for name in ("k", "v")}
    for row in range(6):
        alone = run_on(model, {"x": feeds["x"][:, row : row + 1], "position": feeds["position"] + row, **states})
        np.testing.assert_array_equal(alone["y"][0, 0], together[0, row])
        states = {name: alone[f"{name}.out"] for name in ("k", "v")}


def test_caches_are_written_in_place() -> None:
    _, model = fused(int8_caches=True)
    feeds = feeds_for(model, 2)
    expected = run_on(model, feeds)
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(forerun.kernel_library()))
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for output in session.get_outputs():
        if output.name == "y":
            binding.bind_output("y", "cpu")
        else:
            binding.bind_ortvalue_output(output.name, values[output.name.removesuffix(".out")])
    session.run_with_iobinding(binding)
    found = {
        output.name: value.numpy() for output, value in zip(session.get_outputs(), binding.get_outputs(), strict=True)
    }
    assert_same_bits(found, expected)


def refused(model: ir.Model, **changed: Array) -> str:
    # In our words, which name the part that refuses.
    said = r"(DecoderLayer|CachedAttention|(Gated)?LinearInt\d) .*y\.node\.layer"
    with pytest.raises(Exception, match=said) as failure:
        run_on(model, feeds_for(model, 2) | changed)
    return str(failure.value)


def test_rows_that_do_not_fit_are_refused() -> None:
    _, model = fused()
    message = refused(model, position=np.array([C - 1]))
    assert f"2 rows at position {C - 1} do not fit into a cache of {C}" in message


def set_attribute(name: str, value: int) -> Callable[[ir.Node], None]:
    def change(node: ir.Node) -> None:
        node.attributes[name] = ir.AttrInt64(name, value)

    return change


def drop(name: str) -> Callable[[ir.Node], None]:
    return lambda node: node.attributes.pop(name) and None


def swap_scales(node: ir.Node) -> None:
    """The scales of int8 in the place of those of int4."""
    node.replace_input_with(2, other := constant("float", np.ones(128, np.float32)))
    assert isinstance(node.graph, ir.Graph)
    node.graph.register_initializer(other)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_attribute("qkv_group_size", 48), "expected the attributes qkv_group_size, of 32, 64 or 128"),
        (set_attribute("down_outputs", E - 16), "down of y.node.layer: for x [..., 1024]"),
        (set_attribute("num_heads", 3), "expected num_heads a multiple of kv_num_heads"),
        (set_attribute("num_heads", 6), "expected qkv [B, T, 160]"),
        (drop("gate_epsilon"), "a norm needs the attribute epsilon"),
        (drop("output_group_size"), "LinearInt8 output of y.node.layer: expected scales of ONNX's type 1; found 16"),
        (swap_scales, "LinearInt4 qkv of y.node.layer: expected scales of ONNX's type 16; found 1"),
    ],
)
def test_what_does_not_fit_is_refused(change: Callable[[ir.Node], None], expected: str) -> None:
    _, model = fused()
    change(model.graph[0])
    assert expected in refused(model)
