"""DSpark: a parallel block drafter with context injection, a low-rank Markov head and a confidence head.

The target's taps of all committed tokens become keys and values of the drafter's layers (`fc`, `hidden_norm`, then each
layer's own key and value projections). A block of `block_size` rows, the anchor and then mask tokens, runs through the
layers once; every row sees the context and the whole block. Row k predicts the token after the anchor's k-th follower
from its own logits plus a Markov bias that depends on the token drafted before it, so only that last step is sequential.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from forerun_compiler import tracing
from forerun_compiler.dialect import BLOCK
from forerun_compiler.drafters import DrafterParts, TargetSide
from forerun_compiler.drafters.dspark_checkpoint import BORROWED, DSparkCheckpoint, DSparkConfig, read_checkpoint
from forerun_compiler.errors import CheckpointError

Caches = Sequence[Tensor]
"""Keys and values of each layer in turn: k0, v0, k1, v1, ...; each [1,G,C,D]."""


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

    def keys_values(self, x: Tensor, rope: _Rope, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x [1,T,E] at cache rows [1,T] -> rotated keys and values, each [1,G,T,D]."""
        k = self.k_norm(self._heads(self.k_proj(x))).transpose(1, 2)
        return rope(k, rows), self._heads(self.v_proj(x)).transpose(1, 2)

    def forward(
        self, x: Tensor, rope: _Rope, rows: Tensor, cache: tuple[Tensor, Tensor], position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [1,block_size,E] -> out of the same shape, and the layer's caches with the block's rows written."""
        q = rope(self.q_norm(self._heads(self.q_proj(x))).transpose(1, 2), rows)
        k, v = self.keys_values(x, rope, rows)
        out, k_cache, v_cache = tracing.cached_attention(
            q, k, v, *cache, position, scale=self.head_dim**-0.5, mask=BLOCK, window=0, softcap=0.0
        )
        return self.o_proj(out.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)), k_cache, v_cache


class _Rope:
    """Rotary positions from tables [C, D/2]; rows [1,T] are cache rows."""

    def __init__(self, config: DSparkConfig, cache_rows: int) -> None:
        half = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        angles = torch.arange(cache_rows, dtype=torch.float32)[:, None] / config.rope_theta**half
        self.cos, self.sin = angles.cos(), angles.sin()

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
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

    `vanilla`: W2 W1[prev]. `gated`: W2 (sigmoid(gate [h; e]) * e) with e = W1[prev]. `rnn`: a gated recurrent state s of
    size r, zero at the anchor, over z = [s; e; h]; the bias is W2 tanh(output).
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
        """previous [1], hidden [1,E] (vanilla: not read), state [1,r] -> bias [1,V], the next state."""
        latent = self.markov_w1(previous)
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


class _Part(nn.Module):
    """A traced part: shares the module, fixes what a trace fixes, and names the inputs that it reads."""

    def __init__(self, module: DSparkModule, draft_len: int, cache_rows: int, reads: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.draft_len = draft_len
        self.rope = _Rope(module.config, cache_rows)
        self.reads = tuple(reads)


class _Context(_Part):
    def forward(self, taps: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        features = self.module.hidden_norm(self.module.fc(taps))
        rows = position[:, None] + torch.arange(taps.shape[1])[None, :]
        written: list[Tensor] = []
        for j, layer in enumerate(self.module.layers):
            k, v = layer.self_attn.keys_values(features, self.rope, rows)
            written += tracing.cache_write(k, v, caches[2 * j], caches[2 * j + 1], position)
        return tuple(written)


class _Block(_Part):
    def forward(self, anchor: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        config = self.module.config
        masks = torch.full((1, config.block_size - 1), config.mask_token_id, dtype=torch.int64)
        x = self.module.embed_tokens(torch.cat([anchor[:, None], masks], 1))
        rows = position[:, None] + torch.arange(config.block_size)[None, :]
        written: list[Tensor] = []
        for j, layer in enumerate(self.module.layers):
            cache = (caches[2 * j], caches[2 * j + 1])
            out, k, v = layer.self_attn(layer.input_layernorm(x), self.rope, rows, cache, position)
            x = x + out
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            written += [k, v]
        hidden = self.module.norm(x)[:, : self.draft_len]
        return (hidden, self.module.lm_head(hidden), *written)


Choose = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Logits [1,V] of a slot, the slot's number -> its token [1] and p_draft [1,V]."""


def _walk(part: _Part, given: Mapping[str, Tensor], choose: Choose) -> tuple[Tensor, Tensor]:
    """Left to right through the block: the Markov bias of the token before, then this slot's token."""
    head, tokens, probs = part.module.markov_head, [], []
    previous, hidden = given.get("anchor"), given.get("hidden")
    state = torch.zeros(1, max(part.module.config.markov_rank, 1))
    for k in range(part.draft_len):
        step = given["logits"][:, k]
        if head is not None:
            bias, state = head.step(previous, None if hidden is None else hidden[:, k], state)
            step = step + bias
        previous, p_draft = choose(step, k)
        tokens.append(previous)
        probs.append(p_draft)
    return torch.stack(tokens, 1), torch.stack(probs, 1)


class _Greedy(_Part):
    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self.reads, values, strict=True))
        return _walk(self, given, lambda step, _: (torch.argmax(step, -1), step))[0]


