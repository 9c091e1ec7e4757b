"""The DSpark drafter as it is trained: many anchors of a sequence at once, each with its own block.

Parameter names are those of the published checkpoints, so that the trained module is saved as it stands. The
compiled drafter lives in the toolchain; the tests hold the two to each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Qwen3Config


def rotate(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary embedding of x [..., T, D] at integer positions [..., T] (broadcast over the heads)."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = positions[..., None].float() * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


class Norm(nn.Module):
    """RMS normalization over the last dimension."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


class Attention(nn.Module):
    """Block rows attend to the context before their anchor and to the whole of their own block."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.heads, self.groups, self.size = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.theta = config.rope_parameters["rope_theta"]
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.groups * self.size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, self.groups * self.size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.size, config.hidden_size, bias=False)
        self.q_norm, self.k_norm = Norm(self.size, config.rms_norm_eps), Norm(self.size, config.rms_norm_eps)

    def keys(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """[B, ..., T, E] -> [B, G, ..., T, D], rotated."""
        k = self.k_norm(self.k_proj(x).unflatten(-1, (self.groups, self.size))).movedim(-2, 1)
        return rotate(k, positions, self.theta)

    def values(self, x: torch.Tensor) -> torch.Tensor:
        return self.v_proj(x).unflatten(-1, (self.groups, self.size)).movedim(-2, 1)

    def forward(self, block: torch.Tensor, context: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """block [B, A, S, E], context [B, T, E], anchors [B, A] (position of each block's first row)."""
        batch, count, rows, _ = block.shape
        places = anchors[:, None, :, None] + torch.arange(rows)
        q = self.q_norm(self.q_proj(block).unflatten(-1, (self.heads, self.size))).movedim(-2, 1)
        q = rotate(q, places, self.theta) * self.size**-0.5
        q = q.unflatten(1, (self.groups, -1))  # [B, G, H/G, A, S, D]
        length = torch.arange(context.shape[1])
        k_context, v_context = self.keys(context, length[None, None]), self.values(context)
        k_block, v_block = self.keys(block, places), self.values(block)
        outside = torch.einsum("bghasd,bgtd->bghast", q, k_context).float()
        hidden = length >= anchors[:, None, None, :, None, None]
        outside = outside.masked_fill(hidden, float("-inf"))
        inside = torch.einsum("bghasd,bgatd->bghast", q, k_block).float()
        weight = torch.softmax(torch.cat([outside, inside], -1), -1).to(v_block.dtype)
        split = context.shape[1]
        out = torch.einsum("bghast,bgtd->bghasd", weight[..., :split], v_context)
        out = out + torch.einsum("bghast,bgatd->bghasd", weight[..., split:], v_block)
        return self.o_proj(out.flatten(1, 2).movedim(1, -2).reshape(batch, count, rows, -1))


class Mlp(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(config), Mlp(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: torch.Tensor, context: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context, anchors)
        return x + self.mlp(self.post_attention_layernorm(x))


class MarkovHead(nn.Module):
    """A low-rank bias on the logits that depends on the block's tokens so far: the published head of kind `rnn`."""

    def __init__(self, vocab_size: int, rank: int, hidden_size: int) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, vocab_size, bias=False)
        self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def step(
        self, state: torch.Tensor, previous: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """State [..., r], embedding of the token before [..., r], hidden [..., E] -> next state, and row for W2."""
        gate, candidate, out = self.joint_proj(torch.cat([state, previous, hidden], -1)).chunk(3, -1)
        gate = torch.sigmoid(gate)
        return gate * state + (1 - gate) * torch.tanh(candidate), torch.tanh(out)

    def unroll(self, previous: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., S, r] and hidden rows [..., S, E] of whole blocks -> rows for W2, [..., S, r]."""
        state, rows = torch.zeros_like(previous[..., 0, :]), []
        for slot in range(hidden.shape[-2]):
            state, row = self.step(state, previous[..., slot, :], hidden[..., slot, :])
            rows.append(row)
        return torch.stack(rows, -2)


class ConfidenceHead(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)


class Drafter(nn.Module):
    """DSpark: a parallel backbone over [anchor, mask, ...], a Markov head and a confidence head."""

    def __init__(self, config: Qwen3Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.fc = nn.Linear(len(config.target_layer_ids) * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.markov_head = MarkovHead(config.vocab_size, config.markov_rank, config.hidden_size)
        self.confidence_head = ConfidenceHead(config.hidden_size + config.markov_rank)

    def hidden(self, taps: torch.Tensor, first: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        """Taps [B, T, A*E], anchor tokens and positions [B, N] -> hidden rows of the blocks, [B, N, block, E]."""
        context = self.hidden_norm(self.fc(taps))
        block = torch.full((*first.shape, self.config.block_size), self.config.mask_token_id)
        block[..., 0] = first
        x = self.embed_tokens(block)
        for layer in self.layers:
            x = layer(x, context, anchors)
        return self.norm(x)

    def forward(
        self, taps: torch.Tensor, previous: torch.Tensor, anchors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Teacher-forced: previous tokens [B, N, block] -> hidden rows, rows for W2, embeddings of `previous`."""
        hidden = self.hidden(taps, previous[..., 0], anchors)
        embeddings = self.markov_head.markov_w1(previous).to(hidden.dtype)
        return hidden, self.markov_head.unroll(embeddings, hidden), embeddings
