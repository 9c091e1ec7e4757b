"""Measure the committed pair on the held-out modules: bits per byte of the target, greedy acceptance of the drafter.

python recipes/demo/evaluate.py                   # prints one JSON line
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from acceptance import walk
from drafter_model import Drafter
from generate import held_out_rows
from train_drafter import TAPS, TargetFeatures
from train_target import Batches, held_out_nats, packed_tokens

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new-tokens", type=int, default=128, help="length of each greedy continuation")
    parser.add_argument("--scratch", type=Path, default=Path("artifacts/demo-training"))
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(HERE / "target/tokenizer.json"))
    target = Qwen3ForCausalLM.from_pretrained(HERE / "target", dtype=torch.float32)
    drafter = Drafter(Qwen3Config.from_pretrained(HERE / "drafter"))
    saved = load_file(HERE / "drafter/model.safetensors")
    drafter.load_state_dict({name: value.float() for name, value in saved.items()})

    tokens = packed_tokens(tokenizer, held_out=True, seed=0)
    nats = held_out_nats(target, Batches(tokens, 1024, len(tokens) // 1024 - 1, 1)(0))
    text = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    rows = held_out_rows(target, tokenizer, args.new_tokens, args.scratch)
    walked = walk(drafter, TargetFeatures(target), rows, [row.shape[1] - args.new_tokens for row in rows])
    result = {
        "nats_per_token": round(nats, 3),
        "bits_per_byte": round(nats / math.log(2) * len(tokens) / len(text.encode()), 3),
        "prompts": len(rows),
        "rounds": walked.rounds,
        "acceptance_length": round(walked.length, 3),
        "acceptance_per_position": [round(share, 3) for share in walked.per_position],
        "taps": TAPS,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