class _Sampled(_Part):
    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(self.reads, values, strict=True))

        def choose(step: Tensor, slot: int) -> tuple[Tensor, Tensor]:
            p_draft = torch.softmax(step / given["temperature"][:, None], -1)
            return _invert(p_draft, given["uniform"][:, slot : slot + 1]), p_draft

        return _walk(self, given, choose)


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """Invert the distribution function: probs [1,V], uniform [1,1] -> the first token whose cumulated share exceeds u."""
    cumulated = torch.cumsum(probs, -1)
    below = (cumulated <= uniform * cumulated[:, -1:]).to(torch.int64).sum(-1)
    # The first entry that holds the final total is the last token of positive probability: never go beyond it.
    return torch.minimum(below, torch.argmax(cumulated, -1))


class _Confidence(_Part):
    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self.reads, values, strict=True))
        features = given["hidden"]
        if self.module.config.confidence_with_markov:
            previous = torch.cat([given["anchor"][:, None], given["draft_tokens"][:, :-1]], 1)
            features = torch.cat([features, self.module.markov_head.markov_w1(previous)], -1)
        scores: Tensor = self.module.confidence_head.proj(features)
        return torch.sigmoid(scores.squeeze(-1))


@dataclass(frozen=True)
class DSpark:
    """A DSpark drafter with all its tensors, fitted to its target."""

    source: str
    config: DSparkConfig
    module: DSparkModule

    @property
    def family(self) -> str:
        """The family's name, as recipes spell it."""
        return "dspark"

    @property
    def block_size(self) -> int:
        """How many tokens it was trained to draft at once."""
        return self.config.block_size

    @property
    def taps(self) -> tuple[int, ...]:
        """The target's layer outputs that it reads; 0-based, -1 is the embedding."""
        return self.config.taps

    @property
    def mask_token_id(self) -> int | None:
        """The token that fills the slots of a block."""
        return self.config.mask_token_id

    def trace(self, draft_len: int, cache_rows: int) -> DrafterParts:
        """Trace all parts; see DrafterParts for their inputs and outputs."""
        if not 1 <= draft_len <= self.block_size:
            raise CheckpointError(
                f"{self.source}: draft_len must be from 1 to the drafter's block size {self.block_size}; got {draft_len}"
            )
        return trace_parts(self.module, draft_len, cache_rows)


def load(folder: Path, target: TargetSide) -> DSpark:
    """Read a DSpark checkpoint of any layout and fit it to its target.

    Raises:
        CheckpointError: see `read_checkpoint` and `fit`.
    """
    return fit(read_checkpoint(folder), target)


