"""Time the log-probabilities of given tokens on a GPU.

python -m bench.ops.bench_linear_logprob
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quals_fast_kernels.linear_logprob import linear_logprob_ref, linear_logprob_triton
from torch import Tensor

from bench.ops.common import DEVICE, Case, main, providers
from bench.ops.lm_heads import LmHead, lm_heads


def error_of_allowed(head: LmHead, target_ids: Tensor) -> float:
    """Return the kernel's largest error over what is allowed, twice eager's and 1e-5."""
    ours = linear_logprob_triton(*head, target_ids)
    eager = linear_logprob_ref(*head, target_ids)
    error = eager_error = 0.0
    for rows, logprobs in head.truth():
        expected = logprobs.gather(-1, target_ids[rows, None])[:, 0]
        error = max(error, float((ours[rows] - expected).abs().max()))
        eager_error = max(eager_error, float((eager[rows] - expected).abs().max()))
    return error / (2 * eager_error + 1e-5)


def cases(tiny: bool) -> Iterator[Case]:
    """Yield the workloads of rescoring."""
    for head in lm_heads(tiny):
        target_ids = torch.randint(len(head.weight), (len(head.hidden),), device=DEVICE)
        yield Case(
            name=head.config,
            config=head.config,
            providers=providers(linear_logprob_triton, linear_logprob_ref, *head, target_ids),
            agree=partial(error_of_allowed, head, target_ids),
        )


if __name__ == "__main__":
    main("linear_logprob", cases)
