"""The three-term DSpark loss in row chunks: cross-entropy, total variation to the target, and confidence.

The first two are differentiated by hand so that no [rows, V] tensor outlives its chunk. With q the drafter's and p the
target's distribution, d CE/dz = q - onehot and d ||q - p||_1 / dz = q (s - <q, s>), s = sign(q - p).
"""

from __future__ import annotations

from typing import Any

import torch

ROWS = 1024


class DraftLoss(torch.autograd.Function):
    """Weighted sums over rows: returns (ce_weight * CE + l1_weight * L1, 1 - TV of each row [N], argmax [N])."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        markov_rows: torch.Tensor,
        head: torch.Tensor,
        markov: torch.Tensor,
        target_hidden: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        ce_weight: float,
        l1_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """hidden, target_hidden [N, E]; markov_rows [N, r]; head [V, E]; markov [V, r]; labels, weights [N]."""
        head_low, markov_low = head.to(hidden.dtype), markov.to(hidden.dtype)
        hidden_grad, rows_grad = torch.empty_like(hidden), torch.empty_like(markov_rows)
        markov_grad, total = torch.zeros_like(markov), 0.0
        overlap, best = torch.empty(len(hidden)), torch.empty(len(hidden), dtype=torch.int64)
        for first in range(0, len(hidden), ROWS):
            part = slice(first, first + ROWS)
            logits = (hidden[part] @ head_low.T).float() + (markov_rows[part] @ markov_low.T).float()
            best[part] = logits.argmax(-1)
            q = torch.softmax(logits, -1)
            p = torch.softmax((target_hidden[part] @ head_low.T).float(), -1)
            wanted, weight = labels[part, None], weights[part, None]
            difference = q - p
            distance = difference.abs().sum(-1)
            overlap[part] = 1 - 0.5 * distance
            log_q = q.gather(1, wanted).squeeze(1).clamp_min(1e-30).log()
            total += (weights[part] * (l1_weight * distance - ce_weight * log_q)).sum().item()
            sign = difference.sign_()
            grad = q * (ce_weight + l1_weight * (sign - (q * sign).sum(-1, keepdim=True)))
            grad.scatter_add_(1, wanted, torch.full_like(weight, -ce_weight))
            grad = (grad * weight).to(hidden.dtype)
            hidden_grad[part], rows_grad[part] = grad @ head_low, grad @ markov_low
            markov_grad += (grad.T @ markov_rows[part]).float()
        ctx.save_for_backward(hidden_grad, rows_grad, markov_grad)
        ctx.mark_non_differentiable(overlap, best)
        return torch.tensor(total), overlap, best

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = grads[0]
        hidden, previous, markov = (g * scale.to(g.dtype) for g in ctx.saved_tensors)
        return hidden, previous, None, markov, None, None, None, None, None
