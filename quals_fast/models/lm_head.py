"""From decoder states to the next token: candidates of a search, or one given token.

`LMHead` uses the kernels, on any device; `CpuLMHead` is for CPUs, `ScreenedLMHead` for CPUs with
fast 8-bit integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast.models.integers import Int8Linear
from quals_fast.models.linear import OneDnnLinear, onednn_pays
from quals_fast.ops import Kernels, topk_lowest_id

_MAX_ROWS = 64  # rows of logits at once: 64 x 28,216 float32 are 7 MB
_SPARE_CANDIDATES = 8  # in addition to those wanted, since 8-bit integers confuse their order
_DEFAULT_CANDIDATES = 16  # if the number is not given
_NEARLY = 0.01  # nats: a token that was missed, but is hardly likelier than one that was found
_LOG2_E = 1 / math.log(2)
_BLOCK_COLUMNS = 64  # columns that are represented by their maximum in finding candidates


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
    """The LM head on a CPU, in blocks of rows whose logits stay in the processor's cache.

    The same results as `LMHead`, up to float32 rounding.

    Args:
        weight: float32. Shape ``(V, d)``.
        bias: added to the logits in float32. Shape ``(V,)``.
        kernels: of the eager backend.
    """

    def __init__(self, weight: Tensor, bias: Tensor, kernels: Kernels) -> None:
        super().__init__(weight, bias, kernels)
        self._biased = bool((bias != 0).any())

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and ids of the k likeliest next tokens, ``(N, k)`` each."""
        parts = []
        for rows in hidden.float().split(_MAX_ROWS):
            logprobs = self._logprobs(rows)
            logprobs[:, list(suppressed)] = -torch.inf
            parts.append(topk_lowest_id(logprobs, k) if exact_edge else _topk(logprobs, k))
        return _in_order(parts)

    def logprob(self, hidden: Tensor, target_ids: Tensor) -> Tensor:
        """Return each row's log-probability of its token: ``(N, d)`` and ``(N,)`` to ``(N,)``."""
        parts = zip(
            hidden.float().split(_MAX_ROWS), target_ids[:, None].split(_MAX_ROWS), strict=True
        )
        return torch.cat([self._logprobs(rows).gather(-1, ids)[:, 0] for rows, ids in parts])

    def _logprobs(self, rows: Tensor) -> Tensor:
        """Return the log-probabilities of all tokens, ``(N, V)``."""
        return self._all_logits(rows).log_softmax(-1)

    def _all_logits(self, rows: Tensor) -> Tensor:
        logits = self._linear(rows)
        return logits.add_(self._bias) if self._biased else logits

    @cached_property
    def _linear(self) -> Callable[[Tensor], Tensor]:
        """Rows times the weight; made when first needed, since it copies the weight."""
        if onednn_pays():
            return OneDnnLinear(self._weight)
        return partial(F.linear, weight=self._weight)


