"""The proof of a bundle of tables that looks up: what was tested, and what is said where nothing was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from test_prove import Tables, rewrite

import forerun
from forerun_compiler.manifest import Proof
from forerun_compiler.proof.gate_runs import Effort
from forerun_compiler.proof.lookup_gates import repeating
from forerun_compiler.proof.prove import verify_bundle
from table_bundle import TableBundle, edit_manifest, make_table_bundle

EFFORT = Effort(prompts=2, tokens=24, sampled_prompts=2, samples=300, paused_prompts=1)
PROMPTS = ("abc", "the 漢(")


@pytest.fixture
def bundle(tmp_path: Path) -> TableBundle:
    made = make_table_bundle(tmp_path / "table", lookup_len=9)
    rewrite(made.path, "".join(f'{{"prompt": "{prompt}"}}\n' for prompt in PROMPTS))
    return made


def verify(bundle: TableBundle, change: Callable[[Any], Any] = lambda engine: engine) -> Proof:
    with forerun.load(bundle.path, threads=1) as engine:
        return verify_bundle(
            bundle.path, EFFORT, lambda *step: None, lambda folder: change(engine), lambda *which: Tables(bundle)
        )


def test_a_sound_bundle_that_looks_up_is_lossless(bundle: TableBundle) -> None:
    proof = verify(bundle)
    assert (proof.lossless, proof.guarantee, proof.failures, proof.not_run) == (True, "bit-identical", (), ())
    assert (proof.lookup_prompts, proof.lookup_identical, proof.lookup_ties) == (2, 2, 0)
    assert proof.lookup_rounds >= 2
    assert proof.lookup_sampled_rounds > 100
    assert proof.chi_square_samples == 1200
    assert proof.chi_square_p is not None
    assert proof.chi_square_p > 1e-3


def test_a_graph_that_takes_what_was_looked_up_for_drawn_is_caught(bundle: TableBundle) -> None:
    """The mutant ignores the flag, in sampling: greedy text cannot show it, the samples do."""
    path = bundle.path / "round.onnx"
    model = onnx.load(path, load_external_data=False)
    where = next(node for node in model.graph.node if node.op_type == "Where" and _is_flag(model, node.input[0]))
    where.op_type = "Identity"
    del where.input[:2]
    path.write_bytes(model.SerializeToString(deterministic=True))
    edit_manifest(bundle.path, lambda manifest: None)
    proof = verify(bundle)
    assert not proof.lossless
    assert proof.lookup_identical == 2
    assert proof.chi_square_p is not None
    assert proof.chi_square_p < 1e-4


def _is_flag(model: onnx.ModelProto, name: str) -> bool:
    return any(name in node.output and "looked_up" in node.input for node in model.graph.node)


class NeverFound:
    """A real engine whose text says nothing, as it seems to the gates."""

    def __init__(self, engine: forerun.Engine) -> None:
        self.facts, self.set_costs, self.encode, self._engine = engine.facts, engine.set_costs, engine.encode, engine

    def rounds(self, prompt: Any, **request: Any) -> Any:
        return self._engine.rounds(prompt, **(request | {"lookup": False}))


def test_where_nothing_was_found_nothing_is_claimed(bundle: TableBundle) -> None:
    proof = verify(bundle, NeverFound)
    assert (proof.lossless, proof.lookup_rounds, proof.lookup_sampled_rounds) == (False, 0, 0)
    reason = "in no round was anything found in the text; use other prompts"
    assert proof.not_run == (
        f"greedy decoding with prompt lookup: {reason}",
        f"chi-square test of prompt lookup: {reason}",
    )


def test_the_prompt_for_samples_repeats_its_end_before_the_likeliest_tokens(bundle: TableBundle) -> None:
    reference = Tables(bundle)
    found = repeating(reference, (97, 98, 99), match=3, most=100)
    likeliest = np.argsort(reference.logits((97, 98, 99)))[::-1][:6].tolist()
    assert found[:3] == (97, 98, 99)
    assert found[-2:] == (98, 99)
    assert len(found) == 3 + 6 * (3 + 2)
    assert [found[place : place + 3] for place in range(1, 31, 5)] == [(98, 99, token) for token in likeliest[::-1]]
    assert found[4:6] == reference.greedy((97, 98, 99, likeliest[5]), 2)
    assert len(repeating(reference, (97,), match=3, most=20)) <= 20
    assert repeating(reference, (97,), match=1, most=2) == (97,)
