"""Batched decoding of the demo target: the Qwen3 forward pass written out, over a static cache, without padding.

The library's own generation loop is several times slower on two cores at this size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import Qwen3ForCausalLM


class Decoder:
    """Keeps the keys and values of N sequences of one length; `step` appends T tokens to each."""

    def __init__(self, model: Qwen3ForCausalLM, count: int, capacity: int) -> None:
        self.model, self.config, self.length = model, model.config, 0
        self.heads, self.groups = self.config.num_attention_heads, self.config.num_key_value_heads
        shape = (len(model.model.layers), 2, count, self.groups, capacity, self.config.head_dim)
        self.cache = torch.empty(shape, dtype=model.dtype)
        self.layers = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            self.layers.append((layer, qkv, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])))

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def attend(self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """q [N, H, T, D], keys and values [N, G, total, D] -> [N, T, H*D]; one row's heads are a group's rows."""
        count, _, rows, size = q.shape
        if rows == 1:
            return F.scaled_dot_product_attention(q.view(count, self.groups, -1, size), keys, values).view(count, 1, -1)
        out = F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)
        return out.transpose(1, 2).reshape(count, rows, -1)

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [N, T] -> logits of the last row, [N, V]; T > 1 only for the first step."""
        first, total = self.length, self.length + tokens.shape[1]
        x = self.model.model.embed_tokens(tokens)
        cos, sin = self.model.model.rotary_emb(x, torch.arange(first, total)[None])
        half = self.config.head_dim // 2

        def rotate(v: torch.Tensor) -> torch.Tensor:
            return v * cos[:, None] + torch.cat([-v[..., half:], v[..., :half]], -1) * sin[:, None]

        for (layer, qkv, gate_up), cache in zip(self.layers, self.cache, strict=True):
            y = F.linear(self.norm(x, layer.input_layernorm.weight), qkv)
            y = y.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
            q, k, v = y.split([self.heads, self.groups, self.groups], 1)
            cache[0, :, :, first:total] = rotate(self.norm(k, layer.self_attn.k_norm.weight))
            cache[1, :, :, first:total] = v
            q = rotate(self.norm(q, layer.self_attn.q_norm.weight))
            x = x + layer.self_attn.o_proj(self.attend(q, cache[0, :, :, :total], cache[1, :, :, :total]))
            gate, up = F.linear(self.norm(x, layer.post_attention_layernorm.weight), gate_up).chunk(2, -1)
            x = x + layer.mlp.down_proj(F.silu(gate) * up)
        self.length = total
        return self.model.lm_head(self.norm(x[:, -1], self.model.model.norm.weight)).float()
