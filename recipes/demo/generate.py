"""Let the trained target write the drafter's training text: continuations of pieces of the training modules.

    python recipes/demo/generate.py                   # writes artifacts/demo-training/generated-*.npz, resumes

A drafter is trained on what its target says, not on what people wrote (the corpus only gives the prompts). Most
continuations are greedy, the rest sampled, because a bundle is asked for both.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from decoder import Decoder
from train_target import packed_tokens

HERE = Path(__file__).parent
NEW_TOKENS, SPREAD = 192, 48  # a continuation's length and how far it varies; a shard's rows have one length
LENGTHS, SHARES = (256, 512, 1024), (0.75, 0.2, 0.05)


@torch.inference_mode()
def continue_rows(model: Qwen3ForCausalLM, prompts: torch.Tensor, new_tokens: int, temperature: float) -> torch.Tensor:
    """Prompts [N, P] and their continuations, [N, P + new_tokens] int64; temperature 0 is greedy."""
    decoder = Decoder(model, len(prompts), prompts.shape[1] + new_tokens)
    rows = feed = prompts
    for _ in range(new_tokens):
        logits = decoder.step(feed)
        if temperature == 0:
            feed = logits.argmax(-1, keepdim=True)
        else:
            feed = torch.multinomial(torch.softmax(logits / temperature, -1), 1)
        rows = torch.cat([rows, feed], 1)
    return rows


def held_out_rows(model: Qwen3ForCausalLM, tokenizer: Tokenizer, new_tokens: int, folder: Path) -> list[torch.Tensor]:
    """Greedy float32 continuations of the held-out prompts, one [1, P + new_tokens] each; kept in `folder`."""
    prompts_text = (HERE / "prompts.jsonl").read_bytes()
    weights = (HERE / "target/model.safetensors").read_bytes()
    digest = hashlib.sha256(prompts_text + weights + bytes([new_tokens % 256])).hexdigest()[:16]
    path = folder / f"held-out-{digest}.pt"
    if not path.exists():
        prompts = [tokenizer.encode(json.loads(line)["prompt"]).ids for line in prompts_text.decode().splitlines()]
        torch.save([continue_rows(model, torch.tensor([prompt]), new_tokens, 0.0) for prompt in prompts], path)
    return list(torch.load(path, weights_only=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("artifacts/demo-training"))
    parser.add_argument("--shards", type=int, default=70)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--sampled-share", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(HERE / "target/tokenizer.json"))
    model = Qwen3ForCausalLM.from_pretrained(HERE / "target", dtype=torch.bfloat16).eval()
    corpus = packed_tokens(tokenizer, held_out=False, seed=args.seed)
    columns = (TextColumn("generate"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=args.shards, note="")
        for shard in range(args.shards):
            progress.update(task, completed=shard + 1)
            path = args.output / f"generated-{shard:04d}.npz"
            if path.exists():
                continue
            rng = np.random.default_rng([args.seed, shard])
            torch.manual_seed(args.seed * 100_003 + shard)
            length = int(rng.choice(LENGTHS, p=SHARES))
            count = args.batch * 256 // length
            prompt_length = length - NEW_TOKENS + int(rng.integers(-SPREAD, SPREAD + 1))
            starts = rng.integers(0, len(corpus) - prompt_length, count)
            prompts = np.stack([corpus[s : s + prompt_length] for s in starts]).astype(np.int64)
            temperature = 0.0 if rng.random() >= args.sampled_share else 0.8
            rows = continue_rows(model, torch.from_numpy(prompts), length - prompt_length, temperature)
            part = path.with_suffix(".part.npz")
            np.savez(part, rows=rows.numpy().astype(np.int16), prompt_length=prompt_length, temperature=temperature)
            part.replace(path)


if __name__ == "__main__":
    main()
