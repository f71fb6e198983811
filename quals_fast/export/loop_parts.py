"""Parts of the search in the form that a loop of a graph needs: fixed shapes, no writing in place.

Shapes: B sentences, K slots, G groups of n beams, C candidates a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quals_fast.ops import GroupChoice


def group_select(
    logprobs: Tensor,
    token_ids: Tensor,
    beam_scores: Tensor,
    active: Tensor | None,
    *,
    rule: str,
    num_beam_groups: int,
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
) -> GroupChoice:
    """Choose as `ops.EAGER.group_select` does, which has the same arguments."""
    batch, num_beams, width = logprobs.shape
    groups, size = num_beam_groups, num_beams // num_beam_groups

    def by_group(x: Tensor) -> Tensor:
        return x.view(batch, size, groups, width).permute(2, 0, 1, 3).flatten(2)  # (G, B, n*C)

    is_fairseq09 = rule == "fairseq09"
    if active is None or is_fairseq09:  # its groups never rest
        active = torch.ones(batch, groups, dtype=torch.bool)
    scores, tokens, place = choose_in_turn(
        torch.zeros(batch, vocab_size),
        by_group(logprobs),
        by_group(token_ids),
        by_group(beam_scores[:, :, None].expand_as(logprobs)),
        active.T[:, :, None],
        penalty,
        2 * size,
        2 * size if is_fairseq09 else size,
        -1 if is_fairseq09 else eos_token_id,
    )
    beam_idx = place // width * groups + torch.arange(groups)[:, None, None]
    chosen = scores, tokens, beam_idx, place % width
    return GroupChoice(*(part.permute(1, 2, 0) for part in chosen))


@torch.library.custom_op("quals_fast::choose_in_turn", mutates_args=())
def choose_in_turn(
    count: Tensor,  # (B, V) float32: uses of each token by earlier groups
    logprobs: Tensor,  # (G, B, n*C) float32
    token_ids: Tensor,  # (G, B, n*C) int64
    beam_scores: Tensor,  # (G, B, n*C) float32
    active: Tensor,  # (G, B, 1) bool
    penalty: float,
    n_chosen: int,
    n_counted: int,
    uncounted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the groups choose in turn; stands in a trace for the Scan in `translations`.

    Args:
        count: zeros.
        logprobs: of each group's candidates.
        token_ids: of them.
        beam_scores: of the slots that they continue.
        active: groups whose choice counts.
        penalty: nats for each use of a token in an earlier group.
        n_chosen: candidates that each group chooses, 2n.
        n_counted: how many of them penalise later groups, best first.
        uncounted: the token that never does.

    Returns:
        Scores, tokens and places ``(G, B, 2n)`` of what each group has chosen.
    """
    raise NotImplementedError("for traces only")


@choose_in_turn.register_fake
def _(
    count: Tensor,
    logprobs: Tensor,
    token_ids: Tensor,
    beam_scores: Tensor,
    active: Tensor,
    penalty: float,
    n_chosen: int,
    n_counted: int,
    uncounted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*logprobs.shape[:2], n_chosen)
    tokens, places = (token_ids.new_empty(shape) for _ in range(2))
    return logprobs.new_empty(shape), tokens, places


def contains(
    haystack: Tensor, haystack_lengths: Tensor, needles: Tensor, needle_lengths: Tensor
) -> Tensor:
    """Tell which needles stand in their haystack, as `ops.EAGER.span_match` does, with no loop."""
    width, longest = haystack.shape[1], needles.shape[2]
    starts, inside = torch.arange(width), torch.arange(longest)
    windows = haystack[:, (starts[:, None] + inside).clamp(max=width - 1)]  # (B, S, T)
    is_same = windows[:, None] == needles[:, :, None]  # (B, N, S, T)
    is_match = (is_same | (inside >= needle_lengths[:, :, None, None])).all(-1)
    fits = starts + needle_lengths[:, :, None] <= haystack_lengths[:, None, None]
    return (is_match & fits & (needle_lengths > 0)[:, :, None]).any(-1)
