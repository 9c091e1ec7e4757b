"""Rounds that verify looked up drafts, lowered to ONNX Runtime, against the target and the drafter in PyTorch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoModelForCausalLM

from dspark_reference import Drafter, rounds
from forerun_compiler.errors import PassError
from forerun_compiler.manifest import EngineTarget, Precision
from forerun_compiler.passes.link_round import Parts, link_round
from forerun_compiler.pipeline import lower_linked
from forerun_compiler.recipe import PromptLookup
from ort_rounds import Rounds, uniforms
from tiny_pairs import pair

LOOKUP = PromptLookup(draft_len=12, match_len=2)
COUNT = 16


def linked(lookup_len: int) -> ir.Graph:
    parts = pair(lookup=LOOKUP).parts
    return link_round(Parts(parts.target, parts.drafter, parts.draft_len, lookup_len)).graph


def shapes(graph: ir.Graph) -> dict[str, list[object]]:
    values = [*graph.inputs, *graph.outputs]
    return {str(value.name): list(value.shape or []) for value in values if "." not in str(value.name)}


def test_a_round_is_as_wide_as_the_longer_of_both_drafts() -> None:
    found = shapes(linked(12))
    assert found["uniform"] == [1, 12 + 7 + 2]
    assert (found["looked_up"], found["committed"], found["draft_tokens"]) == ([1], [1, 13], [1, 7])
    assert (found["n_accepted"], found["draft_probs"], found["draft_confidence"]) == ([1], [1, 7, 272], [1, 7])


def test_a_shorter_lookup_leaves_the_shapes_as_they_are() -> None:
    found, without = shapes(linked(3)), shapes(linked(0))
    assert found.pop("looked_up") == [1]
    assert found == without
    assert (found["uniform"], found["committed"]) == ([1, 16], [1, 8])


def test_without_lookup_the_rule_for_it_is_not_there() -> None:
    ops = {node.op_type for node in ir.traversal.RecursiveGraphIterator(linked(0))}
    assert "If" in ops
    assert "OneHot" not in ops
    assert "OneHot" in {node.op_type for node in ir.traversal.RecursiveGraphIterator(linked(3))}


def test_a_gpu_s_engine_is_refused() -> None:
    with pytest.raises(PassError, match="prompt lookup is lowered for onnxruntime only; tensorrt-rtx keeps drafts"):
        lower_linked(pair(lookup=LOOKUP).linked, Precision(), EngineTarget("tensorrt-rtx", "cuda"), lambda stage: None)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rounds_of_both_kinds_equal_the_reference(temperature: float) -> None:
    """Every other round verifies what the target would say greedily, with a wrong token somewhere or nowhere."""
    made = pair(lookup=LOOKUP)
    model = AutoModelForCausalLM.from_pretrained(made.target, dtype=torch.float32).eval()
    reference, kept = Drafter(made.drafter), Counter[bool]()
    for seed, prompt in enumerate(([3, 1, 4, 1, 5], list(range(40)))):
        given: list[int] = []

        def find(index: int, tokens: list[int], given: list[int] = given) -> list[int]:
            given.clear()
            if index % 2 == 0:
                return given
            with torch.no_grad():
                text = model.generate(torch.tensor([tokens]), max_new_tokens=12, do_sample=False, pad_token_id=0)
            given += text[0, len(tokens) :].tolist()
            if index % 4 == 1:
                given[(3 * index) % len(given)] += 1
            return given

        loop = Rounds(made.engine / "round.onnx", temperature=temperature)
        numbers = uniforms(seed, COUNT, loop.k, loop.m)
        numbers[:, : loop.m] *= 0.3  # low tests keep tokens that are not all that probable
        wanted = rounds(
            model, reference, prompt, draft_len=7, temperature=temperature, uniforms=numbers.tolist(), find=find
        )
        for index, want in enumerate(wanted):
            row = numbers[index].tolist()
            if index == 0:
                got = loop.prefill(prompt, row, chunk=11)
            else:
                got = loop.step_found(given, row) if given else loop.step(row)
            assert (got.n_accepted, got.committed) == (want.n_accepted, want.committed), f"{seed=} {index=}"
            assert got.draft_tokens == want.draft_tokens, f"{seed=} {index=}"
            np.testing.assert_allclose(got.draft_confidence, want.draft_confidence, rtol=0, atol=2e-5)
            kept[want.n_accepted > 7] += bool(given)
    assert kept[True], "no round kept more tokens than the drafter drafts"
    assert kept[False]
