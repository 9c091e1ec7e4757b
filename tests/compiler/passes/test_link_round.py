"""The linked round in the dialect, before any lowering, says what the lowered one says."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from forerun_compiler import dialect
from forerun_compiler.errors import PassError
from forerun_compiler.passes.link_round import link_plain, link_round
from hand_graphs import FLOAT, make_model, node
from ort_rounds import Rounds
from tiny_pairs import pair

TOLERANCE = 2e-5


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_linked_round_equals_the_lowered_one(temperature: float) -> None:
    made = pair()
    linked = link_round(made.parts)
    evaluate = dialect.Evaluator(linked)
    loop = Rounds(made.engine / "round.onnx", temperature=temperature)
    loop.prefill([3, 1, 4, 1, 5], [0.4] * 16)
    for uniform in (0.2, 0.6, 0.9):
        states = {name: state.copy() for name, state in loop.runner.states.items()}
        feeds = {
            "tokens": np.array([[loop.anchor, *loop.draft]]),
            "n_known": np.array([1]),
            "n_draft": np.array([7]),
            "position": np.array([loop.position]),
            "temperature": np.array([temperature], np.float32),
            "uniform": np.full((1, 16), uniform, np.float32),
        }
        want, got = evaluate(feeds | states), loop.step([uniform] * 16)
        assert int(want["n_accepted"][0]) == got.n_accepted
        assert want["committed"][0][: got.n_accepted + 1].tolist() == list(got.committed)
        assert tuple(want["draft_tokens"][0].tolist()) == got.draft_tokens
        np.testing.assert_allclose(want["draft_confidence"][0], got.draft_confidence, rtol=0, atol=TOLERANCE)
        for name, state in loop.runner.states.items():
            rows = state.shape[1] if name == "draft_probs" else loop.position
            axis = (slice(None), slice(None), slice(rows)) if name != "draft_probs" else (slice(None),)
            np.testing.assert_allclose(state[axis], want[f"{name}.out"][axis], rtol=0, atol=TOLERANCE, err_msg=name)


def test_linking_leaves_the_parts_and_the_order_as_they_are() -> None:
    parts = pair().parts
    before = len(list(parts.target.graph))
    first, second = (ir.to_proto(link_round(parts)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert len(list(parts.target.graph)) == before
    names = [value.name for value in link_plain(parts.target).graph.outputs]
    assert names == ["committed", *(f"target.{i}.{kind}.out" for i in range(3) for kind in "kv")]


def test_a_target_without_a_cache_is_refused() -> None:
    x = ir.val("x", FLOAT, [2])
    made = node("Neg", [x], ("y", [2]))
    with pytest.raises(PassError, match="the part 'hand' has no cache: expected an input NAME with an output NAME"):
        link_plain(make_model([x], [made], made.outputs))