def fit(checkpoint: DSparkCheckpoint, target: TargetSide) -> DSpark:
    """Check a checkpoint against its target and borrow what it lacks.

    Raises:
        CheckpointError: another vocabulary, taps that the target does not have, or a tensor that is missing,
            unexpected or of the wrong shape.
    """
    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    _check_target(checkpoint, target)
    shapes = config.tensor_shapes(target.hidden_size)
    for name, lent in zip(BORROWED, (target.embedding, target.lm_head), strict=True):
        tensors.setdefault(name, lent.detach().to(torch.float32))
    missing, unexpected = sorted(set(shapes) - set(tensors)), sorted(set(tensors) - set(shapes))
    if missing or unexpected:
        raise CheckpointError(
            f"{checkpoint.source}: expected the tensors of a DSpark drafter with {config.num_layers} layers; "
            f"missing: {', '.join(missing) or 'none'}; unexpected: {', '.join(unexpected) or 'none'}"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{checkpoint.source}: tensor {name}: expected the shape {list(shape)}, found "
                f"{list(tensors[name].shape)}; the checkpoint and its config.json, or its target {target.name}, differ"
            )
    with torch.device("meta"):
        module = DSparkModule(config)
        module.fc = nn.Linear(shapes["fc.weight"][1], config.hidden_size, bias=False)
    module.load_state_dict(tensors, assign=True)
    return DSpark(checkpoint.source, config, module.requires_grad_(False).eval())


def _check_target(checkpoint: DSparkCheckpoint, target: TargetSide) -> None:
    config, last = checkpoint.config, target.num_layers - 1
    if config.vocab_size != target.vocab_size:
        raise CheckpointError(
            f"{checkpoint.source}: the drafter's vocabulary has {config.vocab_size} tokens, that of its target "
            f"{target.name} has {target.vocab_size}; a drafter works with the target that it was trained for only"
        )
    # The last layer's entry of hidden_states is normalised already; no drafter is trained on that.
    if any(tap >= last for tap in config.taps):
        raise CheckpointError(
            f"{checkpoint.source}: target_layer_ids {list(config.taps)} must stay below the last layer {last} of the "
            f"target {target.name}, which has {target.num_layers} layers; is this drafter another target's?"
        )


def trace_parts(module: DSparkModule, draft_len: int, cache_rows: int) -> DrafterParts:
    """Trace every part of a drafter; see DrafterParts for their inputs and outputs."""
    config = module.config
    examples = _examples(module, draft_len, cache_rows)
    caches = [name for name in examples if name.startswith("drafter.")]
    written = [f"{name}.out" for name in caches]

    def part(kind: type[_Part], reads: Sequence[str], outputs: Sequence[str]) -> ir.Model:
        traced = kind(module, draft_len, cache_rows, reads).eval()
        dynamic = {"taps": {1: "T"}} if "taps" in reads else {}
        name = f"drafter.{kind.__name__.strip('_').lower()}"
        return tracing.export(traced, {read: examples[read] for read in reads}, outputs, dynamic, name=name)

    walk = ["logits"]
    walk += ["hidden"] if config.markov_head in ("gated", "rnn") else []
    walk += ["anchor"] if config.markov_rank else []
    confidence = ["hidden", *(["anchor", "draft_tokens"] if config.confidence_with_markov else [])]
    return DrafterParts(
        context=part(_Context, ["taps", "position", *caches], written),
        block=part(_Block, ["anchor", "position", *caches], ["hidden", "logits", *written]),
        greedy=part(_Greedy, walk, ["draft_tokens"]),
        sampled=part(_Sampled, [*walk, "temperature", "uniform"], ["draft_tokens", "draft_probs"]),
        confidence=part(_Confidence, confidence, ["draft_confidence"]) if config.confidence else None,
    )


def _examples(module: DSparkModule, draft_len: int, cache_rows: int) -> dict[str, Tensor]:
    """One example of every input of any part; only shapes and dtypes matter, and that no two are the same tensor."""
    config = module.config
    caches = {
        f"drafter.{j}.{kind}": torch.zeros(1, config.num_kv_heads, cache_rows, config.head_dim)
        for j in range(config.num_layers)
        for kind in ("k", "v")
    }
    return caches | {
        "taps": torch.zeros(1, cache_rows - 1, module.fc.in_features),
        "anchor": torch.zeros(1, dtype=torch.int64),
        "position": torch.zeros(1, dtype=torch.int64),
        "hidden": torch.zeros(1, draft_len, config.hidden_size),
        "logits": torch.zeros(1, draft_len, config.vocab_size),
        "draft_tokens": torch.zeros(1, draft_len, dtype=torch.int64),
        "temperature": torch.ones(1),
        "uniform": torch.zeros(1, draft_len),
    }
