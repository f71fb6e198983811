"""`engine.filtering` on tensors: find the hypotheses to keep without reading a value on the host.

Shapes are fixed and no value decides what runs, so that all of it fits in a CUDA graph.
`quals_fast.engine.filtering.keep_pairs` does the same for one summary in plain Python.
Source: docs/semantics.md 1.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from quals_fast.batching import size_from
from quals_fast.decoding.rules import Hypotheses
from quals_fast.engine.textkeys import Parts, reader_for, to_front
from quals_fast.models.checkpoint import Conventions
from quals_fast.models.tokenizer import QATokenizer, Source

_MIN_WIDTH = 64  # of padded summaries

SpanMatch = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Summaries(NamedTuple):
    """Summaries as answers are looked up in them: as token ids or lower-cased code points."""

    symbols: Tensor  # (B, S) int32
    lengths: Tensor  # (B,) int64


class Sequences(NamedTuple):
    """The parts of `Hypotheses` that the selection reads."""

    token_ids: Tensor
    lengths: Tensor
    sums: Tensor


class Selection(NamedTuple):
    """Which hypotheses are kept."""

    order: Tensor  # (B, N) int64: hypotheses, first the kept ones in the order of selection
    n_kept: Tensor  # (B,) int64
    unsure: Tensor  # (B,) bool: `keep_pairs` must redo this summary on the host


class PairSelector:
    """Filters and selects the hypotheses of one checkpoint.

    Args:
        tokenizer: determines whether answers are matched by ids or by text. If its decoder is
            neither WordPiece nor byte-level nor Metaspace, every summary is unsure.
        conventions: special ids and V.
        device: where the hypotheses are.
        span_match: the implementation of `ops.Kernels.span_match`.
    """

    def __init__(
        self,
        tokenizer: QATokenizer,
        conventions: Conventions,
        device: torch.device,
        span_match: SpanMatch,
    ) -> None:
        self._device, self._tokenizer, self._span_match = device, tokenizer, span_match
        self._by_ids = tokenizer.answer_match == "ids"
        self._sep, self._unknown = conventions.sep_token_id, tokenizer.unknown_token_id
        special = {
            conventions.eos_token_id,
            conventions.pad_token_id,
            conventions.forced_bos_token_id,
        }
        is_special = [token in special for token in range(conventions.vocab_size)]
        self._is_special = torch.tensor(is_special, device=device)
        self._reader = reader_for(
            tokenizer, conventions.vocab_size, device, by_letters=not self._by_ids
        )

    def encode_summaries(self, summaries: Sequence[Source]) -> Summaries:
        """Put summaries on the device; to be done before the search."""
        symbols, lengths = self.pad_summaries(summaries)
        return Summaries(symbols.to(self._device), lengths.to(self._device))

    def pad_summaries(self, summaries: Sequence[Source]) -> Summaries:
        """Do as `encode_summaries` does, but leave them on the host."""
        rows: list[Sequence[int]] = [
            s.text_ids if self._by_ids else [*map(ord, self._tokenizer.spelled(s).lower())]
            for s in summaries
        ]
        lengths = [len(row) for row in rows]
        width = size_from(max(_MIN_WIDTH, *lengths))
        symbols = np.full((len(rows), width), -1, np.int32)
        for row, values in zip(symbols, rows, strict=True):
            row[: len(values)] = values
        return Summaries(torch.from_numpy(symbols), torch.tensor(lengths, device="cpu"))

    def select(
        self, hypotheses: Hypotheses | Sequences, summaries: Summaries, max_pairs: int | None
    ) -> Selection:
        """Drop sequences that are not pairs about their summary, then let the answers take turns.

        Args:
            hypotheses: of B summaries, N each; a length of 0 is no hypothesis.
            summaries: from `encode_summaries`.
            max_pairs: as in `ScoringConfig`.
        """
        ids, device = hypotheses.token_ids, hypotheses.token_ids.device
        batch, num_beams, length = ids.shape
        if self._reader is None:
            order = torch.arange(num_beams, device=device).expand(batch, num_beams)
            n_kept = torch.zeros(batch, dtype=torch.int64, device=device)
            return Selection(order, n_kept, torch.ones_like(n_kept, dtype=torch.bool))
        inside = torch.arange(length, device=device) < hypotheses.lengths[..., None]
        plain = inside & ~self._is_special[ids]  # (B, N, T)
        is_sep = plain & (ids == self._sep)
        is_behind = is_sep.cumsum(-1) > 0
        parts = Parts(ids, plain & ~is_behind, is_sep, plain & is_behind & ~is_sep)
        texts = self._reader.read(parts)
        if self._by_ids:
            needles = to_front(ids.int(), parts.in_answer)
        else:
            assert texts.letters is not None
            needles = texts.letters
        is_found = self._span_match(summaries.symbols, summaries.lengths, *needles)
        has_one_sep = is_sep.sum(-1) == 1
        is_answer = ~texts.is_blank & is_found
        if self._unknown is not None:  # it may stand for another word in the summary
            is_answer = is_answer & ~(parts.in_answer & (ids == self._unknown)).any(-1)
        order, n_kept = take_turns(
            hypotheses.sums,
            has_one_sep & is_answer,
            _are_equal(texts.answers),
            _are_equal(texts.questions),
            max_pairs,
        )
        return Selection(order, n_kept, (has_one_sep & texts.is_doubtful).any(-1))


def take_turns(
    sums: Tensor,
    is_pair: Tensor,
    same_answer: Tensor,
    same_question: Tensor,
    max_pairs: int | None,
) -> tuple[Tensor, Tensor]:
    """Select as `quals_fast.engine.filtering.select` does.

    Args:
        sums: summed search scores. Shape ``(B, N)``.
        is_pair: what may be selected. Shape ``(B, N)``, bool.
        same_answer: whether two answers are equal. Shape ``(B, N, N)``, bool.
        same_question: likewise.
        max_pairs: as in `ScoringConfig`.

    Returns:
        Order and number of `Selection`.
    """
    n = sums.shape[1]
    index = torch.arange(n, device=sums.device)
    is_better = sums[:, None] > sums[:, :, None]  # (B, N, N): j than i
    is_tie = (sums[:, None] == sums[:, :, None]) & (index < index[:, None])
    is_before = (is_better | is_tie) & is_pair[:, None]
    rivals = is_before & same_answer
    # A pair's round is the number of better pairs with its answer, lost ones included.
    turn = rivals.sum(-1)  # (B, N)
    is_taken = is_pair & ~(rivals & same_question).any(-1)
    if max_pairs is not None:
        added = (is_taken[:, None] & (turn[:, None] == index[:, None])).sum(-1)  # (B, N): by round
        goes_on = (added > 0) & (added.cumsum(-1) < max_pairs)
        stops_before = F.pad((~goes_on).long().cumsum(-1), (1, -1))
        is_taken = is_taken & (stops_before.gather(-1, turn) == 0)
    # Within a round the answers come in the order in which their best pairs stand.
    position = is_before.sum(-1)
    first = torch.where(same_answer & is_pair[:, None], position[:, None], n).amin(-1)
    rank = torch.where(is_taken, turn * n + first, n * n + index)
    return rank.argsort(-1), is_taken.sum(-1)


def _are_equal(keys: Tensor) -> Tensor:
    """Compare all keys ``(B, N, 3)`` of a summary with one another. Shape ``(B, N, N)``."""
    return (keys[:, :, None] == keys[:, None]).all(-1)
