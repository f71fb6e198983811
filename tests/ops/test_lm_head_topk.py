"""LM head to candidates, against a full softmax and a full sort."""

import pytest
import torch
from op_cases import devices, half_precision, needs_no_triton, on_gpu
from quals_fast_kernels import lm_head_topk as op
from quals_fast_kernels._compat import tl, triton
from quals_fast_kernels.lm_head_topk import _place_of_top, topk_lowest_id

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
    found, found_ids = ops.EAGER.lm_head_topk(hidden, weight, bias, k)
    assert torch.equal(found_ids, ids)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_errs_no_more_than_rounding_its_logits(dtype):
    hidden, weight, bias = (
        torch.randn(4, 16).to(dtype),
        torch.randn(301, 16).to(dtype),
        torch.randn(301),
    )
    found, _ = ops.EAGER.lm_head_topk(hidden, weight, bias, 301)
    expected, _ = truth(hidden, weight, bias, 301)
    assert found.dtype == torch.float32
    logits = hidden.double() @ weight.double().T
    rounding = (logits - logits.to(dtype).double()).abs().max()
    assert (found.double() - expected).abs().max() <= 2 * rounding + 1e-5


def test_suppressed_tokens_are_masked_without_renormalising():
    hidden, weight, bias = torch.randn(5, 8), torch.randn(40, 8), torch.zeros(40)
    plain, ids = ops.EAGER.lm_head_topk(hidden, weight, bias, 40)
    masked, masked_ids = ops.EAGER.lm_head_topk(hidden, weight, bias, 40, suppressed=(3, 17))
    assert torch.equal(ids, masked_ids)
    assert (masked[:, [3, 17]] == -torch.inf).all()
    others = [i for i in range(40) if i not in (3, 17)]
    assert torch.equal(masked[:, others], plain[:, others])


def test_a_bias_of_minus_infinity_takes_a_token_out_of_the_vocabulary():
    hidden, weight, bias = torch.randn(2, 8), torch.randn(10, 8), torch.zeros(10)
    bias[4] = -torch.inf
    found, ids = ops.EAGER.lm_head_topk(hidden, weight, bias, 9)
    assert 4 not in ids
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2))


def test_ties_at_the_edge_go_to_the_lowest_ids():
    logits = torch.tensor([[1.0, 2.0, 1.0, 1.0, 2.0, 0.0], [0.0, -0.0, 0.0, -1.0, -0.0, 5.0]])
    _, ids = topk_lowest_id(logits, 3)
    assert [sorted(row) for row in ids.tolist()] == [[0, 1, 4], [0, 1, 5]]


def test_rows_do_not_depend_on_one_another():
    hidden, weight = torch.randn(9, 16), torch.randn(77, 16)
    together = ops.EAGER.lm_head_topk(hidden, weight, torch.zeros(77), 12)
    alone = ops.EAGER.lm_head_topk(hidden[4:5], weight, torch.zeros(77), 12)
    assert torch.equal(together[1][4:5], alone[1])
    torch.testing.assert_close(together[0][4:5], alone[0], atol=1e-5, rtol=1e-6)


def test_a_view_with_strides_is_taken():
    hidden, weight = torch.randn(16, 9).T, torch.randn(77, 32)[:, ::2]
    found = ops.EAGER.lm_head_topk(hidden, weight, torch.zeros(77), 12)
    expected = ops.EAGER.lm_head_topk(hidden.contiguous(), weight.contiguous(), torch.zeros(77), 12)
    assert torch.equal(found[1], expected[1])


KERNEL_SHAPES = [  # N, d, V, k
    (1, 16, 17, 17),
    (3, 40, 17, 5),
    (3, 64, 128, 61),
    (1, 64, 129, 120),
    (2, 40, 1003, 120),
    (63, 16, 1003, 7),
    (65, 16, 33, 1),
]
kernel_shapes = pytest.mark.parametrize(
    "shape", KERNEL_SHAPES, ids=lambda s: "N{}-d{}-V{}-k{}".format(*s)
)


def inputs(rows, width, vocab, dtype=torch.float32, device="cpu"):
    hidden, weight = torch.randn(rows, width), torch.randn(vocab, width) / width**0.5
    return hidden.to(device, dtype), weight.to(device, dtype), torch.randn(vocab, device=device)


def integers(rows, width, vocab, device):
    """Logits that are exact in float32, whatever the order of summation, and full of ties."""
    hidden, weight = torch.randint(-2, 3, (rows, width)), torch.randint(-1, 2, (vocab, width))
    return (
        hidden.float().to(device),
        weight.float().to(device),
        torch.randint(-1, 2, (vocab,)).float().to(device),
    )


