"""Rotary tables: what the model's own code computes, exactly; and frequencies that depend on the length are refused."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from forerun_compiler import rope
from forerun_compiler.errors import TraceError

ROWS = 40
LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 3.0, 4.0, 9.0],
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        ("qwen3", {}),
        ("qwen3", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}),
        ("phi3", {"rope_parameters": {**LONG, "partial_rotary_factor": 0.5}}),
        ("gpt_neox", {}),
    ],
)
def test_tables_equal_the_models_own(architecture: str, overrides: dict[str, object]) -> None:
    model = tiny_models.make_model(architecture, **overrides)
    rotary = next(m for name, m in model.named_modules() if name.endswith("rotary_emb"))
    positions = torch.tensor([[0, 7, 7, ROWS - 1]])
    expected = rotary(torch.zeros(1), positions)
    with rope.tabulated(model, ROWS):
        found = rotary(torch.zeros(1), positions)
        assert dict(rotary.named_buffers())["cos"].shape[0] == ROWS
    for table, own in zip(found, expected, strict=True):
        torch.testing.assert_close(table, own, rtol=0, atol=0)
    assert "cos" not in dict(rotary.named_buffers())
    assert "forward" not in vars(rotary)


def test_layer_types_get_their_own_tables() -> None:
    model = tiny_models.make_model("gemma3_text")
    rotary = model.model.rotary_emb
    positions = torch.tensor([[3, 9]])
    expected = [rotary(torch.zeros(1), positions, kind) for kind in ("full_attention", "sliding_attention")]
    with rope.tabulated(model, ROWS):
        found = [rotary(torch.zeros(1), positions, kind) for kind in ("full_attention", "sliding_attention")]
    for pair, own in zip(found, expected, strict=True):
        torch.testing.assert_close(pair, own, rtol=0, atol=0)
    assert not torch.equal(found[0][0], found[1][0])


@pytest.mark.parametrize(
    ("architecture", "parameters", "overrides", "limit"),
    [
        ("phi3", {**LONG, "partial_rotary_factor": 0.5}, {"original_max_position_embeddings": 64}, 64),
        ("llama", {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}, {}, 256),
    ],
)
def test_frequencies_that_change_are_refused(architecture, parameters, overrides, limit: int) -> None:
    model = tiny_models.make_model(architecture, rope_parameters=parameters, **overrides)
    rows = limit + 1
    message = f"{architecture}: its {parameters['rope_type']} rotary embedding over {rows} cache rows cannot be traced"
    with pytest.raises(TraceError, match=f"{message}.*at most {limit} rows"), rope.tabulated(model, rows):
        pass
    with rope.tabulated(model, limit):
        pass
