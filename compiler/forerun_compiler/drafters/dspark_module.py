"""The layers of a DSpark drafter as torch modules, under the names of the DeepSpec layout.

Shapes: T rows, E hidden size, D head dim, G key-value heads, V vocab, r Markov rank, C cache rows.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forerun_compiler import tracing
from forerun_compiler.dialect import BLOCK
from forerun_compiler.drafters.dspark_checkpoint import DSparkConfig


class _Norm(nn.Module):
    """Root mean square norm with a learned scale, over the last axis."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class _Attention(nn.Module):
    """Projections of one layer; keys and values come from the block and, apart, from the context."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.q_norm = _Norm(config.head_dim, config.rms_norm_eps)
        self.k_norm = _Norm(config.head_dim, config.rms_norm_eps)

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], -1, self.head_dim)

    def keys_values(self, x: Tensor, rope: Rope, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x [1,T,E] at cache rows [1,T] -> rotated keys and values, each [1,G,T,D]."""
        k = self.k_norm(self._heads(self.k_proj(x))).transpose(1, 2)
        return rope(k, rows), self._heads(self.v_proj(x)).transpose(1, 2)

    def forward(
        self, x: Tensor, rope: Rope, rows: Tensor, cache: tuple[Tensor, Tensor], position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [1,block_size,E] -> out of the same shape, and the layer's caches with the block's rows written."""
        q = rope(self.q_norm(self._heads(self.q_proj(x))).transpose(1, 2), rows)
        k, v = self.keys_values(x, rope, rows)
        out, k_cache, v_cache = tracing.cached_attention(
            q, k, v, *cache, position, scale=self.head_dim**-0.5, mask=BLOCK, window=0, softcap=0.0
        )
        return self.o_proj(out.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)), k_cache, v_cache


class Rope:
    """Rotary positions from tables [C, D/2]; rows [1,T] are cache rows."""

    def __init__(self, config: DSparkConfig, cache_rows: int) -> None:
        half = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        angles = torch.arange(cache_rows, dtype=torch.float32)[:, None] / config.rope_theta**half
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rotate x [1,h,T,D] to the positions rows [1,T]."""
        return torch.onnx.ops.rotary_embedding(x, self.cos, self.sin, rows)


class _Mlp(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return gated


class _Layer(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _Mlp(config)
        self.input_layernorm = _Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = _Norm(config.hidden_size, config.rms_norm_eps)


class _MarkovHead(nn.Module):
    """The bias that a drafted token puts on the next one's logits: low rank, [V,r] by [r,V].

    `vanilla`: W2 W1[prev]. `gated`: W2 (sigmoid(gate [h; e]) * e) with e = W1[prev]. `rnn`: a gated recurrent state s
    of size r, zero at the anchor, over z = [s; e; h]; the bias is W2 tanh(output).
    """

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        rank, hidden = config.markov_rank, config.hidden_size
        self.kind = config.markov_head
        self.markov_w1 = nn.Embedding(config.vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, config.vocab_size, bias=False)
        if self.kind == "gated":
            self.gate_proj = nn.Linear(hidden + rank, rank)
        if self.kind == "rnn":
            self.joint_proj = nn.Linear(2 * rank + hidden, 3 * rank)

    def step(self, previous: Tensor | None, hidden: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """previous [1,1], hidden [1,1,E] (vanilla: not read), state [1,1,r] -> bias [1,1,V], the next state."""
        latent = self.markov_w1(previous)
        if hidden is None:
            return self.markov_w2(latent), state
        if self.kind == "gated":
            latent = torch.sigmoid(self.gate_proj(torch.cat([hidden, latent], -1))) * latent
        if self.kind == "rnn":
            keep, candidate, output = self.joint_proj(torch.cat([state, latent, hidden], -1)).chunk(3, -1)
            keep = torch.sigmoid(keep)
            state = keep * state + (1.0 - keep) * torch.tanh(candidate)
            latent = torch.tanh(output)
        return self.markov_w2(latent), state


class _ConfidenceHead(nn.Module):
    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        width = config.hidden_size + (config.markov_rank if config.confidence_with_markov else 0)
        self.proj = nn.Linear(width, 1)


class DSparkModule(nn.Module):
    """The weights under the names of the DeepSpec layout; the parts below give them their meaning."""

    def __init__(self, config: DSparkConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = _Norm(config.hidden_size, config.rms_norm_eps)
        self.fc = nn.Linear(1, 1, bias=False)  # its width is the target's to say: replaced by the checkpoint's tensor
        self.hidden_norm = _Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.markov_head = _MarkovHead(config) if config.markov_rank else None
        self.confidence_head = _ConfidenceHead(config) if config.confidence else None

    def decoder_layers(self) -> list[_Layer]:
        """Return the layers with their type, which a ModuleList does not keep."""
        return cast(list[_Layer], list(self.layers))
