"""Attention for training on a CPU, where PyTorch's own backward pass is slow.

Registered with transformers as `NAME`. All rows and heads go through one batched product, and the
probabilities are kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "batched"


class BatchedAttention(torch.autograd.Function):
    """Attention by batched products in the type of its inputs; `reference` says what it is."""

    @staticmethod
    def reference(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        """Define what is computed: ``(B, H, T, d)`` of queries ``(B, H, T, d)``.

        Args:
            query: ``(B, H, T, d)``.
            key: ``(B, H, S, d)``.
            value: ``(B, H, S, d)``.
            mask: added to the scores, ``(B, 1, T, S)`` or ``(B, 1, 1, S)``.
            scale: of the scores.
        """
        scores = query @ key.mT * scale
        return (scores if mask is None else scores + mask).softmax(-1) @ value

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scale: float,
        dropout: float,
    ) -> Tensor:
        """Return what `reference` does; `dropout` is a share of the probabilities."""
        rows, heads, targets, _ = query.shape
        q, k, v = (each.flatten(0, 1) for each in (query * scale, key, value))
        scores = torch.bmm(q, k.mT)
        if mask is not None:
            scores.view(rows, heads, targets, -1).add_(mask.to(scores.dtype))
        shares = scores.softmax(-1)
        kept = (
            torch.empty_like(shares).bernoulli_(1 - dropout).div_(1 - dropout) if dropout else None
        )
        ctx.save_for_backward(q, k, v, shares, kept)
        ctx.scale, ctx.shape = scale, (rows, heads)
        return torch.bmm(shares if kept is None else shares * kept, v).unflatten(0, ctx.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        q, k, v, shares, kept = ctx.saved_tensors
        out = gradient.flatten(0, 1)
        of_shares = torch.bmm(out, v.mT)
        used = shares
        if kept is not None:
            of_shares, used = of_shares.mul_(kept), shares * kept
        of_scores = torch._softmax_backward_data(of_shares, shares, -1, shares.dtype)
        gradients = (
            torch.bmm(of_scores, k).mul_(ctx.scale),
            torch.bmm(of_scores.mT, q),
            torch.bmm(used.mT, out),
        )
        return *(each.unflatten(0, ctx.shape) for each in gradients), None, None, None


def batched_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers calls it."""
    attended: Tensor = BatchedAttention.apply(query, key, value, attention_mask, scaling, dropout)
    return attended.transpose(1, 2), None


AttentionInterface.register(NAME, batched_attention)
AttentionMaskInterface.register(NAME, eager_mask)
