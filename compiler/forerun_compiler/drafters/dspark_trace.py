"""The parts of a DSpark drafter that are traced: context, block, the two walks through a block, confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor, nn

from forerun_compiler import tracing
from forerun_compiler.drafters import DrafterParts
from forerun_compiler.drafters.dspark_module import DSparkModule, Rope


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


class _Part(nn.Module):
    """A traced part: shares the module, fixes what a trace fixes, and names the inputs that it reads."""

    def __init__(self, module: DSparkModule, draft_len: int, cache_rows: int, reads: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.draft_len = draft_len
        self.rope = Rope(module.config, cache_rows)
        self.reads = tuple(reads)


class _Context(_Part):
    def forward(self, taps: Tensor, position: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        features = self.module.hidden_norm(self.module.fc(taps))
        rows = position[:, None] + torch.arange(taps.shape[1])[None, :]
        written: list[Tensor] = []
        for j, layer in enumerate(self.module.decoder_layers()):
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
        for j, layer in enumerate(self.module.decoder_layers()):
            cache = (caches[2 * j], caches[2 * j + 1])
            out, k, v = layer.self_attn(layer.input_layernorm(x), self.rope, rows, cache, position)
            x = x + out
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            written += [k, v]
        hidden = self.module.norm(x)[:, : self.draft_len]
        return (hidden, self.module.lm_head(hidden), *written)


Choose = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Logits [1,1,V] of a slot, the slot's number -> its token [1,1] and p_draft [1,1,V]."""


def _walk(part: _Part, given: Mapping[str, Tensor], choose: Choose) -> tuple[Tensor, Tensor]:
    """Left to right through the block: the Markov bias of the token before, then this slot's token.

    Returns tokens [1,K] and p_draft [1,K,V]. A slot keeps its axis: one split before the walk and one concatenation
    after it are all that moves values between shapes, and the walk's nodes are so small that their number is its time.
    """
    head, tokens, probs = part.module.markov_head, [], []
    logits = given["logits"].chunk(part.draft_len, 1)
    hidden = given["hidden"].chunk(part.draft_len, 1) if "hidden" in given else (None,) * part.draft_len
    previous = given["anchor"][:, None] if "anchor" in given else None
    state = torch.zeros(1, 1, max(part.module.config.markov_rank, 1))
    for k in range(part.draft_len):
        step = logits[k]
        if head is not None:
            bias, state = head.step(previous, hidden[k], state)
            step = step + bias
        previous, p_draft = choose(step, k)
        tokens.append(previous)
        probs.append(p_draft)
    return torch.cat(tokens, 1), torch.cat(probs, 1)


class _Greedy(_Part):
    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self.reads, values, strict=True))
        return _walk(self, given, lambda step, _: (torch.argmax(step, -1), step))[0]


class _Sampled(_Part):
    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(self.reads, values, strict=True))
        uniform = given["uniform"][:, :, None].chunk(self.draft_len, 1)

        def choose(step: Tensor, slot: int) -> tuple[Tensor, Tensor]:
            p_draft = torch.softmax(step / given["temperature"], -1)
            return _invert(p_draft, uniform[slot]), p_draft

        return _walk(self, given, choose)


def _invert(probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw by the inverse distribution: probs [1,1,V], uniform [1,1,1] -> the first token above u, int64 [1,1]."""
    cumulated = torch.cumsum(probs, -1)
    total = cumulated[..., -1:]
    # The first entry that holds the total is the last token of positive probability: never go beyond it.
    below = (cumulated <= uniform * total) & (cumulated < total)
    return below.to(torch.int64).sum(-1)


class _Confidence(_Part):
    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self.reads, values, strict=True))
        features = given["hidden"]
        markov, head = self.module.markov_head, self.module.confidence_head
        assert head is not None
        if markov is not None and self.module.config.confidence_with_markov:
            previous = torch.cat([given["anchor"][:, None], given["draft_tokens"][:, :-1]], 1)
            features = torch.cat([features, markov.markov_w1(previous)], -1)
        scores: Tensor = head.proj(features)
        return torch.sigmoid(scores.squeeze(-1))