class ScreenedLMHead(CpuLMHead):
    """The LM head on a CPU: 8-bit integers preselect tokens, float32 computes the selected ones.

    The likeliest tokens and the targets have float32 logits. Of all others, only the sum of their
    probabilities is taken from the integers. This changes all log-probabilities of a row equally,
    by about a thousandth, and so does not change the order of its tokens. That the likeliest tokens
    are among those selected is nearly certain, not proven: eight more than needed are selected.
    """

    def __init__(self, weight: Tensor, bias: Tensor, kernels: Kernels) -> None:
        super().__init__(weight, bias, kernels)
        self._screen = Int8Linear(weight)
        self._usual = min(_DEFAULT_CANDIDATES + _SPARE_CANDIDATES, len(weight))

    def finds_likeliest(self, hidden: Tensor) -> bool:
        """Return whether the likeliest tokens after these decoder states are all preselected.

        Where one feature is hundreds of times the others, 8-bit integers hide the others. Where
        many tokens are about equally likely, as with random weights, they confuse their order.

        Args:
            hidden: Shape ``(N, d)``; rows that are not finite are left out.
        """
        rows = hidden[hidden.isfinite().all(-1)].float()
        k = min(_DEFAULT_CANDIDATES, len(self._weight))
        if not len(rows):
            return True
        found, _ = self.topk(rows, k, (), exact_edge=False)
        expected, _ = super().topk(rows, k, (), exact_edge=False)
        return bool((found.amin(1) >= expected.amin(1) - _NEARLY).all())

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and ids of the k likeliest next tokens, ``(N, k)`` each."""
        if exact_edge or k + _SPARE_CANDIDATES + len(suppressed) > self._bias.numel():
            return super().topk(hidden, k, suppressed, exact_edge=exact_edge)
        parts = []
        for rows in hidden.float().split(_MAX_ROWS):
            # Suppressed tokens too: they have their share in the softmax.
            logits, ids, lse = self._likeliest(rows, k + _SPARE_CANDIDATES + len(suppressed))
            for token in suppressed:
                logits = logits.masked_fill(ids == token, -torch.inf)
            best, at = logits.topk(k)
            parts.append((best - lse, ids.gather(1, at)))
        return _in_order(parts)

    def logprob(self, hidden: Tensor, target_ids: Tensor) -> Tensor:
        """Return each row's log-probability of its token: ``(N, d)`` and ``(N,)`` to ``(N,)``."""
        parts = []
        for rows, ids in zip(
            hidden.float().split(_MAX_ROWS), target_ids[:, None].split(_MAX_ROWS), strict=True
        ):
            _, _, lse = self._likeliest(rows, self._usual)
            parts.append((self._logits(rows, ids) - lse)[:, 0])
        return torch.cat(parts)

    def _logprobs(self, rows: Tensor) -> Tensor:
        """Return the log-probabilities of all tokens ``(N, V)``, at the level of the screened."""
        _, _, lse = self._likeliest(rows, self._usual)
        return self._all_logits(rows).sub_(lse)

    @cached_property
    def _linear(self) -> Callable[[Tensor], Tensor]:
        """Rows times the weight as it lies; few rows come here, so a copy would not pay."""
        return partial(F.linear, weight=self._weight)

    def _likeliest(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and ids of the k likeliest tokens, ``(N, k)``, and lse ``(N, 1)``."""
        coarse = self._screen(rows)
        if self._biased:
            coarse += self._bias
        screened, ids = _topk(coarse, k)
        best = screened.amax(1, keepdim=True)
        # In place, and by powers of two, which torch computes in a third of the time of `exp`.
        powers = coarse.sub_(best).mul_(_LOG2_E).exp2_()
        coarse_lse = best + powers.sum(1, keepdim=True).log()
        logits = self._logits(rows, ids)
        # What float32 says of the likeliest takes the place of what the integers say.
        change = (logits - coarse_lse).exp() - (screened - coarse_lse).exp()
        return logits, ids, coarse_lse + change.sum(1, keepdim=True).log1p()

    def _logits(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Return the float32 logits ``(N, k)`` of tokens ``(N, k)``."""
        # Both are several times as fast as an index and a batched product with one column.
        products = F.embedding(ids, self._weight) * rows[:, None]
        return products.sum(-1) + self._bias[ids]


def _topk(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row ``(N, V)``; of equals at the edge, any.

    They stand in the k blocks with the largest maxima, so few columns need to be ordered.
    """
    size = values.shape[1]
    blocks = size // _BLOCK_COLUMNS
    if blocks <= k:
        return values.topk(k)
    tail = blocks * _BLOCK_COLUMNS
    body = values[:, :tail].unflatten(1, (blocks, _BLOCK_COLUMNS))
    best = body.amax(2).topk(k, sorted=False).indices
    of_best = body.gather(1, best[:, :, None].expand(-1, -1, _BLOCK_COLUMNS)).flatten(1)
    largest, at = torch.cat([of_best, values[:, tail:]], 1).topk(k)
    block, column = at // _BLOCK_COLUMNS, at % _BLOCK_COLUMNS
    first = F.pad(best * _BLOCK_COLUMNS, (0, 1), value=tail).gather(1, block)
    return largest, first + column


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join values and ids of blocks of rows, in ascending order of id."""
    ids, order = torch.cat([ids for _, ids in parts]).sort(-1)
    return torch.cat([values for values, _ in parts]).gather(-1, order), ids
