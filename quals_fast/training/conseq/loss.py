"""The contrastive loss: likely positives, unlikely negatives.

    positive token y:  (1 - e) * -log p(y)        + e / V * sum over v of -log p(v)
    negative token y:  (1 - e) * -log(1 - p(y))   + e / V * sum over v of -log(1 - p(v))

with label smoothing e over V tokens; summed over the tokens of both, divided by their number.
Source: criterion label_smoothed_cross_entropy_with_unlikelihood of the published code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100  # label of a position to ignore, as in transformers
FLOOR = math.log(1e-20)  # of log(1 - p), as published


def conseq_loss(
    positive_logits: Tensor,
    positive_labels: Tensor,
    negative_logits: Tensor,
    negative_labels: Tensor,
    *,
    label_smoothing: float = 0.1,
) -> Tensor:
    """Compute the ConSeq loss: make positive summaries likely and negative ones unlikely.

    A positive token y costs ``-log p(y)``, a negative one ``-log(1 - p(y))``, both with label
    smoothing.

    Args:
        positive_logits: Logits of the positive summaries. Shape ``(B, T, V)``.
        positive_labels: Token ids, -100 for positions to ignore. Shape ``(B, T)``, int64.
        negative_logits: Logits of the negative summaries. Shape ``(N, U, V)``.
        negative_labels: Token ids, -100 for positions to ignore. Shape ``(N, U)``, int64.
        label_smoothing: Label smoothing e, from 0 to below 1.

    Returns:
        The mean loss over all tokens of both sets, in nats; a scalar.

    Raises:
        ValueError: If `label_smoothing` is out of range, or all labels are -100.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must be from 0 to below 1, but got {label_smoothing}")
    kept, wanted = _tokens(positive_logits, positive_labels)
    positive = _smoothed(F.log_softmax(kept, -1), wanted, label_smoothing)
    kept, unwanted = _tokens(negative_logits, negative_labels)
    negative = _smoothed(log_not(kept).clamp(min=FLOOR), unwanted, label_smoothing)
    count = len(wanted) + len(unwanted)
    if count == 0:
        raise ValueError("the labels must have a token, but all are -100; leave such rows out")
    return (positive + negative) / count


def log_not(logits: Tensor) -> Tensor:
    """Return log(1 - p) of every token, exact where p is near 1; shapes ``(N, V)``.

    For p up to one half, log1p(-p) is accurate. Only the likeliest token can have more; there,
    1 - p is the probability of all other tokens: their logsumexp minus that of all tokens.
    """
    log_p = F.log_softmax(logits, -1)
    top = logits.argmax(-1, keepdim=True)
    is_top = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, top, True)
    others = logits.masked_fill(is_top, -torch.inf).logsumexp(-1, keepdim=True)
    of_top = others - logits.logsumexp(-1, keepdim=True)
    # Masked before the logarithm, since a gradient of infinity times zero would be NaN.
    of_rest = torch.log1p(-log_p.masked_fill(is_top, -torch.inf).exp())
    return torch.where(is_top, of_top, of_rest)


def _tokens(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Select positions that are not ignored: logits ``(N, V)``, at least float32, and labels."""
    is_token = labels != IGNORED
    kept = logits[is_token]
    return kept if kept.dtype == torch.float64 else kept.float(), labels[is_token]


def _smoothed(values: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Sum the smoothed losses of log-probabilities ``(N, V)`` at labels ``(N,)``."""
    at_labels = values.gather(-1, labels[:, None]).sum()
    rest = values.sum() * label_smoothing / values.shape[-1] if label_smoothing else 0.0
    return -((1 - label_smoothing) * at_labels + rest)
