"""Log-probabilities of given tokens, against a full softmax in float64."""

import pytest
import torch
from op_cases import devices, half_precision, needs_no_triton, on_gpu
from quals_fast_kernels import linear_logprob as op

from quals_fast import ops


@pytest.mark.parametrize(("rows", "width", "vocab"), [(1, 1, 2), (63, 5, 1003), (513, 8, 64)])
def test_equal_to_a_full_softmax(rows, width, vocab):
    hidden, weight, bias = torch.randn(rows, width), torch.randn(vocab, width), torch.randn(vocab)
    targets = torch.randint(vocab, (rows,))
    logprobs = (hidden.double() @ weight.double().T + bias.double()).log_softmax(-1)
    expected = logprobs.gather(-1, targets[:, None])[:, 0]
    found = ops.EAGER.linear_logprob(hidden, weight, bias, targets)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)


def test_agrees_with_the_candidates_of_the_search():
    hidden, weight, bias = torch.randn(6, 8), torch.randn(50, 8), torch.randn(50)
    candidates, ids = ops.EAGER.lm_head_topk(hidden, weight, bias, 50)
    for column in (0, 7, 49):
        found = ops.EAGER.linear_logprob(hidden, weight, bias, ids[:, column])
        torch.testing.assert_close(found, candidates[:, column], atol=1e-5, rtol=1e-6)


def inputs(rows, width, vocab, dtype=torch.float32, device="cpu"):
    hidden, weight = torch.randn(rows, width), torch.randn(vocab, width) / width**0.5
    bias, targets = torch.randn(vocab), torch.randint(vocab, (rows,))
    return (
        hidden.to(device, dtype),
        weight.to(device, dtype),
        bias.to(device),
        targets.to(device),
    )


def truth(hidden, weight, bias, targets):
    logprobs = (hidden.double() @ weight.double().T + bias.double()).log_softmax(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0]


@devices
@pytest.mark.parametrize(
    "shape",
    [(1, 16, 17), (3, 40, 128), (63, 64, 129), (64, 16, 1003), (65, 40, 1003), (129, 16, 40)],
    ids=lambda s: "N{}-d{}-V{}".format(*s),
)
def test_kernel_is_equal_to_a_full_softmax(shape, device):
    case = inputs(*shape, device=device)
    found = op.linear_logprob_triton(*case)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth(*case), atol=1e-5, rtol=1e-6)


@devices
def test_kernel_finds_every_target(device):
    hidden, weight, bias, _ = inputs(1, 16, 300, device=device)
    targets = torch.arange(300, device=device)
    case = hidden.expand(300, 16), weight, bias, targets
    found = op.linear_logprob_triton(*case)
    torch.testing.assert_close(found.double(), truth(*case), atol=1e-5, rtol=1e-6)


@half_precision
def test_kernel_errs_at_most_twice_as_much_as_eager_in_low_precision(device, dtype):
    case = inputs(63, 40, 1003, dtype, device)
    expected = truth(*case)
    eager = (op.linear_logprob_ref(*case).double() - expected).abs().max()
    error = (op.linear_logprob_triton(*case).double() - expected).abs().max()
    assert error <= 2 * eager + 1e-5


@devices
def test_kernel_gives_tokens_outside_the_vocabulary_minus_infinity(device):
    hidden, weight, bias, _ = inputs(5, 16, 300, device=device)
    bias[:140] = -torch.inf  # a whole tile, and more
    targets = torch.tensor([0, 139, 140, 299, 150], device=device)
    found = op.linear_logprob_triton(hidden, weight, bias, targets)
    assert (found[:2] == -torch.inf).all()
    expected = truth(hidden, weight, bias, targets)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)
    targets[2:4] = torch.tensor([400, -200])  # ids that no one should ask for
    beyond = op.linear_logprob_triton(hidden, weight, bias, targets)
    assert (beyond[2:4] == -torch.inf).all() and torch.equal(beyond[4], found[4])


@devices
def test_kernel_does_not_overflow(device):
    hidden, weight, bias, targets = inputs(3, 16, 130, device=device)
    case = hidden * 1e4, weight, bias, targets
    found = op.linear_logprob_triton(*case)
    torch.testing.assert_close(found.double(), truth(*case), atol=1e-5, rtol=1e-6)


@devices
def test_kernel_writes_every_output(device, monkeypatch):
    case = inputs(65, 16, 130, device=device)
    expected = op.linear_logprob_triton(*case)
    for name in ("empty", "empty_like"):
        made = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, made=made, **o: made(*a, **o).fill_(torch.nan))
    assert torch.equal(op.linear_logprob_triton(*case), expected)


@devices
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy meets nan
@pytest.mark.parametrize("neighbour", [torch.nan, torch.inf, 1e30])
def test_kernel_keeps_rows_apart(neighbour, device):
    hidden, weight, bias, targets = inputs(3, 16, 130, device=device)
    expected = op.linear_logprob_triton(hidden, weight, bias, targets)
    hidden[::2] = neighbour
    assert torch.equal(op.linear_logprob_triton(hidden, weight, bias, targets)[1], expected[1])


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernel_gives_a_row_the_same_bits_in_any_batch(dtype):
    hidden, weight, bias, targets = inputs(200, 384, 5003, dtype, "cuda")
    together = op.linear_logprob_triton(hidden, weight, bias, targets)
    for rows in (slice(0, 60), slice(77, 78)):
        apart = op.linear_logprob_triton(hidden[rows], weight, bias, targets[rows])
        assert torch.equal(apart, together[rows])


@pytest.mark.gpu
@on_gpu
def test_kernel_runs_in_a_cuda_graph():
    case = inputs(60, 384, 5003, torch.bfloat16, "cuda")
    op.linear_logprob_triton(*case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = op.linear_logprob_triton(*case)
    case[0].copy_(torch.randn_like(case[0]))
    graph.replay()
    assert torch.equal(found, op.linear_logprob_triton(*case))


@devices
def test_kernel_takes_strided_rows_and_none(device):
    hidden, weight, bias, targets = inputs(6, 16, 33, device=device)
    wide = torch.zeros(33, 20, device=device)
    wide[:, :16] = weight
    found = op.linear_logprob_triton(hidden[::2], wide[:, :16], bias, targets[:3])
    expected = op.linear_logprob_triton(hidden[::2].clone(), weight, bias, targets[:3])
    assert torch.equal(found, expected)
    assert op.linear_logprob_triton(hidden[:0], weight, bias, targets[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"hidden": torch.zeros(16, 2).T}, ValueError, "`hidden` must be contiguous in its last"),
        ({"weight": torch.zeros(33, 8)}, ValueError, r"`weight` must have shape \(any, 16\), but"),
        ({"bias": torch.zeros(66)[::2]}, ValueError, "`bias` must be contiguous in its last"),
        ({"target_ids": torch.zeros(2).int()}, TypeError, "`target_ids` must be torch.int64, but"),
        ({"target_ids": torch.zeros(3).long()}, ValueError, r"`target_ids` must have .*\(2,\), b"),
    ],
)
def test_launcher_refuses_what_does_not_fit(changed, error, message):
    fitting = {
        "hidden": torch.zeros(2, 16),
        "weight": torch.zeros(33, 16),
        "bias": torch.zeros(33),
        "target_ids": torch.zeros(2, dtype=torch.int64),
    }
    with pytest.raises(error, match=message):
        op.linear_logprob_triton(**{**fitting, **changed})


@needs_no_triton
def test_launcher_says_that_triton_is_missing():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        op.linear_logprob_triton(*inputs(1, 16, 17))
