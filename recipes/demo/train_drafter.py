"""Train the demo's DSpark drafter on the frozen target's own text.

    python recipes/demo/train_drafter.py              # writes recipes/demo/drafter, resumes where it stopped

Each sequence is run through the target once; many anchors of its generated part are trained together, each with a
block of its own. The loss is DSpark's: cross-entropy, total variation to the target's distribution, and a confidence
head that learns each position's acceptance probability; later positions weigh less.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from acceptance import walk
from drafter_loss import DraftLoss
from drafter_model import Drafter
from generate import held_out_rows
from run import Entry, Run, arguments, optimizers, train

HERE = Path(__file__).parent
TAPS = (1, 3, 5, 7, 8)


def config(target: Qwen3Config, mask_token: int) -> Qwen3Config:
    settings = target.to_dict()
    settings.update(
        architectures=["Qwen3DSparkModel"],
        num_target_layers=target.num_hidden_layers,
        num_hidden_layers=3,
        layer_types=["full_attention"] * 3,
        block_size=7,
        mask_token_id=mask_token,
        target_layer_ids=list(TAPS),
        num_anchors=96,
        enable_confidence_head=True,
        confidence_head_with_markov=True,
        markov_rank=128,
        markov_head_type="rnn",
        tie_word_embeddings=False,
    )
    return Qwen3Config(**settings)


def start_from_target(drafter: Drafter, target: Qwen3ForCausalLM) -> None:
    """Frozen embedding and head; layers begin as the target's last ones, reading its deepest tap."""
    with torch.no_grad():
        drafter.embed_tokens.weight.copy_(target.model.embed_tokens.weight)
        drafter.lm_head.weight.copy_(target.lm_head.weight)
        drafter.norm.weight.copy_(target.model.norm.weight)
        size = target.config.hidden_size
        drafter.fc.weight.normal_(0, 0.02 / len(TAPS))
        drafter.fc.weight[:, -size:] += torch.eye(size)
        drafter.markov_head.markov_w2.weight.zero_()
        drafter.markov_head.markov_w1.weight.normal_(0, 0.5)
        last = list(target.model.layers)[-len(drafter.layers) :]
        for layer, source in zip(drafter.layers, last, strict=True):
            layer.load_state_dict(source.state_dict())
    drafter.embed_tokens.requires_grad_(False)
    drafter.lm_head.requires_grad_(False)


def start_from_state(drafter: Drafter, path: Path) -> None:
    """Take over every tensor of an earlier training that has the same name, but for the two heads."""
    saved = torch.load(path, weights_only=True)["model"]
    backbone = {name: value for name, value in saved.items() if not name.startswith(("markov_head", "confidence_head"))}
    drafter.load_state_dict(backbone, strict=False)


class TargetFeatures(nn.Module):
    """Taps [B, T, A*E] and the normed last hidden states [B, T, E] of the frozen target, bfloat16."""

    def __init__(self, target: Qwen3ForCausalLM) -> None:
        super().__init__()
        self.model = target.model.to(torch.bfloat16).eval()

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out = self.model(tokens, use_cache=False, output_hidden_states=True)
        return torch.cat([out.hidden_states[i + 1] for i in TAPS], -1), out.last_hidden_state


