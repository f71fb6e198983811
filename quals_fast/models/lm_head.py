"""From decoder states to the next token: candidates of a search, or one given token.

`LMHead` asks the kernels, on any device. `CpuLMHead` is the same for CPUs, in blocks of logits that
stay in the processor's cache, and with weights and states as pairs of 8-bit integers if wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast.models.integers import SplitLinear
from quals_fast.ops import Kernels, topk_lowest_id

_ROWS = 64  # rows of logits at once: 64 x 30,522 float32 are 8 MB
_BLOCK = 64  # columns whose maximum stands for them in the search for candidates


class LMHead:
    """The LM head by the kernels of a backend.

    Args:
        weight: Shape ``(V, d)``.
        bias: added to the logits in float32. Shape ``(V,)``.
        kernels: what computes.
    """

    def __init__(self, weight: Tensor, bias: Tensor, kernels: Kernels) -> None:
        self._weight, self._bias, self._kernels = weight, bias, kernels

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and ids of the k likeliest next tokens, ``(N, k)`` each.

        Args:
            hidden: decoder states. Shape ``(N, d)``.
            k: candidates a row.
            suppressed: ids that get -inf after the softmax.
            exact_edge: of equals at the edge the lowest ids must be in; else any may be.
        """
        return self._kernels.lm_head_topk(hidden, self._weight, self._bias, k, suppressed)

    def logprob(self, hidden: Tensor, target_ids: Tensor) -> Tensor:
        """Return each row's log-probability of its token: ``(N, d)`` and ``(N,)`` to ``(N,)``."""
        return self._kernels.linear_logprob(hidden, self._weight, self._bias, target_ids)


class CpuLMHead(LMHead):
    """The LM head on a CPU; the same results as `LMHead` up to float32 rounding.

    Args:
        weight: float32. Shape ``(V, d)``.
        bias: added to the logits in float32. Shape ``(V,)``.
        kernels: of the eager backend.
        integers: compute with 8-bit integers, two a number (`SplitLinear`).
    """

    def __init__(self, weight: Tensor, bias: Tensor, kernels: Kernels, *, integers: bool) -> None:
        super().__init__(weight, bias, kernels)
        self._project: Callable[[Tensor], Tensor] = (
            SplitLinear(weight) if integers else lambda rows: F.linear(rows, weight)
        )
        self._biased = bool((bias != 0).any())

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and ids of the k likeliest next tokens, ``(N, k)`` each."""
        found = []
        for logprobs in self._logprobs(hidden):
            logprobs[:, list(suppressed)] = -torch.inf
            values, ids = topk_lowest_id(logprobs, k) if exact_edge else _topk(logprobs, k)
            ids, order = ids.sort(-1)
            found.append((values.gather(-1, order), ids))
        return torch.cat([values for values, _ in found]), torch.cat([ids for _, ids in found])

    def logprob(self, hidden: Tensor, target_ids: Tensor) -> Tensor:
        """Return each row's log-probability of its token: ``(N, d)`` and ``(N,)`` to ``(N,)``."""
        targets = target_ids[:, None].split(_ROWS)
        parts = zip(self._logprobs(hidden), targets, strict=True)
        return torch.cat([logprobs.gather(-1, ids)[:, 0] for logprobs, ids in parts])

    def _logprobs(self, hidden: Tensor) -> Iterator[Tensor]:
        """Yield the log-softmax of some rows after the other, ``(_ROWS, V)``."""
        for rows in hidden.float().split(_ROWS):
            logits = self._project(rows)
            if self._biased:
                logits += self._bias
            yield logits.log_softmax(-1)


def _topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row ``(N, V)``; of equals at the edge, any.

    They stand in the k blocks with the largest maxima, so few columns need to be ordered.
    """
    rows, size = values.shape
    blocks = size // _BLOCK
    if blocks <= k:
        return values.topk(k)
    body = values[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK))
    best = body.amax(2).topk(k, sorted=False).indices
    columns = (best[:, :, None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
    rest = torch.arange(blocks * _BLOCK, size).expand(rows, -1)
    columns = torch.cat([columns, rest], 1)
    found, at = values.gather(1, columns).topk(k)
    return found, columns.gather(1, at)
