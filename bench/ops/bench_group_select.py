"""Time the groups' choice of one step: ``python -m bench.ops.bench_group_select``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from quals_fast_kernels.group_select import (
    GroupChoice,
    group_select_ref,
    group_select_triton,
)
from torch import Tensor

from bench.ops.common import Case, run

VOCAB_SIZE, NUM_BEAMS, EOS_TOKEN_ID, PENALTY = 50265, 60, 2, 0.5
WIDTHS = {"fairseq09": 2 * NUM_BEAMS, "hamming": NUM_BEAMS + 1}  # candidates that are enough


def cases() -> Iterator[Case]:
    """Yield the published search's step for both rules; groups of one beam."""
    for rule, width in WIDTHS.items():
        for batch in (1, 16, 64):
            logprobs, token_ids = _candidates(batch, width)
            scores = -torch.rand(batch, NUM_BEAMS, device="cuda")
            active = None
            if rule == "hamming":
                active = torch.ones(batch, NUM_BEAMS, dtype=torch.bool, device="cuda")
            eager, triton, compiled = (
                partial(
                    implementation,
                    logprobs,
                    token_ids,
                    scores,
                    active,
                    rule=rule,
                    num_beam_groups=NUM_BEAMS,
                    penalty=PENALTY,
                    eos_token_id=EOS_TOKEN_ID,
                    vocab_size=VOCAB_SIZE,
                )
                for implementation in (
                    group_select_ref,
                    group_select_triton,
                    torch.compile(group_select_ref, dynamic=False),
                )
            )

            yield Case(
                name=f"{rule} B={batch}",
                config=f"{rule} B={batch} K={NUM_BEAMS} G={NUM_BEAMS} C={width} V={VOCAB_SIZE}",
                providers={"triton": triton, "eager": eager, "compile": compiled},
                agree=partial(_disagreement, eager, triton),
                dtype="float32",
            )


def _candidates(batch: int, width: int) -> tuple[Tensor, Tensor]:
    """Return log-probabilities and ids ``(B, K, C)`` of slots that mostly like the same tokens."""
    parts = []
    for _ in range(batch):  # one at a time, as (B, K, V) would take gigabytes
        common = 3 * torch.randn(VOCAB_SIZE, device="cuda")
        logits = common + torch.randn(NUM_BEAMS, VOCAB_SIZE, device="cuda")
        values, ids = logits.log_softmax(-1).topk(width)
        ids, order = ids.sort(-1)
        parts.append((values.gather(-1, order), ids))
    logprobs, token_ids = (torch.stack(part) for part in zip(*parts, strict=True))
    return logprobs, token_ids


def _disagreement(eager: Callable[[], GroupChoice], triton: Callable[[], GroupChoice]) -> float:
    """Return 0 where both are equal to the bit, as they must be."""
    same = zip(eager(), triton(), strict=True)
    return 0.0 if all(torch.equal(ours, theirs) for ours, theirs in same) else float("inf")


if __name__ == "__main__":
    torch.manual_seed(0)
    run("group_select", cases())
