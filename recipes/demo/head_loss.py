"""Cross-entropy of a large LM head in row chunks, so that the logits stay in the processor's cache."""

from __future__ import annotations

from typing import Any

import torch

ROWS = 1024


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy in nats of hidden [N, E] bfloat16, head [V, E] float32 and labels [N] int64."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        low = head.to(torch.bfloat16)
        hidden_grad, head_grad, total = torch.empty_like(hidden), torch.zeros_like(head), 0.0
        for first in range(0, len(hidden), ROWS):
            rows, wanted = hidden[first : first + ROWS], labels[first : first + ROWS]
            logits = (rows @ low.T).float()
            log_sum = logits.logsumexp(-1, keepdim=True)
            total += (log_sum.squeeze(-1) - logits.gather(1, wanted[:, None]).squeeze(1)).sum().item()
            grad = logits.sub_(log_sum).exp_()
            grad[torch.arange(len(wanted)), wanted] -= 1
            grad = grad.to(torch.bfloat16)
            hidden_grad[first : first + ROWS] = grad @ low
            head_grad += (grad.T @ rows).float()
        ctx.save_for_backward(hidden_grad / len(hidden), head_grad / len(hidden))
        return torch.tensor(total / len(hidden))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad * grads[0].to(hidden_grad.dtype), head_grad * grads[0], None
