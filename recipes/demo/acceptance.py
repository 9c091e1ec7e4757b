"""Greedy acceptance length of a drafter on given target text, without a runtime: a check of the bundle's figure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from drafter_model import Drafter


@dataclass(frozen=True)
class Walk:
    """Rounds walked, committed tokens a round (bonus included), and the share of rounds that accepted draft i."""

    rounds: int
    length: float
    per_position: tuple[float, ...]


@torch.no_grad()
def drafts(drafter: Drafter, taps: torch.Tensor, tokens: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
    """Greedy drafts [N, block] at each anchor [N] of one sequence: tokens [1, T], taps [1, T, A*E]."""
    previous, head = tokens[0, anchors], drafter.markov_head
    hidden = drafter.hidden(taps, previous[None], anchors[None])[0]
    base, state, rows = drafter.lm_head(hidden), torch.zeros(len(anchors), drafter.config.markov_rank), []
    for slot in range(base.shape[1]):
        state, row = head.step(state, head.markov_w1(previous), hidden[:, slot])
        previous = (base[:, slot] + head.markov_w2(row)).argmax(-1)
        rows.append(previous)
    return torch.stack(rows, 1)


@torch.no_grad()
def walk(drafter: Drafter, features: nn.Module, rows: list[torch.Tensor], prompt_lengths: list[int]) -> Walk:
    """Walk each greedy continuation [1, P + N] as rounds would: the longest right prefix, then one token more."""
    block = drafter.config.block_size
    counts, rounds = torch.zeros(block), 0
    for row, prompt in zip(rows, prompt_lengths, strict=True):
        taps, _ = features(row)
        anchors = torch.arange(prompt, row.shape[1] - block)
        proposed = drafts(drafter, taps.to(drafter.fc.weight.dtype), row, anchors)
        labels = row[0, anchors[:, None] + 1 + torch.arange(block)]
        accepted = (proposed == labels).long().cumprod(1).sum(1)
        place = 0
        while place < len(anchors):
            count = int(accepted[place])
            counts[:count] += 1
            rounds += 1
            place += count + 1
    shares = tuple((counts / rounds).tolist())
    return Walk(rounds, 1 + sum(shares), shares)
