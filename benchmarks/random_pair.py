"""A linked pair with the sizes of a published model and random weights, made in memory: for what depends on sizes only.

The target is a Qwen3 of transformers' own class; the drafter is a DSpark one with three layers that borrows its
embedding and LM head. Weights of different layers differ, so no library can store them once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from forerun_compiler.drafters import Drafter
from forerun_compiler.drafters.dspark import fit
from forerun_compiler.drafters.dspark_checkpoint import BORROWED, DSparkCheckpoint, DSparkConfig
from forerun_compiler.manifest import ModelFacts
from forerun_compiler.model_facts import cache_rows
from forerun_compiler.passes.link_round import Parts
from forerun_compiler.pipeline import LinkedGraphs, OnStage, link_parts, target_side
from forerun_compiler.target import Target, trace_target

SPREAD = 0.02
"""Of the weights; activations stay finite, and that is all that a build needs."""
MASK_TOKEN, EPS, THETA = 1, 1e-6, 1e6
_DRAWN, _STEP, _TENSORS = 1 << 24, 7919, 1000


@dataclass(frozen=True)
class Sizes:
    """Of a target; the drafter has its widths, and `drafter_layers` layers."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    layers: int
    vocab: int
    drafter_layers: int = 3
    markov_rank: int = 128
    draft_len: int = 7
    capacity: int = 4096
    prefill_chunk: int = 128


SIZES = {
    "qwen3-0.6b": Sizes(hidden=1024, heads=16, kv_heads=8, head_dim=128, mlp=3072, layers=28, vocab=151936),
    "quarter": Sizes(hidden=512, heads=8, kv_heads=4, head_dim=128, mlp=1536, layers=28, vocab=75968, markov_rank=64),
}


def link_random(sizes: Sizes, on_stage: OnStage) -> LinkedGraphs:
    """Make and trace the pair; returns the round and the plain graph in the dialect."""
    on_stage("draw random weights")
    noise = _Noise(sizes)
    target = Target(_target(sizes, noise), Path(), "random")
    drafter = fit(_drafter(sizes, noise), target_side(target))
    facts = _facts(sizes, target, drafter)
    on_stage("trace the target")
    traced = trace_target(target, drafter.taps, facts.cache_rows)
    on_stage("trace the drafter")
    return link_parts(Parts(traced, drafter.trace(sizes.draft_len, facts.cache_rows), sizes.draft_len), facts, on_stage)


class _Noise:
    """Gives tensors that are parts of one array of random numbers, each from a place of its own.

    The array repeats a shorter one: drawing 600 M numbers, and even copying them, takes 10 seconds.
    """

    def __init__(self, sizes: Sizes) -> None:
        drawn = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(0)) * SPREAD
        largest = sizes.vocab * max(sizes.hidden, sizes.markov_rank) + _TENSORS * _STEP
        self._numbers = drawn.repeat(-(-largest // _DRAWN))
        self._given = 0

    def draw(self, shape: tuple[int, ...]) -> torch.Tensor:
        start = self._given * _STEP
        self._given += 1
        assert self._given < _TENSORS
        return self._numbers[start : start + math.prod(shape)].view(shape)


def _target(sizes: Sizes, noise: _Noise) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    config = Qwen3Config(
        hidden_size=sizes.hidden,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        vocab_size=sizes.vocab,
        max_position_embeddings=8 * sizes.capacity,
        tie_word_embeddings=True,
    )
    with no_init_weights(), torch.device("meta"):
        model = Qwen3ForCausalLM(config).eval()
    model.model.rotary_emb = Qwen3RotaryEmbedding(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            ones = parameter.ndim == 1  # a norm
            drawn = torch.ones(parameter.shape) if ones else noise.draw(tuple(parameter.shape))
            setattr(module, name, torch.nn.Parameter(drawn, requires_grad=False))
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def _drafter(sizes: Sizes, noise: _Noise) -> DSparkCheckpoint:
    config = DSparkConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.mlp,
        num_layers=sizes.drafter_layers,
        num_heads=sizes.heads,
        num_kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        rms_norm_eps=EPS,
        rope_theta=THETA,
        block_size=sizes.draft_len,
        mask_token_id=MASK_TOKEN,
        taps=tuple(range(1, sizes.layers - 1, max(1, sizes.layers // 5)))[:5],
        markov_rank=sizes.markov_rank,
        markov_head="rnn",
        confidence=True,
        confidence_with_markov=True,
    )
    shapes = {name: shape for name, shape in config.tensor_shapes(sizes.hidden).items() if name not in BORROWED}
    return DSparkCheckpoint("random", config, {name: noise.draw(tuple(shape)) for name, shape in shapes.items()})


def _facts(sizes: Sizes, target: Target, drafter: Drafter) -> ModelFacts:
    return ModelFacts(
        name="random",
        target_architecture=target.architecture,
        drafter_family=drafter.family,
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        draft_len=sizes.draft_len,
        lookup_len=0,
        lookup_match=0,
        block_size=sizes.draft_len,
        capacity=sizes.capacity,
        cache_rows=cache_rows(sizes.capacity, sizes.draft_len, sizes.draft_len),
        prefill_chunk=sizes.prefill_chunk,
        verify_widths=(sizes.draft_len + 1,),
        taps=drafter.taps,
        eos_token_ids=(),
        bos_token_id=None,
        mask_token_id=MASK_TOKEN,
    )
