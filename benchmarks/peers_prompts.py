"""The demo's held-out prompts as token ids, and the text that divergence is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inflate import DEMO

from forerun_compiler.prompts import read_prompts


def held_out(target: Path) -> list[list[int]]:
    """All of them, by the target's own tokenizer; every peer is given these ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in read_prompts(DEMO / "prompts.jsonl")]


def choose_prompts(small: Path, count: int, new_tokens: int) -> list[list[int]]:
    """The first `count` whose greedy continuation has no end of text within `new_tokens`: engines treat it differently.

    `small` computes what the inflated targets compute, in a fraction of their time.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, chosen = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32).eval(), []
    for prompt in held_out(small):
        if len(chosen) == count:
            break
        ids = torch.tensor([prompt])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
        if found.shape[1] == len(prompt) + new_tokens:
            chosen.append(prompt)
    return chosen


def quality_texts(target: Path, tokens: int) -> list[list[int]]:
    """Texts of `tokens` tokens together, from the front; as `schemes.py` measures quality."""
    return cut_texts(held_out(target), tokens)


def cut_texts(pieces: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Pieces until there are `tokens`, the last one cut; none is shorter than two tokens."""
    texts: list[list[int]] = []
    for piece in pieces:
        if tokens <= 1:
            break
        if len(piece) > 1:
            texts.append(piece[:tokens])
            tokens -= len(texts[-1])
    return texts
