"""One step of diverse beam search: the groups choose in order, each penalised by those before it.

    for g in groups:  s = logprobs[g] - penalty * count[token] + beam_scores[g]
                      choose the 2n best of s;  count[chosen] += 1

Which of the chosen tokens count is the rule: ``fairseq09`` counts all 2n, ``hamming`` the n that
continue the group (EOS never does), and only while the group is active.
Slots are interleaved: slot = rank * G + g. Source: SEMANTICS 1.1; arXiv 1610.02424.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class GroupChoice(NamedTuple):
    """The 2n best candidates of each group, best first; each tensor is ``(B, 2n, G)``."""

    scores: Tensor  # float32: beam score with this step's penalised log-probability
    token_ids: Tensor  # int64
    beam_idx: Tensor  # int64: the slot that the candidate continues
    candidate_idx: Tensor  # int64: its column among the slot's candidates


def group_select_ref(
    logprobs: Tensor,  # (B, K, C) float32
    token_ids: Tensor,  # (B, K, C) int64, ascending in each row
    beam_scores: Tensor,  # (B, K) float32
    active: Tensor | None,  # (B, G) bool
    *,
    rule: str,
    num_beam_groups: int,
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
) -> GroupChoice:
    """Choose the candidates of every group; eager torch, one short loop over the groups.

    Args:
        logprobs: candidates' log-probabilities, nats. Shape ``(B, K, C)``.
        token_ids: the candidates, ascending in each row, so that position breaks ties.
        beam_scores: search score of each slot; -inf for a slot that may not be continued.
        active: groups that still search, for ``hamming``. Shape ``(B, G)``; None for all.
        rule: ``fairseq09`` or ``hamming``.
        num_beam_groups: G.
        penalty: nats for each use of a token in an earlier group.
        eos_token_id: never counted by ``hamming``.
        vocab_size: V, to count in.

    Returns:
        The choice of each group. Of equal scores the lowest (row, token) wins.
    """
    batch, num_beams, width = logprobs.shape
    groups, size = num_beam_groups, num_beams // num_beam_groups
    count = logprobs.new_zeros(batch, vocab_size)
    chosen = []
    for g in range(groups):
        tokens = token_ids[:, g::groups].flatten(1)  # (B, n*C)
        scores = logprobs[:, g::groups].flatten(1) - penalty * count.gather(1, tokens)
        scores = scores + beam_scores[:, g::groups].repeat_interleave(width, 1)
        best, position = scores.sort(dim=-1, descending=True, stable=True)
        best, position = best[:, : 2 * size], position[:, : 2 * size]  # (B, 2n)
        picked = tokens.gather(1, position)
        if rule == "fairseq09":
            count.scatter_add_(1, picked, (best > -torch.inf).float())
        else:
            is_eos, order = (picked == eos_token_id).sort(dim=-1, stable=True)
            continues = ~is_eos[:, :size]
            if active is not None:
                continues = continues & active[:, g, None]
            count.scatter_add_(1, picked.gather(1, order[:, :size]), continues.float())
        rank = position // width
        chosen.append((best, picked, rank * groups + g, position % width))
    return GroupChoice(*(torch.stack(part, -1) for part in zip(*chosen, strict=True)))