def assert_is_choice(found, ids, logprobs, tolerance):
    """Check a choice against every log-probability: ids may differ from its best within the error.

    Args:
        found: log-probabilities of the choice. Shape (N, k).
        ids: its token ids.
        logprobs: in float64. Shape (N, V).
        tolerance: largest error of a log-probability.
    """
    k = ids.shape[1]
    assert (ids[:, 1:] > ids[:, :-1]).all()
    chosen = logprobs.gather(-1, ids)
    torch.testing.assert_close(found.double(), chosen, atol=tolerance, rtol=1e-6)
    best = logprobs.sort(dim=-1, descending=True, stable=True)
    swapped = (ids != best.indices[:, :k].sort(-1).values).any(-1)
    torch.testing.assert_close(
        chosen.sort(-1, descending=True).values,
        best.values[:, :k],
        atol=2 * tolerance,
        rtol=0.0,
        msg=lambda text: f"{text}\n{int(swapped.sum())} rows hold other ids",
    )


@devices
@kernel_shapes
def test_kernel_is_equal_to_a_full_softmax_and_sort(shape, device):
    rows, width, vocab, k = shape
    hidden, weight, bias = inputs(rows, width, vocab, device=device)
    found, ids = op.lm_head_topk_triton(hidden, weight, bias, k)
    assert found.dtype == torch.float32 and ids.dtype == torch.int64
    logprobs = (hidden.double() @ weight.double().T + bias.double()).log_softmax(-1)
    assert_is_choice(found, ids, logprobs, 1e-5)


@half_precision
def test_kernel_errs_at_most_twice_as_much_as_eager_in_low_precision(device, dtype):
    hidden, weight, bias = inputs(3, 40, 301, dtype, device)
    logprobs = (hidden.double() @ weight.double().T + bias.double()).log_softmax(-1)
    eager, _ = op.lm_head_topk_ref(hidden, weight, bias, 301)
    tolerance = 2 * float((eager.double() - logprobs).abs().max()) + 1e-5
    assert_is_choice(*op.lm_head_topk_triton(hidden, weight, bias, 301), logprobs, tolerance)
    assert_is_choice(*op.lm_head_topk_triton(hidden, weight, bias, 60), logprobs, tolerance)


@devices
@pytest.mark.parametrize("k", [1, 20, 60, 300])
def test_kernel_breaks_ties_as_the_reference_does(k, device):
    case = integers(3, 16, 301, device)
    found, ids = op.lm_head_topk_triton(*case, k)
    expected, expected_ids = op.lm_head_topk_ref(*case, k)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


@devices
def test_kernel_takes_the_lowest_ids_of_equal_logits(device):
    hidden, weight = torch.zeros(2, 16, device=device), torch.ones(1003, 16, device=device)
    _, ids = op.lm_head_topk_triton(hidden, weight, torch.zeros(1003, device=device), 120)
    assert torch.equal(ids.cpu(), torch.arange(120).expand(2, 120))


@devices
@pytest.mark.parametrize("k", [5, 60, 200])
def test_kernel_fills_up_with_the_lowest_tokens_outside_the_vocabulary(k, device):
    hidden, weight, bias = integers(2, 16, 201, device)
    bias[torch.randperm(201)[:170].to(device)] = -torch.inf
    found, ids = op.lm_head_topk_triton(hidden, weight, bias, k, suppressed=(3, 200))
    expected, expected_ids = op.lm_head_topk_ref(hidden, weight, bias, k, suppressed=(3, 200))
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


@devices
def test_kernel_masks_suppressed_tokens_without_renormalising(device):
    case = inputs(2, 16, 40, device=device)
    plain, _ = op.lm_head_topk_triton(*case, 40)
    for suppressed in ((3,), (3, 17), [39, 0, 3]):
        masked, ids = op.lm_head_topk_triton(*case, 40, suppressed)
        assert torch.equal(ids.cpu(), torch.arange(40).expand(2, 40))
        assert (masked[:, list(suppressed)] == -torch.inf).all()
        others = [i for i in range(40) if i not in suppressed]
        assert torch.equal(masked[:, others], plain[:, others])


@triton.jit
def _place_kernel(keys_ptr, place_ptr, k, SIZE: tl.constexpr, DIGIT_BITS: tl.constexpr):
    at = tl.arange(0, SIZE)
    keys = tl.load(keys_ptr + at).to(tl.uint32)
    tl.store(place_ptr + at, _place_of_top(keys, k, DIGIT_BITS=DIGIT_BITS))


@devices
@pytest.mark.parametrize("digit_bits", [1, 2, 4])
@pytest.mark.parametrize("highest", [0, 3, 2**32 - 1])
def test_selection_numbers_the_largest_keys_in_order_of_position(highest, digit_bits, device):
    keys = torch.randint(highest + 1, (64,), device=device)
    keys[:2] = highest
    for k in (1, 2, 30, 64):
        place = torch.empty(64, dtype=torch.int64, device=device)
        _place_kernel[(1,)](keys, place, k, SIZE=64, DIGIT_BITS=digit_bits)
        best = keys.sort(descending=True, stable=True).indices[:k].sort().values
        expected = torch.full_like(place, -1)
        expected[best] = torch.arange(k, device=device)
        assert torch.equal(place, expected)


