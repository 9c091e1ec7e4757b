"""The demo's held-out prompts as token ids, and the text that divergence is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from inflate import DEMO

from forerun_compiler.prompts import read_prompts


def held_out(target: Path) -> list[list[int]]:
    """All of them, by the target's own tokenizer; every peer is given these ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    return [tokenizer.encode(text).ids for text in read_prompts(DEMO / "prompts.jsonl")]


def choose_prompts(small: Path, count: int, new_tokens: int) -> list[list[int]]:
    """`count` prompts, spread evenly over all held-out ones; the same ones every time.

    All are cut into `count` parts of equal length in their order, and the first of each part is taken whose greedy
    continuation has no end of text within `new_tokens`, which engines treat differently. A part without one gives none.
    `small` computes what the inflated targets compute, in a fraction of their time.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32).eval()

    def goes_on(prompt: list[int]) -> bool:
        ids = torch.tensor([prompt])
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
        return bool(found.shape[1] == len(prompt) + new_tokens)

    found = (next(filter(goes_on, part), None) for part in spread(held_out(small), count))
    return [prompt for prompt in found if prompt is not None]


def spread(pieces: Sequence[list[int]], count: int) -> list[Sequence[list[int]]]:
    """`count` parts of the pieces, in order, whose lengths differ by one at most; no more than pieces."""
    count = min(count, len(pieces))
    edges = [len(pieces) * number // count for number in range(count + 1)] if count else []
    return [pieces[start:end] for start, end in pairwise(edges)]


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
