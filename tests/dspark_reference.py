"""DSpark and the speculative loop in plain PyTorch, written from their definition: slow, cache-free, independent.

Nothing of the compiler is used. The target is the Hugging Face model itself, run on the whole sequence every round; the
drafter recomputes the keys and values of its whole context every round. Rules are Python over lists of floats.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

Tensor = torch.Tensor


@dataclass(frozen=True)
class Round:
    """What one round gave: kept drafts plus the target's own token, and the draft for the next round."""

    n_accepted: int
    committed: tuple[int, ...]
    draft_tokens: tuple[int, ...]
    draft_confidence: tuple[float, ...]


@dataclass(frozen=True)
class Mutation:
    """Deliberate mistakes, to see that a comparison would notice them."""

    markov_shift: int = 0
    """The Markov row of token + shift is used instead of the token's."""
    position_shift: int = 0
    """The block starts this many positions late."""


class Drafter:
    """A DSpark checkpoint in the DeepSpec layout: `weights` by their stored names, `config` as stored."""

    def __init__(self, folder: Path, mutation: Mutation | None = None) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {
            name: tensor.float() for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()
        }
        self.mutation = mutation or Mutation()
        rope = self.config.get("rope_parameters") or {}
        self.theta = float(rope.get("rope_theta", self.config.get("rope_theta", 10000.0)))

    def linear(self, name: str, x: Tensor) -> Tensor:
        out = x @ self.weights[f"{name}.weight"].T
        return out + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else out

    def norm(self, name: str, x: Tensor) -> Tensor:
        scale = (x.square().mean(-1, keepdim=True) + float(self.config["rms_norm_eps"])).rsqrt()
        return x * scale * self.weights[f"{name}.weight"]

    def heads(self, x: Tensor) -> Tensor:
        """[n, h*D] -> [n, h, D]"""
        return x.reshape(x.shape[0], -1, int(self.config["head_dim"]))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [n,h,D] at positions [n]: pairs (i, i + D/2) turn by position * theta^(-2i/D)."""
        half = x.shape[-1] // 2
        frequency = self.theta ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = positions.double()[:, None, None] * frequency
        cos, sin = angle.cos().float(), angle.sin().float()
        low, high = x[..., :half], x[..., half:]
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def block(self, features: Tensor, anchor: int) -> tuple[Tensor, Tensor]:
        """features [n, A*E] of all tokens before the anchor -> hidden [block, E] and logits [block, V] of the slots."""
        size, mask = int(self.config["block_size"]), int(self.config["mask_token_id"])
        context = self.norm("hidden_norm", self.linear("fc", features))
        x = self.weights["embed_tokens.weight"][torch.tensor([anchor, *[mask] * (size - 1)])]
        past = torch.arange(len(features))
        here = len(features) + self.mutation.position_shift + torch.arange(size)
        for j in range(int(self.config["num_hidden_layers"])):
            x = x + self.attend(f"layers.{j}", x, context, past, here)
            y = self.norm(f"layers.{j}.post_attention_layernorm", x)
            gate = self.linear(f"layers.{j}.mlp.gate_proj", y)
            up = self.linear(f"layers.{j}.mlp.up_proj", y)
            x = x + self.linear(f"layers.{j}.mlp.down_proj", gate * torch.sigmoid(gate) * up)
        hidden = self.norm("norm", x)
        return hidden, self.linear("lm_head", hidden)

    def attend(self, layer: str, x: Tensor, context: Tensor, past: Tensor, here: Tensor) -> Tensor:
        """Every slot sees the whole context and the whole block."""
        name = f"{layer}.self_attn"
        y = self.norm(f"{layer}.input_layernorm", x)
        both, positions = torch.cat([context, y]), torch.cat([past, here])
        q = self.rotate(self.norm(f"{name}.q_norm", self.heads(self.linear(f"{name}.q_proj", y))), here)
        k = self.rotate(self.norm(f"{name}.k_norm", self.heads(self.linear(f"{name}.k_proj", both))), positions)
        v = self.heads(self.linear(f"{name}.v_proj", both))
        group = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(group, 1) for t in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
        out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        return self.linear(f"{name}.o_proj", out.reshape(len(x), -1))

    def bias(self, previous: int, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The Markov head: what the token before adds to a slot's logits [V]; `state` is the rnn head's."""
        row = previous + self.mutation.markov_shift
        e = self.weights["markov_head.markov_w1.weight"][row % int(self.config["vocab_size"])]
        kind = self.config["markov_head_type"]
        if kind == "vanilla":
            latent = e
        elif kind == "gated":
            latent = torch.sigmoid(self.linear("markov_head.gate_proj", torch.cat([hidden, e]))) * e
        else:
            gate, candidate, out = self.linear("markov_head.joint_proj", torch.cat([state, e, hidden])).chunk(3)
            state = torch.sigmoid(gate) * state + torch.sigmoid(-gate) * torch.tanh(candidate)
            latent = torch.tanh(out)
        return self.linear("markov_head.markov_w2", latent), state

    def draft(
        self, features: Tensor, anchor: int, length: int, temperature: float, uniforms: Sequence[float]
    ) -> tuple[list[int], list[float], list[Tensor]]:
        """The next tokens, their confidences, and the distributions [V] that they were drawn from."""
        hidden, logits = self.block(features, anchor)
        rank = int(self.config["markov_rank"])
        state, previous = torch.zeros(rank), anchor
        tokens, confidence, probs = [], [], []
        for slot in range(length):
            if self.config["enable_confidence_head"]:
                seen = [hidden[slot]]
                if self.config["confidence_head_with_markov"]:
                    seen.append(self.weights["markov_head.markov_w1.weight"][previous])
                confidence.append(float(torch.sigmoid(self.linear("confidence_head.proj", torch.cat(seen)))))
            step = logits[slot]
            if rank:
                added, state = self.bias(previous, hidden[slot], state)
                step = step + added
            previous, p_draft = pick(step, temperature, uniforms[slot])
            tokens.append(previous)
            probs.append(p_draft)
        return tokens, confidence, probs


