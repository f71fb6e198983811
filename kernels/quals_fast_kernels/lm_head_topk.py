"""LM head to candidates: the k likeliest tokens of each row, and their log-probabilities.

    logprobs = log_softmax(hidden @ weight.T + bias);  candidates = top k of logprobs

Only k of V columns leave the operation, since no search rule can ever choose another one
(the exact shortcut: penalties only lower scores, and at most k - 2n tokens are penalised).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def lm_head_topk_ref(
    hidden: Tensor,  # (N, d)
    weight: Tensor,  # (V, d)
    bias: Tensor,  # (V,) float32; -inf takes a token out of the vocabulary
    k: int,
    suppressed: tuple[int, ...] = (),
) -> tuple[Tensor, Tensor]:
    """Return the k likeliest tokens of each row; eager torch.

    Args:
        hidden: decoder states. Shape ``(N, d)``. In half precision the logits are rounded to it, as
            `F.linear` does, before all else is done in float32.
        weight: LM head. Shape ``(V, d)``.
        bias: added to the logits in float32. Shape ``(V,)``.
        k: candidates a row; at most V.
        suppressed: token ids that get -inf *after* the softmax, so nothing is renormalised.

    Returns:
        Log-probabilities, float32 nats, and token ids, int64; both ``(N, k)``, in ascending
        order of token id. Of equal log-probabilities at the edge the lowest ids are in.
    """
    logits = F.linear(hidden, weight).float().add_(bias)  # (N, V)
    lse = logits.logsumexp(-1, keepdim=True)  # (N, 1)
    if suppressed:
        logits[:, list(suppressed)] = -torch.inf
    values, token_ids = topk_lowest_id(logits, k)
    token_ids, order = token_ids.sort(-1)
    return values.gather(-1, order) - lse, token_ids


def topk_lowest_id(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row ``(N, V)``; of equals at the edge, the lowest columns.

    `torch.topk` breaks ties as it likes, which would let two backends disagree.
    """
    vocab_size = logits.shape[-1]
    if k == vocab_size:
        return logits, torch.arange(k, device=logits.device).expand(logits.shape[0], k)
    if not logits.is_cuda:  # a look at the values is free here, and ties at the edge are rare
        values, columns = logits.topk(k + 1)
        if not bool((values[:, k - 1] == values[:, k]).any()):
            return values[:, :k], columns[:, :k]
    bits = (logits + 0.0).view(torch.int32)  # + 0.0 makes -0.0 and 0.0 equal
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()  # same order as the floats
    reverse = torch.arange(vocab_size - 1, -1, -1, device=logits.device)
    columns = (ordered * 2**32 + reverse).topk(k).indices
    return logits.gather(-1, columns), columns
