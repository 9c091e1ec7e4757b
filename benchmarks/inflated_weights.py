"""Larger weights of the same function: a Qwen3 target and its DSpark drafter with zeros where the new width would act.

What is added does not change the residual stream, and what a norm sees is scaled by powers of two only, so that every
product of the small model is made again, bit for bit, between zeros:

- The stream grows from E to E * ratio by zeros, ratio a power of four. A norm's mean of squares falls by `ratio`, so
  its eps is divided by `ratio` and its weight by sqrt(ratio). The norms of queries and keys share that eps without
  growing, so the projections before them are divided by sqrt(ratio) too: what those norms give stays.
- New heads come after the old ones, in groups of the old size; the output projection has zero columns for them.
- New MLP rows come after the old ones; the down projection has zero columns for them.
- New layers come after the old ones; their output and down projections are so small that no float32 sum feels them,
  but not zero: equal matrices would be stored once, and read from a cache where a real model's come from memory.

New rows are random with a quarter of the old rows' spread: kernels that scale a whole row of activations by its largest
entry see what they saw before, because the new entries of that row stay below the largest of the old ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

SEED = 0
QUIET = 0.25
"""Spread of the new rows of a layer that acts, relative to its old rows."""
SILENT = 1e-16
"""Spread of what a new layer writes by: below 2^-24 of the stream, and its square is still a normal float32."""

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Size:
    """The sizes of a target; a drafter of the same pair has the same but for its layers."""

    hidden: int
    heads: int
    kv_heads: int
    mlp: int
    layers: int


@dataclass(frozen=True)
class Growth:
    """From one size to a larger one, with heads of `head_dim` in both."""

    old: Size
    new: Size
    head_dim: int

    @property
    def ratio(self) -> int:
        """How many times wider the residual stream is; a power of four."""
        return self.new.hidden // self.old.hidden

    @property
    def root(self) -> float:
        """Exact: a power of two."""
        return math.sqrt(self.ratio)


def grow_target(tensors: Tensors, growth: Growth) -> dict[str, torch.Tensor]:
    """All tensors of the larger target, in the dtypes of the small one."""
    grown = {name: _grow(name, tensor, growth) for name, tensor in tensors.items()}
    last = f"model.layers.{growth.old.layers - 1}."
    for layer in range(growth.old.layers, growth.new.layers):
        for name in [name for name in tensors if name.startswith(last)]:
            new = name.replace(last, f"model.layers.{layer}.")
            grown[new] = _silent(new, grown[name], tensors[name])
    return grown


def grow_drafter(tensors: Tensors, growth: Growth, taps: int, markov_rank: int) -> dict[str, torch.Tensor]:
    """All tensors of the larger drafter in the DeepSpec layout, which reads `taps` layers of the larger target.

    Raises:
        ValueError: a tensor that no rule covers, or whose columns are not those of its layout.
    """
    stream, rank = (growth.old.hidden, growth.new.hidden), (markov_rank, markov_rank)
    with_markov = tensors.get("confidence_head.proj.weight", torch.empty(1, 0)).shape[1] > growth.old.hidden
    columns = {
        "fc.weight": [stream] * taps,
        "markov_head.gate_proj.weight": [stream, rank],
        "markov_head.joint_proj.weight": [rank, rank, stream],
        "confidence_head.proj.weight": [stream, rank] if with_markov else [stream],
    }
    grown = {}
    for name, tensor in tensors.items():
        if name in columns:
            rows = growth.new.hidden if name == "fc.weight" else tensor.shape[0]
            grown[name] = _pad_blocks(tensor, columns[name], rows)
        elif name.startswith(("markov_head.", "confidence_head.")):
            grown[name] = tensor  # over the vocabulary and the rank, which stay
        else:
            grown[name] = _grow(name, tensor, growth)
    return grown


def _grow(name: str, tensor: torch.Tensor, growth: Growth) -> torch.Tensor:
    """One tensor that targets and drafters have alike."""
    part, new, width = name.split(".")[-2], growth.new, growth.head_dim
    rows = {
        "q_proj": new.heads * width,
        "k_proj": new.kv_heads * width,
        "v_proj": new.kv_heads * width,
        "gate_proj": new.mlp,
        "up_proj": new.mlp,
    }
    if part in ("q_norm", "k_norm"):
        return tensor
    if part in ("input_layernorm", "post_attention_layernorm", "norm", "hidden_norm"):
        return _pad(tensor / growth.root, (new.hidden,))
    if part in ("embed_tokens", "lm_head"):
        return _pad(tensor, (tensor.shape[0], new.hidden))
    if part == "o_proj":
        return _pad(tensor, (new.hidden, new.heads * width))
    if part == "down_proj":
        return _pad(tensor, (new.hidden, new.mlp))
    if part not in rows:
        raise ValueError(f"{name}: no rule says how this tensor grows")
    if part in ("q_proj", "k_proj"):
        tensor = tensor / growth.root
    grown = _pad(tensor, (rows[part], new.hidden))
    grown[tensor.shape[0] :] = _noise(name, grown[tensor.shape[0] :], QUIET * _spread_of(tensor))
    return grown


def _silent(name: str, like: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
    """A tensor of a layer that changes nothing: tiny where it writes to the stream, random where it reads."""
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return _noise(name, like, SILENT)
    return like.clone() if like.ndim == 1 else _noise(name, like, _spread_of(small))


def _pad(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Zeros after the tensor's own entries, along every axis."""
    padded = torch.zeros(tuple(shape), dtype=tensor.dtype)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded


def _pad_blocks(tensor: torch.Tensor, blocks: Sequence[tuple[int, int]], rows: int) -> torch.Tensor:
    """[N, sum of old] -> [rows, sum of new]: each (old, new) block of columns is padded on its own."""
    parts = tensor.split([old for old, _ in blocks], dim=1)
    return torch.cat([_pad(part, (rows, new)) for part, (_, new) in zip(parts, blocks, strict=True)], dim=1)


def _noise(name: str, like: torch.Tensor, spread: float) -> torch.Tensor:
    """Normal random numbers that depend on the tensor's name and the seed alone, not on the order of the tensors."""
    digest = hashlib.sha256(f"{SEED} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return (torch.randn(like.shape, generator=generator) * spread).to(like.dtype)


def _spread_of(tensor: torch.Tensor) -> float:
    return float(tensor.float().std())
