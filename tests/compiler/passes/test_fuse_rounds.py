"""Whole graphs at int8 and int4 with all fusions: what is left, its numbers, rows of the same bits at any width."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.passes.assign_precision import assign_precision
from forerun_compiler.passes.fuse_layer import split_layers
from forerun_compiler.passes.lower_ort import lower_ort, passes_for
from forerun_compiler.pipeline import CompiledGraphs
from ort_rounds import Array, GraphRunner, open_session
from tiny_pairs import pair

TOLERANCE = 0.01
"""Of the largest number of a cache. A norm's sum is rounded in another order: a code may round to the other side."""
TOKENS = 24
PASSES = passes_for(EngineTarget())
SCHEMES = {"int8": "LinearInt8", "int4-group32": "LinearInt4"}
WITHOUT = tuple(step for step in PASSES if not step.name.startswith("fuse "))


@pytest.fixture(scope="module", params=SCHEMES)
def folders(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[bool, Path]:
    """Both graphs, fused and not."""
    folder = tmp_path_factory.mktemp
    return {fused: written(folder("graphs"), fused, request.param)[0] for fused in (True, False)}


def written(folder: Path, fused: bool, scheme: str) -> tuple[Path, CompiledGraphs]:
    linked = pair().linked
    graphs = linked.round.clone(), linked.plain.clone()
    for graph in graphs:
        assign_precision(graph, Precision(scheme, scheme, scheme, scheme))
        lower_ort(graph, PASSES if fused else WITHOUT)
    compiled = CompiledGraphs(*graphs, linked.facts)
    engine.write(compiled, folder)
    return folder, compiled


def caches(file: Path, tokens: Array, step: int) -> dict[str, Array]:
    """What the tokens leave in the caches, `step` of them a run."""
    runner = GraphRunner(open_session(file))
    inputs = {each.name: each for each in runner.session.get_inputs()}
    for start in range(0, len(tokens), step):
        part = tokens[start : start + step]
        feeds = {"tokens": part[None], "n_known": np.array([len(part)]), "position": np.array([start])}
        feeds["temperature"] = np.zeros(1, np.float32)
        feeds["uniform"] = np.zeros(inputs["uniform"].shape, np.float32)
        if "n_draft" in inputs:
            feeds["n_draft"] = np.zeros(1, np.int64)
        runner.run(**feeds)
    return {name: state[:, :, : len(tokens)] for name, state in runner.states.items() if name != "draft_probs"}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_of_plain_decoding_is_little_but_products_and_attention(tmp_path: Path, scheme: str) -> None:
    _, graphs = written(tmp_path, True, scheme)
    layers = [node.op_type for node in graphs.plain.graph]
    assert layers.count("DecoderLayer") == split_layers(graphs.plain) == 3
    ops = Counter(node.op_type for node in graphs.plain.graph.all_nodes())
    # A layer: q, k and v; o; gate and up; down. At the end the LM head.
    product = SCHEMES[scheme]
    assert (ops[product], ops[f"Gated{product}"], ops["CachedAttention"]) == (3 * 3 + 1, 3, 3)
    assert ops["RMSNormalization"] == 1  # the last one: of its rows some are chosen
    assert not ops.keys() & {"Add", "Split", "Sigmoid"}


@pytest.mark.parametrize("graph", ["round.onnx", "plain.onnx"])
def test_the_numbers_stay(folders: dict[bool, Path], graph: str) -> None:
    for seed in range(3):
        tokens = np.random.default_rng(seed).integers(0, 256, TOKENS)
        fused, apart = (caches(folders[kind] / graph, tokens, TOKENS) for kind in (True, False))
        assert len(fused) == (10 if graph == "round.onnx" else 6)
        for name, state in apart.items():
            np.testing.assert_allclose(fused[name], state, rtol=0, atol=TOLERANCE * np.abs(state).max(), err_msg=name)


def test_a_row_has_the_same_bits_at_any_width(folders: dict[bool, Path]) -> None:
    tokens = np.random.default_rng(3).integers(0, 256, TOKENS)
    alone = caches(folders[True] / "plain.onnx", tokens, 1)
    for step in (5, 8, TOKENS):
        for name, state in caches(folders[True] / "plain.onnx", tokens, step).items():
            np.testing.assert_array_equal(state, alone[name], f"{name}, {step} rows a run")
