"""Log-probabilities of given tokens, against a full softmax in float64."""

import pytest
import torch

from quals_fast import ops


@pytest.mark.parametrize(("rows", "width", "vocab"), [(1, 1, 2), (63, 5, 1003), (513, 8, 64)])
def test_equal_to_a_full_softmax(rows, width, vocab):
    hidden, weight, bias = torch.randn(rows, width), torch.randn(vocab, width), torch.randn(vocab)
    targets = torch.randint(vocab, (rows,))
    logprobs = (hidden.double() @ weight.double().T + bias.double()).log_softmax(-1)
    expected = logprobs.gather(-1, targets[:, None])[:, 0]
    found = ops.linear_logprob(hidden, weight, bias, targets)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)


def test_agrees_with_the_candidates_of_the_search():
    hidden, weight, bias = torch.randn(6, 8), torch.randn(50, 8), torch.randn(50)
    candidates, ids = ops.lm_head_topk(hidden, weight, bias, 50)
    for column in (0, 7, 49):
        found = ops.linear_logprob(hidden, weight, bias, ids[:, column])
        torch.testing.assert_close(found, candidates[:, column], atol=1e-5, rtol=1e-6)
