"""Time the choice of all groups in one step: ``python -m bench.ops.bench_group_select``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from quals_fast_kernels.group_select import (
    GroupChoice,
    group_select_ref,
    group_select_triton,
)
from torch import Tensor

from bench.ops.common import DEVICE, Case, inequality, main, providers

VOCAB_SIZE, NUM_BEAMS, EOS_TOKEN_ID, PENALTY = 50265, 60, 2, 0.5
RULES = ("fairseq09", "hamming")


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the published search's step for both rules; groups of one beam."""
    beams = 6 if tiny else NUM_BEAMS
    for rule in RULES:
        width = 2 * beams if rule == "fairseq09" else beams + 1  # candidates that are enough
        for batch in (1,) if tiny else (1, 16, 64):
            logprobs, token_ids = _candidates(batch, beams, width)
            scores = -torch.rand(batch, beams, device=DEVICE)
            active = None
            if rule == "hamming":
                active = torch.ones(batch, beams, dtype=torch.bool, device=DEVICE)
            given = (logprobs, token_ids, scores, active)
            settings: dict[str, Any] = {
                "rule": rule,
                "num_beam_groups": beams,
                "penalty": PENALTY,
                "eos_token_id": EOS_TOKEN_ID,
                "vocab_size": VOCAB_SIZE,
            }
            choose = providers(group_select_triton, group_select_ref, *given, **settings)
            yield Case(
                name=f"{rule} B={batch}",
                config=f"{rule} B={batch} K={beams} G={beams} C={width} V={VOCAB_SIZE}",
                providers=choose,
                agree=partial(_disagreement, choose["eager"], choose["triton"]),
                dtype="float32",
            )


def _candidates(batch: int, beams: int, width: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and ids ``(B, K, C)`` of slots that mostly like the same tokens."""
    parts = []
    for _ in range(batch):  # one at a time, as (B, K, V) would take gigabytes
        common = 3 * torch.randn(VOCAB_SIZE, device=DEVICE)
        logits = common + torch.randn(beams, VOCAB_SIZE, device=DEVICE)
        values, ids = logits.log_softmax(-1).topk(width)
        ids, order = ids.sort(-1)
        parts.append((values.gather(-1, order), ids))
    logprobs, token_ids = (torch.stack(part) for part in zip(*parts, strict=True))
    return logprobs, token_ids


def _disagreement(eager: Callable[[], GroupChoice], triton: Callable[[], GroupChoice]) -> float:
    return inequality(eager(), triton())


if __name__ == "__main__":
    main("group_select", cases)
