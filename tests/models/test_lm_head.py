"""The LM heads of a CPU against the eager kernels."""

import pytest
import torch
from model_folders import needs_int8

from quals_fast.models.integers import Int8Linear
from quals_fast.models.lm_head import CpuLMHead, LMHead, ScreenedLMHead, _topk
from quals_fast.ops import EAGER

HEADS = [
    pytest.param(CpuLMHead, 1e-5, id="float32"),
    pytest.param(ScreenedLMHead, 5e-3, id="screened", marks=needs_int8),
]


def setup(rows=70, size=1003, d=32, peak=3.0):
    weight, bias = torch.randn(size, d) * 0.3, torch.zeros(size)
    bias[[5, 17]] = -torch.inf
    hidden = torch.randn(rows, d) * peak
    return hidden, weight, bias


@pytest.mark.parametrize(("make", "tolerance"), HEADS)
@pytest.mark.parametrize("suppressed", [(), (3,), (3, 900)])
def test_candidates_are_those_of_the_kernel(make, tolerance, suppressed):
    hidden, weight, bias = setup()
    head, kernel = make(weight, bias, EAGER), LMHead(weight, bias, EAGER)
    for k, exact_edge in ((16, False), (120, True), (1003, True)):
        values, ids = head.topk(hidden, k, suppressed, exact_edge=exact_edge)
        expected, expected_ids = kernel.topk(hidden, k, suppressed)
        assert torch.equal(ids, expected_ids)
        torch.testing.assert_close(values, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("make", "tolerance"), HEADS)
def test_log_probabilities_of_targets(make, tolerance):
    hidden, weight, bias = setup()
    targets = torch.randint(20, 1003, (70,))
    found = make(weight, bias, EAGER).logprob(hidden, targets)
    expected = LMHead(weight, bias, EAGER).logprob(hidden, targets)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


@needs_int8
def test_screening_leaves_the_differences_within_a_row_alone():
    hidden, weight, bias = setup()
    values, ids = ScreenedLMHead(weight, bias, EAGER).topk(hidden, 16, (), exact_edge=False)
    logits = (hidden.double() @ weight.double().T).gather(1, ids)
    differences = (values - values[:, :1]) - (logits - logits[:, :1])
    assert differences.abs().max() < 1e-5


@needs_int8
def test_likely_tokens_are_missed_where_one_feature_hides_the_others():
    hidden, weight, bias = setup()
    head = ScreenedLMHead(weight, bias, EAGER)
    assert head.finds_likeliest(hidden)
    hidden[0, 7], weight[:, 7] = 1000, 0
    head = ScreenedLMHead(weight, bias, EAGER)
    assert not head.finds_likeliest(hidden)
    hidden[0, 8] = torch.nan
    assert head.finds_likeliest(hidden)
    assert head.finds_likeliest(hidden[:1])  # of what is not finite nothing can be told


@needs_int8
@pytest.mark.parametrize("size", [20, 65, 300])
def test_small_vocabularies(size):
    hidden, weight, bias = setup(size=size, rows=3)
    values, ids = ScreenedLMHead(weight, bias, EAGER).topk(hidden, 16, (3,), exact_edge=False)
    expected, expected_ids = LMHead(weight, bias, EAGER).topk(hidden, 16, (3,))
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(values, expected, atol=5e-3, rtol=0)


@needs_int8
def test_integer_products_err_by_about_a_hundredth():
    hidden, weight, _ = setup()
    expected = hidden @ weight.T
    error = Int8Linear(weight)(hidden) - expected
    assert 0 < error.std() < 0.02 * expected.std()
    assert torch.equal(Int8Linear(weight)(torch.zeros(2, 32)), torch.zeros(2, 1003))


@needs_int8
@pytest.mark.parametrize("rows", [1, 7, 63])
def test_layers_in_integers(rows):
    torch.manual_seed(rows)
    exact = torch.nn.Linear(96, 40).requires_grad_(False)
    x = torch.nn.functional.gelu(torch.randn(2, rows, 96) * 3)  # far more room above 0 than below
    layer = Int8Linear(exact.weight, exact.bias)
    found, expected = layer(x), exact(x)
    assert found.shape == expected.shape
    assert (found - expected).std() < 0.01 * expected.std()
    torch.testing.assert_close(
        layer(x[1:, :1]), found[1:, :1], atol=1e-6, rtol=0
    )  # rows stand alone


@needs_int8
def test_few_candidates_and_all_have_the_same_level():
    hidden, weight, bias = setup()
    head = ScreenedLMHead(weight, bias, EAGER)
    few, ids = head.topk(hidden, 16, (3,), exact_edge=False)
    everything, _ = head.topk(hidden, 1003, (3,), exact_edge=True)
    torch.testing.assert_close(everything.gather(1, ids), few, atol=5e-4, rtol=0)
    targets = head.logprob(hidden, ids[:, 0])
    torch.testing.assert_close(targets, few[:, 0], atol=5e-4, rtol=0)


@pytest.mark.parametrize("size", [63, 64, 130, 1003])
def test_the_largest_by_blocks_are_those_of_all(size):
    torch.manual_seed(size)
    values = torch.randn(5, size)
    values[1] = values[1].round()  # of equals any
    values[2, ::3] = -torch.inf
    values[3] = 0
    values[4, size // 2] = torch.nan
    for k in (1, 8, 16):
        largest, ids = _topk(values, k)
        expected, _ = values.topk(k)
        torch.testing.assert_close(largest, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(values.gather(1, ids), largest, rtol=0, atol=0, equal_nan=True)
        assert all(len(set(row)) == k for row in ids.tolist())


@needs_int8
def test_a_bias_counts_in_screening():
    hidden, weight, _ = setup()
    bias = torch.randn(len(weight)) * 3
    head, kernel = (make(weight, bias, EAGER) for make in (ScreenedLMHead, LMHead))
    values, ids = head.topk(hidden, 16, (3,), exact_edge=False)
    expected, expected_ids = kernel.topk(hidden, 16, (3,))
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(values, expected, atol=5e-3, rtol=0)


@needs_int8
def test_states_that_are_not_finite_spoil_their_row_only():
    hidden, weight, bias = setup()
    head, targets = ScreenedLMHead(weight, bias, EAGER), torch.full((70,), 20)
    expected = head.logprob(hidden, targets)
    hidden[3, 1], hidden[8] = torch.nan, torch.inf
    found = head.logprob(hidden, targets)
    assert found.isnan().nonzero().flatten().tolist() == [3, 8]
    torch.testing.assert_close(found.where(~found.isnan(), expected), expected, atol=1e-6, rtol=0)