@devices
def test_kernel_never_returns_padding(device):
    hidden, weight, bias = inputs(1, 16, 130, device=device)
    bias[0] = -torch.nan  # its bits come before those of -inf
    _, ids = op.lm_head_topk_triton(hidden, weight, bias, 130)
    assert torch.equal(ids.cpu(), torch.arange(130)[None])


@devices
def test_kernel_writes_every_output(device, monkeypatch):
    case = inputs(3, 16, 130, device=device)
    expected = op.lm_head_topk_triton(*case, 61)
    empty = torch.empty

    def poisoned(*args, **options):
        made = empty(*args, **options)
        return made.fill_(torch.nan if made.is_floating_point() else -(2**31))

    monkeypatch.setattr(torch, "empty", poisoned)
    found = op.lm_head_topk_triton(*case, 61)
    assert all(map(torch.equal, found, expected))


@devices
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy meets nan
@pytest.mark.parametrize("neighbour", [torch.nan, torch.inf, 1e30])
def test_kernel_keeps_rows_apart(neighbour, device):
    hidden, weight, bias = inputs(3, 16, 130, device=device)
    expected = op.lm_head_topk_triton(hidden, weight, bias, 20)
    hidden[::2] = neighbour
    found, ids = op.lm_head_topk_triton(hidden, weight, bias, 20)
    assert torch.equal(found[1], expected[0][1]) and torch.equal(ids[1], expected[1][1])
    assert (ids[:, 1:] > ids[:, :-1]).all() and ids.min() >= 0 and ids.max() < 130


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_kernel_gives_a_row_the_same_bits_in_any_batch(dtype):
    hidden, weight, bias = inputs(200, 384, 5003, dtype, "cuda")
    together = op.lm_head_topk_triton(hidden, weight, bias, 120)
    for rows in (slice(0, 60), slice(77, 78)):
        apart = op.lm_head_topk_triton(hidden[rows], weight, bias, 120)
        assert all(
            torch.equal(one, other[rows]) for one, other in zip(apart, together, strict=True)
        )


@pytest.mark.gpu
@on_gpu
def test_kernel_runs_in_a_cuda_graph():
    hidden, weight, bias = inputs(60, 384, 5003, torch.bfloat16, "cuda")
    op.lm_head_topk_triton(hidden, weight, bias, 120, (1, 2))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = op.lm_head_topk_triton(hidden, weight, bias, 120, (1, 2))
    hidden.copy_(torch.randn_like(hidden))
    graph.replay()
    assert all(map(torch.equal, found, op.lm_head_topk_triton(hidden, weight, bias, 120, (1, 2))))


@devices
def test_kernel_takes_strided_rows_and_none(device):
    hidden, weight, bias = inputs(6, 16, 33, device=device)
    wide = torch.zeros(33, 20, device=device)
    wide[:, :16] = weight
    found = op.lm_head_topk_triton(hidden[::2], wide[:, :16], bias, 4)
    assert all(
        map(torch.equal, found, op.lm_head_topk_triton(hidden[::2].clone(), weight, bias, 4))
    )
    assert [part.shape for part in op.lm_head_topk_triton(hidden[:0], weight, bias, 4)] == [
        (0, 4),
        (0, 4),
    ]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"hidden": torch.zeros(2, 16).double()}, TypeError, "`hidden` must be .* got torch.float"),
        ({"hidden": torch.zeros(16)}, ValueError, r"`hidden` must have shape \(any, any\), .*16"),
        ({"hidden": torch.zeros(16, 2).T}, ValueError, "`hidden` must be contiguous in its last"),
        ({"weight": torch.zeros(33, 16).half()}, TypeError, "`weight` must be torch.float32, but"),
        ({"weight": torch.zeros(33, 8)}, ValueError, r"`weight` must have shape \(any, 16\), but"),
        ({"weight": torch.zeros(0, 16), "bias": torch.zeros(0)}, ValueError, "must not be empty"),
        ({"weight": torch.zeros(33, 16, device="meta")}, ValueError, "`weight` must be on cpu, b"),
        ({"bias": torch.zeros(32)}, ValueError, r"`bias` must have shape \(33,\), but got \(32,\)"),
        ({"bias": torch.zeros(33).half()}, TypeError, "`bias` must be torch.float32, but got"),
        ({"k": 0}, ValueError, "`k` must be from 1 to the 33 tokens of `weight`, but got 0"),
        ({"k": 34}, ValueError, "`k` must be from 1 to the 33 tokens of `weight`, but got 34"),
        ({"suppressed": (33,)}, ValueError, r"`suppressed` must hold .* 0 to 32, but got \(33,\)"),
    ],
)
def test_launcher_refuses_what_does_not_fit(changed, error, message):
    fitting = {
        "hidden": torch.zeros(2, 16),
        "weight": torch.zeros(33, 16),
        "bias": torch.zeros(33),
        "k": 4,
    }
    with pytest.raises(error, match=message):
        op.lm_head_topk_triton(**{**fitting, **changed})


@needs_no_triton
def test_launcher_says_that_triton_is_missing():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        op.lm_head_topk_triton(*inputs(1, 16, 17), 3)
