"""LM head to candidates, against a full softmax and a full sort."""

import pytest
import torch
from quals_fast_kernels.lm_head_topk import topk_lowest_id

from quals_fast import ops

SHAPES = [(1, 1, 3, 1), (3, 7, 63, 5), (60, 16, 1003, 120), (2, 8, 64, 64)]  # N, d, V, k


def truth(hidden, weight, bias, k, suppressed=()):
    logprobs = (hidden.double() @ weight.double().T + bias.double()).log_softmax(-1)
    logprobs[:, list(suppressed)] = -torch.inf
    order = logprobs.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values
    return logprobs.gather(-1, order), order


@pytest.mark.parametrize(("rows", "width", "vocab", "k"), SHAPES)
def test_equal_to_a_full_softmax_and_sort(rows, width, vocab, k):
    hidden, weight, bias = torch.randn(rows, width), torch.randn(vocab, width), torch.randn(vocab)
    expected, ids = truth(hidden, weight, bias, k)
    found, found_ids = ops.lm_head_topk(hidden, weight, bias, k)
    assert torch.equal(found_ids, ids)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_errs_no_more_than_rounding_its_logits(dtype):
    hidden, weight, bias = (
        torch.randn(4, 16).to(dtype),
        torch.randn(301, 16).to(dtype),
        torch.randn(301),
    )
    found, _ = ops.lm_head_topk(hidden, weight, bias, 301)
    expected, _ = truth(hidden, weight, bias, 301)
    assert found.dtype == torch.float32
    logits = hidden.double() @ weight.double().T
    rounding = (logits - logits.to(dtype).double()).abs().max()
    assert (found.double() - expected).abs().max() <= 2 * rounding + 1e-5


def test_suppressed_tokens_are_masked_without_renormalising():
    hidden, weight, bias = torch.randn(5, 8), torch.randn(40, 8), torch.zeros(40)
    plain, ids = ops.lm_head_topk(hidden, weight, bias, 40)
    masked, masked_ids = ops.lm_head_topk(hidden, weight, bias, 40, suppressed=(3, 17))
    assert torch.equal(ids, masked_ids)
    assert (masked[:, [3, 17]] == -torch.inf).all()
    others = [i for i in range(40) if i not in (3, 17)]
    assert torch.equal(masked[:, others], plain[:, others])


def test_a_bias_of_minus_infinity_takes_a_token_out_of_the_vocabulary():
    hidden, weight, bias = torch.randn(2, 8), torch.randn(10, 8), torch.zeros(10)
    bias[4] = -torch.inf
    found, ids = ops.lm_head_topk(hidden, weight, bias, 9)
    assert 4 not in ids
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2))


def test_ties_at_the_edge_go_to_the_lowest_ids():
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0, 2.0, 0.0], [0.0, -0.0, 0.0, -1.0, -0.0, 5.0]])
    _, ids = topk_lowest_id(logits, 3)
    assert [sorted(row) for row in ids.tolist()] == [[0, 1, 4], [0, 1, 5]]


def test_rows_do_not_depend_on_one_another():
    hidden, weight = torch.randn(9, 16), torch.randn(77, 16)
    together = ops.lm_head_topk(hidden, weight, torch.zeros(77), 12)
    alone = ops.lm_head_topk(hidden[4:5], weight, torch.zeros(77), 12)
    assert torch.equal(together[1][4:5], alone[1])
    torch.testing.assert_close(together[0][4:5], alone[0], atol=1e-5, rtol=1e-6)


def test_a_view_with_strides_is_taken():
    hidden, weight = torch.randn(16, 9).T, torch.randn(77, 32)[:, ::2]
    found = ops.lm_head_topk(hidden, weight, torch.zeros(77), 12)
    expected = ops.lm_head_topk(hidden.contiguous(), weight.contiguous(), torch.zeros(77), 12)
    assert torch.equal(found[1], expected[1])
