"""Time the LM head's candidates on a GPU.

python -m bench.ops.bench_lm_head_topk
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.lm_head_topk import lm_head_topk_ref, lm_head_topk_triton

from bench.ops.common import Case, main, providers
from bench.ops.lm_heads import LmHead, lm_heads

K, SUPPRESSED = 120, (1,)  # two candidates a beam; the search always rules out the pad token


def error_of_allowed(head: LmHead) -> float:
    """Return the kernel's largest error over what is allowed, twice eager's and 1e-5.

    A choice of other tokens than the best may cost twice as much: two errors can add up.
    """
    ours, ids = lm_head_topk_triton(*head, K, SUPPRESSED)
    eager, eager_ids = lm_head_topk_ref(*head, K, SUPPRESSED)
    if not bool((ids.diff() > 0).all()):
        return torch.inf
    error = eager_error = regret = 0.0
    for rows, logprobs in head.truth():
        logprobs[:, list(SUPPRESSED)] = -torch.inf
        chosen = logprobs.gather(-1, ids[rows])
        error = max(error, float((ours[rows] - chosen).abs().max()))
        eager_chosen = logprobs.gather(-1, eager_ids[rows])
        eager_error = max(eager_error, float((eager[rows] - eager_chosen).abs().max()))
        lost = logprobs.topk(K).values - chosen.sort(descending=True).values
        regret = max(regret, float(lost.abs().max()))
    return max(error, regret / 2) / (2 * eager_error + 1e-5)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the workloads of generation."""
    for head in lm_heads(tiny):
        yield Case(
            name=head.config,
            config=f"{head.config} k={K}",
            providers=providers(lm_head_topk_triton, lm_head_topk_ref, *head, K, SUPPRESSED),
            agree=partial(error_of_allowed, head),
        )


if __name__ == "__main__":
    main("lm_head_topk", cases)
