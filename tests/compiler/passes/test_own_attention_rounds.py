"""Whole rounds with our attention operators: the tokens are those of the library's, and rows are independent."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from forerun_compiler import pipeline
from forerun_compiler.engines import onnxruntime as engine
from forerun_compiler.manifest import EngineTarget, Precision
from hand_graphs import op_types
from ort_rounds import GraphRunner, Rounds, open_session
from tiny_pairs import pair

ATTENTIONS = ("CachedAttention", "BlockAttention", "GroupQueryAttention", "TensorScatter")


def lowered(folder: Path, kernels: str) -> pipeline.CompiledGraphs:
    asked = replace(EngineTarget(), kernels=kernels)
    graphs = pipeline.lower_linked(pair().linked, Precision(), asked, lambda _: None)
    folder.mkdir()
    engine.write(graphs, folder)
    return graphs


def test_greedy_tokens_of_a_pair_are_those_of_the_library_s_attention(tmp_path: Path) -> None:
    graphs = {kernels: lowered(tmp_path / kernels, kernels) for kernels in ("forerun", "stock")}
    ops = {kernels: Counter(op_types(each.round)) for kernels, each in graphs.items()}
    found = {kernels: [count[op] for op in ATTENTIONS] for kernels, count in ops.items()}
    # The target's layers, and the drafter's, whose blocks see themselves.
    assert found == {"forerun": [3, 2, 0, 0], "stock": [0, 0, 5, 4]}
    assert not ops["forerun"]["RotaryEmbedding"]
    for seed, length in enumerate((1, 20, 41)):
        prompt = np.random.default_rng(seed).integers(0, 256, length).tolist()
        texts = []
        for kernels in graphs:
            loop = Rounds(tmp_path / kernels / "round.onnx")
            result = loop.prefill(prompt, [0.5] * (2 * loop.k + 2))
            text, drafts = list(result.committed), [result.draft_tokens]
            while len(text) < 100:
                result = loop.step([0.5] * (2 * loop.k + 2))
                text += result.committed
                drafts.append(result.draft_tokens)
            texts.append((text, drafts))
        assert texts[0] == texts[1]


def test_states_of_one_row_a_run_are_those_of_many(tmp_path: Path) -> None:
    """Up to the rounding of the products between, which the library sums in another order for one row."""
    lowered(tmp_path / "own", "forerun")
    tokens = np.random.default_rng(3).integers(0, 256, 24)
    found = []
    for step in (1, 8):
        runner = GraphRunner(open_session(tmp_path / "own" / "plain.onnx"))
        for start in range(0, len(tokens), step):
            part = tokens[start : start + step]
            runner.run(
                tokens=part[None],
                n_known=np.array([len(part)]),
                position=np.array([start]),
                temperature=np.zeros(1, np.float32),
                uniform=np.zeros((1, 1), np.float32),
            )
        found.append({name: state[:, :, : len(tokens)] for name, state in runner.states.items()})
    for name, state in found[0].items():
        np.testing.assert_allclose(state, found[1][name], rtol=0, atol=2e-5, err_msg=name)
