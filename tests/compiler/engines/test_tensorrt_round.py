"""Real engines of the fused round and of plain decoding, as the pipeline lowers a tiny pair."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir
import pytest

from forerun_compiler.dialect import Linear
from forerun_compiler.engines.plan_reader import ProfileFacts
from forerun_compiler.engines.tensorrt import (
    BuiltEngines,
    EngineRequest,
    GraphBuild,
    build_engines,
    write_for_tensorrt,
)
from forerun_compiler.manifest import ComputeType, EngineTarget, Precision
from forerun_compiler.passes.name_products import products
from forerun_compiler.pipeline import lower_linked
from forerun_compiler.schemes import TENSORRT_RTX
from tiny_pairs import PREFILL_CHUNK, pair

pytestmark = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed")

TARGETS = {
    ("float16", "float32"): ("8.0", "8.9", "12.0"),
    ("bfloat16", "float32"): ("8.0",),
    ("float16", "fp8"): ("8.9", "12.0"),
    ("float16", "nvfp4"): ("12.0",),
    ("float16", "int8-static"): ("8.6",),
}
WIDTHS = (2, 8)
QUANTIZED = {"fp8": "fp8", "nvfp4": "fp4", "int8-static": "int8"}
_kept: list[tempfile.TemporaryDirectory[str]] = []


def build(dtype: ComputeType, scheme: str) -> tuple[Path, BuiltEngines]:
    """Lower and build both graphs of a tiny pair in a new folder."""
    linked = pair(head_dim=32).linked
    linked = replace(linked, facts=replace(linked.facts, verify_widths=WIDTHS))
    capabilities = TARGETS[dtype, scheme]
    engine = EngineTarget(TENSORRT_RTX, "cuda", compute_capability=capabilities, dtype=dtype)
    graphs = lower_linked(
        linked, Precision(scheme, scheme, scheme, scheme), engine, lambda _: None, set_ranges=_set_ranges
    )
    _kept.append(tempfile.TemporaryDirectory(prefix="forerun-engine-"))
    folder = Path(_kept[-1].name)
    write_for_tensorrt({"round": graphs.round, "plain": graphs.plain}, folder)
    widths = {"round": (*reversed(WIDTHS), PREFILL_CHUNK), "plain": (1, PREFILL_CHUNK)}
    builds = tuple(GraphBuild(name, folder / f"{name}.onnx", found) for name, found in widths.items())
    return folder, build_engines(EngineRequest(TENSORRT_RTX, capabilities, builds), folder, lambda *_: None)


built = functools.cache(build)


def _set_ranges(model: ir.Model) -> None:
    for node in products(model):
        Linear.from_node(node)
        node.attributes["x_max"] = ir.AttrFloat32("x_max", 8.0)


def profiles(engines: BuiltEngines, graph: str) -> tuple[ProfileFacts, ...]:
    found = engines.graphs[graph].facts.profiles
    assert found is not None
    return found


@pytest.mark.parametrize(("dtype", "scheme"), TARGETS)
def test_both_graphs_become_engines_that_a_cuda_graph_can_hold(dtype: ComputeType, scheme: str) -> None:
    folder, engines = built(dtype, scheme)
    assert engines.compute_capability == TARGETS[dtype, scheme]
    for graph in ("round", "plain"):
        *decoding, prefill = profiles(engines, graph)
        assert len(decoding) == (len(WIDTHS) if graph == "round" else 1)
        states = [name for name in prefill.inputs if f"{name}.out" in prefill.outputs]
        assert len(states) == (11 if graph == "round" else 6)  # three target layers, two of the drafter, draft_probs
        for profile in (*decoding, prefill):
            assert list(profile.aliased) == states
            assert profile.capturable
        caches = [name for name in states if name != "draft_probs"]
        for profile in decoding:
            assert profile.copies == ()
            assert list(profile.attended) == caches
        assert (folder / f"{graph}.engine").stat().st_size == engines.graphs[graph].facts.size


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_all_layers_of_target_and_drafter_are_quantized_products(scheme: str) -> None:
    _, engines = built("float16", scheme)
    # Of each layer: Q, K and V as one product, the output, gate and up as one, down; then the LM head.
    target, drafter = 4 * 3 + 1, 4 * 2 + 1
    (plain, *_), (fused, *_) = profiles(engines, "plain"), profiles(engines, "round")
    assert plain.products_by_operands()[QUANTIZED[scheme]] == target
    # Keys and values of the drafter's context are a product of their own in each layer.
    assert fused.products_by_operands()[QUANTIZED[scheme]] >= target + drafter
    # `fc` reads the target's features, which float16 cannot hold.
    assert fused.products_by_operands()["float32"] == 1


def test_two_builds_of_the_round_give_the_same_bytes() -> None:
    # Both from one environment: its length moves the builder's memory, on which the library's order depends.
    (one, _), (two, _) = build("float16", "fp8"), build("float16", "fp8")
    assert one != two
    if "does not let addresses be fixed" in (one / "build.log").read_text():
        pytest.skip("this system does not let a process fix its addresses, on which the library's order depends")
    for name in ("round.engine", "plain.engine", "build.log", "weights.bin"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
