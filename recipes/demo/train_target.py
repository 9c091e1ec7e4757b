"""Train the demo's target: a small Qwen3 model on the Python standard library's source.

    python recipes/demo/train_target.py               # writes recipes/demo/target, resumes where it stopped

Sequences are packed; weights are kept in float32 and multiplied in bfloat16. The learning rate is flat and falls
linearly to zero over the last part, so a run that resumes with other `--steps` stays valid until the fall begins.
Hidden matrices are trained with Muon (Jordan et al. 2024), the rest with AdamW.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from corpus import modules
from head_loss import HeadLoss
from run import Entry, Run, arguments, optimizers, train

HERE = Path(__file__).parent


def config(tokenizer: Tokenizer) -> Qwen3Config:
    """The architecture of the demo target; the mask token is the drafter's, and the target never sees it."""
    end = tokenizer.token_to_id("<|endoftext|>")
    return Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=10,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )


def packed_tokens(tokenizer: Tokenizer, *, held_out: bool, seed: int) -> np.ndarray:
    """All modules of one side as one row of token ids, [N] int16, shuffled, each closed by the end token."""
    texts = [text for _, text in modules(held_out=held_out)]
    order = np.random.default_rng(seed).permutation(len(texts))
    end = tokenizer.token_to_id("<|endoftext|>")
    rows = []
    for encoding in tokenizer.encode_batch([texts[i] for i in order]):
        rows.append(np.asarray([*encoding.ids, end], dtype=np.int16))
    return np.concatenate(rows)


class Batches:
    """Random windows of the packed tokens, without replacement within an epoch; the step alone decides which."""

    def __init__(self, tokens: np.ndarray, length: int, size: int, seed: int) -> None:
        self.tokens, self.length, self.size, self.seed = tokens, length, size, seed
        self.per_epoch = (len(tokens) - length - 1) // (length * size)

    def __call__(self, step: int) -> torch.Tensor:
        """Token ids of one step, [size, length + 1] int64."""
        epoch, index = divmod(step, self.per_epoch)
        rng = np.random.default_rng([self.seed, epoch])
        offset = int(rng.integers(0, self.length))
        windows = (len(self.tokens) - offset - 1) // self.length
        chosen = rng.permutation(windows)[index * self.size : (index + 1) * self.size]
        rows = [self.tokens[offset + w * self.length :][: self.length + 1] for w in chosen]
        return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.no_grad()
def held_out_nats(model: torch.nn.Module, rows: torch.Tensor) -> float:
    """Mean cross-entropy in nats a token over [N, T + 1] token ids."""
    total = 0.0
    for row in rows.split(8):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(row[:, :-1], use_cache=False).logits
        total += F.cross_entropy(logits.float().flatten(0, 1), row[:, 1:].flatten(), reduction="sum").item()
    return total / rows[:, 1:].numel()


def main() -> None:
    options = {"steps": 1000, "batch": 8, "length": 1024, "rate": 4e-3, "warmup": 60, "fall": 0.4, "save_every": 100}
    parser = arguments(__doc__, HERE / "target", "target", **options)
    parser.add_argument("--long-from", type=float, default=0.8, help="share of the steps trained at half the length")
    args = parser.parse_args()

    tokenizer = Tokenizer.from_file(str(HERE / "target/tokenizer.json"))
    torch.manual_seed(args.seed)
    settings = config(tokenizer)
    settings._attn_implementation = "sdpa"
    model = Qwen3ForCausalLM(settings)
    fast = torch.compile(model.model, dynamic=False)
    tokens = packed_tokens(tokenizer, held_out=False, seed=args.seed)
    short = Batches(tokens, args.length // 2, args.batch * 2, args.seed)
    long = Batches(tokens, args.length, args.batch, args.seed + 1)
    held = packed_tokens(tokenizer, held_out=True, seed=args.seed)
    held_rows = Batches(held, args.length, 32, 1)(0)

    def step_once(step: int) -> tuple[torch.Tensor, Entry]:
        batch = (long if step >= args.long_from * args.steps else short)(step)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = fast(batch[:, :-1], use_cache=False).last_hidden_state
        rows = hidden.to(torch.bfloat16).flatten(0, 1)
        return HeadLoss.apply(rows, model.lm_head.weight, batch[:, 1:].flatten()), {}

    def check() -> Entry:
        return {"held_out_nats": round(held_out_nats(model, held_rows), 4)}

    run = Run("target", model, optimizers(model, args.rate, ("embed",)), args.state, args.log)
    train(run, args, step_once, check)
    final = held_out_nats(model, held_rows)
    model.to(torch.bfloat16).save_pretrained(args.output)
    bytes_per_token = len(tokenizer.decode(held.tolist(), skip_special_tokens=True).encode()) / len(held)
    print(f"held out: {final:.3f} nats a token, {final / math.log(2) / bytes_per_token:.3f} bits per byte")


if __name__ == "__main__":
    main()