def pick(logits: Tensor, temperature: float, uniform: float) -> tuple[int, Tensor]:
    """One token from logits [V], greedy at temperature 0, and the distribution it was drawn from."""
    if temperature == 0.0:
        return int(logits.argmax()), torch.zeros(0)
    probs = (logits / temperature).softmax(-1)
    return draw(probs, uniform), probs


def draw(weights: Tensor, uniform: float) -> int:
    """The first index at which the running sum exceeds uniform * total."""
    running = weights.double().cumsum(0)
    above = (running > uniform * running[-1]).nonzero()
    return int(above[0]) if len(above) else int((weights > 0).nonzero()[-1])


def verify(
    logits: Tensor, draft: Sequence[int], p_draft: Sequence[Tensor], temperature: float, uniforms: Sequence[float]
) -> tuple[int, int]:
    """Rows logits [n+1,V] against n draft tokens; uniforms: one test each, the last one for the own token."""
    if temperature == 0.0:
        best = logits.argmax(-1).tolist()
        kept = 0
        while kept < len(draft) and draft[kept] == best[kept]:
            kept += 1
        return kept, best[kept]
    for i, token in enumerate(draft):
        p_target = (logits[i] / temperature).softmax(-1)
        if uniforms[i] * float(p_draft[i][token]) >= float(p_target[token]):
            residual = (p_target - p_draft[i]).clamp(min=0.0)
            return i, draw(residual if float(residual.sum()) > 0.0 else p_target, uniforms[-1])
    return len(draft), draw((logits[len(draft)] / temperature).softmax(-1), uniforms[-1])


@torch.no_grad()
def rounds(
    target: Any,
    drafter: Drafter,
    prompt: Sequence[int],
    *,
    draft_len: int,
    temperature: float,
    uniforms: Sequence[Sequence[float]],
    find: Callable[[int, list[int]], Sequence[int]] = lambda index, tokens: (),
) -> Iterator[Round]:
    """Rounds of speculative decoding: the first reads the prompt, every later one verifies the draft of the last.

    `uniforms` has one row of M + K + 2 numbers a round: M tests, the own token, K draws of the draft, one spare; M is K
    without prompt lookup. `find(index, tokens)` gives what is verified in round `index` in place of the draft, if any.
    """
    tokens, draft, p_draft, vocab = list(prompt), list[int](), list[Tensor](), target.config.vocab_size
    for index, row in enumerate(uniforms):
        found, most = list(find(index, tokens)), len(row) - draft_len - 2
        if found:
            draft, p_draft = found, [torch.nn.functional.one_hot(torch.tensor(token), vocab).float() for token in found]
        out = target(torch.tensor([tokens + draft]), output_hidden_states=True, use_cache=False)
        last = len(tokens) - 1
        kept, own = verify(out.logits[0, last:], draft, p_draft, temperature, row[: most + 1])
        committed = (*draft[:kept], own)
        tokens += committed
        features = torch.cat([out.hidden_states[tap + 1][0] for tap in drafter.config["target_layer_ids"]], -1)
        draft, confidence, p_draft = drafter.draft(
            features[: len(tokens) - 1], tokens[-1], draft_len, temperature, row[most + 1 : most + 1 + draft_len]
        )
        yield Round(kept, committed, tuple(draft), tuple(confidence))
