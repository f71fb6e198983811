"""`group_select` in numpy: for CPUs, and for programs that have no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class HostChoice(NamedTuple):
    """The 2n best candidates of each group, best first; each array is ``(B, 2n, G)``."""

    scores: np.ndarray  # float32: beam score with this step's penalised log-probability
    token_ids: np.ndarray  # int64
    beam_idx: np.ndarray  # int64: the slot that the candidate continues
    candidate_idx: np.ndarray  # int64: its column among the slot's candidates


def group_select_host(
    logprobs: np.ndarray,  # (B, K, C) float32
    token_ids: np.ndarray,  # (B, K, C) int64, ascending in each row
    beam_scores: np.ndarray,  # (B, K) float32
    active: np.ndarray | None,  # (B, G) bool
    *,
    rule: str,
    num_beam_groups: int,
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
) -> HostChoice:
    """Choose as `group_select.group_select_ref` does; the arguments are the same, as arrays."""
    batch, num_beams, width = logprobs.shape
    groups, size = num_beam_groups, num_beams // num_beam_groups
    # (G, B, n*C): what a group chooses from is one piece of memory.
    by_group = (batch, size, groups, width), (2, 0, 1, 3), (groups, batch, size * width)
    tokens = token_ids.reshape(by_group[0]).transpose(by_group[1]).reshape(by_group[2])
    clean = logprobs.reshape(by_group[0]).transpose(by_group[1]).reshape(by_group[2])
    gained = beam_scores.reshape(batch, size, groups).transpose(2, 0, 1).repeat(width, 2)
    goes_on = None if active is None else active.T[:, :, None]
    count = np.zeros((batch, vocab_size), np.float32)
    strength, sentence = np.float32(penalty), np.arange(batch)[:, None]
    scores = np.empty((groups, batch, 2 * size), np.float32)
    chosen = np.empty(scores.shape, np.int64)
    for g in range(groups):
        penalised = clean[g] - strength * count[sentence, tokens[g]] + gained[g]
        best = (-penalised).argsort(1, kind="stable")[:, : 2 * size]
        scores[g], chosen[g] = penalised[sentence, best], best
        picked = tokens[g][sentence, best]
        if rule == "fairseq09":
            uses = scores[g] > -np.inf
        else:  # the n best that do not end continue the group
            is_token = picked != eos_token_id
            uses = is_token & (is_token.cumsum(1) <= size)
            uses = uses if goes_on is None else uses & goes_on[g]
        np.add.at(count, (sentence, picked), uses)
    picked = np.take_along_axis(tokens, chosen, 2)
    beam_idx = chosen // width * groups + np.arange(groups)[:, None, None]
    parts = scores, picked, beam_idx, chosen % width
    return HostChoice(*(part.transpose(1, 2, 0) for part in parts))
