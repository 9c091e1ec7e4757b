"""What arrives at the interface and is not known is refused; masks are checked as functions, not by their names."""

from __future__ import annotations

import pytest
import torch
from transformers import masking_utils
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from forerun_compiler import interface
from forerun_compiler.errors import TraceError


class Attention(torch.nn.Module):
    layer_idx = 1


def call(module: torch.nn.Module | None = None, **changes: object):
    inputs = {
        "query": torch.ones(1, 4, 2, 8),
        "key": torch.ones(1, 2, 2, 8),
        "value": torch.ones(1, 2, 2, 8),
        "attention_mask": interface.MaskRule(3),
        interface.CACHES: interface.LayerCaches("tiny", torch.tensor([4]), 16, 2 * (2 * (torch.zeros(1, 2, 16, 8),),)),
    }
    return interface.attention(module or Attention(), **{**inputs, **changes}), inputs[interface.CACHES]


def test_known_arguments_become_attributes() -> None:
    (out, _), caches = call(scaling=0.5, sliding_window=3, softcap=2.0, position_ids=torch.ones(1), use_cache=False)
    assert out.shape == (1, 2, 4, 8)
    op = caches.attributes[1]
    assert (op.scale, op.mask, op.window, op.softcap) == (0.5, "causal", 3, 2.0)
    assert caches.written[1][0][0, 0, :, 0].tolist() == [0.0] * 4 + [1.0] * 2 + [0.0] * 10


def test_a_probe_asks_for_shapes_only() -> None:
    caches = interface.LayerCaches("tiny", torch.tensor([4]), 16)
    (out, _), _ = call(**{interface.CACHES: caches})
    assert (out.shape, int(out.count_nonzero())) == ((1, 2, 4, 8), 0)
    assert [cache.shape for cache in caches.written[1]] == 2 * [(1, 2, 16, 8)]


def test_scale_defaults_to_the_head_dim() -> None:
    assert call()[1].attributes[1].scale == 8**-0.5


class Bidirectional(Attention):
    is_causal = False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s_aux": torch.ones(4)}, "tiny: the attention of layer 1 with s_aux cannot be traced: attention sinks are"),
        ({"position_bias": torch.ones(4)}, "with position_bias cannot be traced: a bias on the scores"),
        ({"novelty": 3}, "with novelty cannot be traced: forerun does not know this argument"),
        ({"dropout": 0.1}, "dropout is 0.1; the model must be in eval mode"),
        ({"is_causal": False}, r"it is not causal \(is_causal is False\)"),
        ({"module": Bidirectional()}, r"it is not causal \(is_causal is False\)"),
        ({"module": torch.nn.Identity()}, "tiny: the attention Identity cannot be traced: it has no layer_idx"),
        ({"attention_mask": None}, "it got no mask, so the model does not make its mask through the mask interface"),
        ({"attention_mask": torch.ones(1)}, "it got a mask of type Tensor"),
        ({"sliding_window": 4}, "its sliding window is 4, but its mask has 3"),
        ({"attention_mask": interface.MaskRule(0), "sliding_window": 4}, "is 4, but its mask has none"),
        ({"value": torch.ones(1, 2, 2, 4)}, "keys 1x2x2x8 and values 1x2x2x4 differ in shape"),
        ({interface.CACHES: None}, "Attention: its attention cannot be traced: the model does not hand its keyword"),
    ],
)
def test_unknown_arguments_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        call(**changes)


def test_a_layer_attends_once() -> None:
    _, caches = call()
    with pytest.raises(TraceError, match="it is called more than once, or two layers share one cache"):
        call(**{interface.CACHES: caches})


class Config:
    model_type = "tiny"


@pytest.mark.parametrize("window", [1, 5, 4096])
def test_windows_are_recognised(window: int) -> None:
    function = masking_utils.sliding_window_causal_mask_function(window)
    assert interface.mask_rule(mask_function=function, config=Config, local_size=window).window == window


def test_causal_is_recognised() -> None:
    assert interface.mask_rule(mask_function=masking_utils.causal_mask_function, config=Config).window == 0


@pytest.mark.parametrize(
    ("function", "local_size"),
    [
        (masking_utils.bidirectional_mask_function, None),
        (masking_utils.sliding_window_causal_mask_function(5), None),
        (masking_utils.sliding_window_causal_mask_function(5), 6),
        (masking_utils.chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.int64)), 8),
        (masking_utils.or_masks(masking_utils.causal_mask_function, lambda b, h, q, k: (q < 3) & (k < 3)), None),
        (masking_utils.and_masks(masking_utils.causal_mask_function, lambda b, h, q, k: torch.ones(2)[k] > 0), None),
    ],
)
def test_other_masks_are_refused(function, local_size: int | None) -> None:
    with pytest.raises(TraceError, match=r"tiny: its attention mask cannot be traced: it is not (causal|a window of)"):
        interface.mask_rule(mask_function=function, config=Config, local_size=local_size)


def mixture(**changes: object) -> Qwen3MoeExperts:
    config = Qwen3MoeConfig(hidden_size=8, moe_intermediate_size=4, num_experts=3)
    module = Qwen3MoeExperts(config)
    for name, value in changes.items():
        setattr(module if hasattr(module, name) else module.config, name, value)
    return module


def routed() -> tuple[torch.Tensor, ...]:
    return torch.ones(2, 8), torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"has_bias": True}, r"qwen3_moe: the mixture Qwen3MoeExperts cannot be traced: .* \(has_bias is True\)"),
        ({"is_transposed": True}, r"its weights have another layout \(is_transposed is True\)"),
        ({"is_concatenated": False}, r"another layout \(is_concatenated is False\)"),
        ({"has_gate": False}, r"another layout \(has_gate is False\)"),
        ({"hidden_act": "mish"}, "its activation 'mish' is none of silu"),
    ],
)
def test_other_mixtures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        interface.experts(mixture(**changes), *routed())


def test_mixtures_with_more_arguments_or_another_gate_are_refused() -> None:
    with pytest.raises(TraceError, match=r"its experts take more arguments than routing: \['bias'\]"):
        interface.experts(mixture(), *routed(), bias=None)

    class Clamped(Qwen3MoeExperts):
        def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
            return gate_up.clamp(max=1.0)

    with pytest.raises(TraceError, match=r"Clamped cannot be traced: its gate is not act\(gate\) \* up"):
        interface.experts(Clamped(mixture().config), *routed())