class Shards:
    """Generated sequences; the step alone decides which rows and which anchors it gets."""

    def __init__(self, folder: Path, tokens_per_step: int, anchors: int, seed: int) -> None:
        paths = sorted(folder.glob("generated-[0-9]*.npz"))
        loaded = [np.load(path) for path in paths if ".part" not in path.name]
        self.rows = [shard["rows"] for shard in loaded]
        self.prompt_lengths = [int(shard["prompt_length"]) for shard in loaded]
        self.weights = np.array([rows.size for rows in self.rows], dtype=np.float64)
        self.tokens_per_step, self.anchors, self.seed = tokens_per_step, anchors, seed

    def __call__(self, step: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [B, T] and anchors [B, N], int64; every label lies in the generated part."""
        rng = np.random.default_rng([self.seed, step])
        shard = int(rng.choice(len(self.rows), p=self.weights / self.weights.sum()))
        rows, prompt_length = self.rows[shard], self.prompt_lengths[shard]
        count = min(len(rows), max(1, self.tokens_per_step // rows.shape[1]))
        chosen = rows[rng.choice(len(rows), count, replace=False)].astype(np.int64)
        places = np.arange(prompt_length - 1, rows.shape[1] - block)
        anchors = np.stack([rng.choice(places, min(self.anchors, len(places)), replace=False) for _ in range(count)])
        return torch.from_numpy(chosen), torch.from_numpy(np.sort(anchors, 1))


def losses(
    drafter: Drafter,
    run: nn.Module,
    features: nn.Module,
    tokens: torch.Tensor,
    anchors: torch.Tensor,
    args: argparse.Namespace,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, and per position the mean overlap 1 - TV and the share of argmax hits, each [block]."""
    block = drafter.config.block_size
    taps, last = features(tokens)
    places = anchors[..., None] + torch.arange(block)
    flat = places.flatten(1)
    previous = tokens.gather(1, flat).view(places.shape)
    with torch.autocast("cpu", torch.bfloat16):
        parts = run(taps, previous, anchors)
    hidden, markov, embeddings = (part.to(torch.bfloat16).flatten(0, 2) for part in parts)
    labels = tokens.gather(1, flat + 1).flatten()
    aligned = last.gather(1, flat[..., None].expand(-1, -1, last.shape[-1])).flatten(0, 1)
    weights = torch.exp(-torch.arange(block) / args.decay).expand(places.shape).flatten()
    weights = weights / weights.sum()
    head, w2 = drafter.lm_head.weight, drafter.markov_head.markov_w2.weight
    loss, overlap, best = DraftLoss.apply(
        hidden, markov, head, w2, aligned, labels, weights, args.ce_weight, args.l1_weight
    )
    confidence = drafter.confidence_head.proj(torch.cat([hidden, embeddings], -1).float()).squeeze(-1)
    loss = loss + (weights * F.binary_cross_entropy_with_logits(confidence, overlap, reduction="none")).sum()
    per_position = overlap.view(-1, block).mean(0)
    hits = (best == labels).float().view(-1, block).cumprod(1).mean(0)
    return loss, per_position, hits


def write_checkpoint(drafter: Drafter, folder: Path) -> None:
    """The published layout: config.json, and every tensor in bfloat16 under its parameter's name."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.to(torch.bfloat16).contiguous() for name, value in drafter.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    drafter.config.to_json_file(folder / "config.json")


def main() -> None:
    options = {"steps": 3600, "tokens": 4096, "anchors": 96, "rate": 2e-3, "warmup": 50, "fall": 0.5, "decay": 4.0}
    weights = {"ce_weight": 0.4, "l1_weight": 0.6, "save_every": 200}
    parser = arguments(__doc__, HERE / "drafter", "drafter", **options, **weights)
    parser.add_argument("--start-from", type=Path, help="a state of another head: its backbone is taken over")
    parser.add_argument("--data", type=Path, default=Path("artifacts/demo-training"))
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(HERE / "target/tokenizer.json"))
    target = Qwen3ForCausalLM.from_pretrained(HERE / "target", dtype=torch.float32)
    torch.manual_seed(args.seed)
    drafter = Drafter(config(target.config, tokenizer.token_to_id("<|mask|>")))
    start_from_target(drafter, target)
    held = held_out_rows(target, tokenizer, 128, args.data)
    prompt_lengths = [row.shape[1] - 128 for row in held]
    features = TargetFeatures(target)
    fast_features, fast_drafter = (torch.compile(part, dynamic=False) for part in (features, drafter))
    shards = Shards(args.data, args.tokens, args.anchors, args.seed)

    def step_once(step: int) -> tuple[torch.Tensor, Entry]:
        tokens, anchors = shards(step, drafter.config.block_size)
        loss, overlap, hits = losses(drafter, fast_drafter, fast_features, tokens, anchors, args)
        hits_length = round(1 + hits.sum().item(), 3)
        return loss, {"block_hits": hits_length, "overlap": [round(v, 3) for v in overlap.tolist()]}

    def check() -> Entry:
        write_checkpoint(drafter, args.output)
        walked = walk(drafter, features, held, prompt_lengths)
        shares = [round(share, 3) for share in walked.per_position]
        return {"held_out_acceptance_length": round(walked.length, 3), "held_out_per_position": shares}

    tables = ("markov_w", "embed_tokens", "lm_head")
    if args.start_from:
        start_from_state(drafter, args.start_from)
    run = Run("drafter", drafter, optimizers(drafter, args.rate, tables), args.state, args.log)
    train(run, args, step_once, check)


if __name__ == "__main__":
    main()
