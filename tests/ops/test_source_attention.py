"""Attention to the source, against float64: whatever is masked, in whatever company."""

import pytest
import torch
from op_cases import (
    DEVICE,
    eager_and_triton,
    error,
    errs_no_more_than_eager,
    needs_gpu,
    needs_no_triton,
    needs_triton,
)
from quals_fast_kernels.source_attention import (
    source_attention_ref,
    source_attention_triton,
)

both = eager_and_triton("attend", source_attention_ref, source_attention_triton)

SHAPES = [  # B, N, H, D, S
    pytest.param((1, 1, 1, 8, 1), id="B1-N1-H1-D8-S1"),
    pytest.param((2, 5, 3, 40, 15), id="B2-N5-H3-D40-S15"),
    pytest.param((2, 60, 2, 64, 16), id="B2-N60-H2-D64-S16"),
    pytest.param((3, 60, 1, 32, 17), id="B3-N60-D32-S17"),
    pytest.param((1, 64, 2, 64, 64), id="N64-S64-one-block"),
    pytest.param((1, 65, 2, 64, 65), id="N65-S65-one-block-plus-one"),
    pytest.param((2, 63, 1, 24, 61), id="B2-N63-D24-S61"),
    pytest.param((2, 130, 1, 128, 128), id="B2-N130-D128-S128"),
    pytest.param((1, 3, 1, 16, 1024), id="N3-D16-S1024"),
]


def inputs(B, N, H, D, S, dtype=torch.float32):
    """Draw sources of several lengths, as views of projections in which heads come last."""
    query, source = torch.randn(B, N, H, D), torch.randn(2, B, S, H, D)
    lengths = S - torch.arange(B) * max(1, S // 3) % S  # from 1 to S
    mask = (torch.arange(S) < lengths[:, None])[:, None, None]
    keys, values = source.to(DEVICE, dtype).transpose(2, 3)
    return query.to(DEVICE, dtype), keys, values, mask.to(DEVICE)


def truth(query, keys, values, mask, bias=None):
    """Spell the definition out in float64."""
    query, keys, values = (x.double().cpu() for x in (query, keys, values))
    scores = torch.einsum("bnhd,bhsd->bhns", query, keys) / query.shape[-1] ** 0.5
    for n in range(0 if bias is None else query.shape[1]):
        first = query.shape[1] - 1 - n  # the entry of the first token
        scores[:, :, n] += bias[:, first : first + keys.shape[2]].double().cpu()
    weights = scores.masked_fill(~mask.cpu(), -torch.inf).softmax(-1)
    return torch.einsum("bhns,bhsd->bnhd", weights, values)


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_definition(attend, shape):
    case = inputs(*shape)
    found = attend(*case)
    assert found.dtype == torch.float32
    assert error(found, truth(*case)) <= 1e-5


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_is_added_to_the_scores_by_distance(attend, shape):
    _, queries, heads, _, tokens = shape
    case = *inputs(*shape), torch.randn(heads, queries + tokens - 1, device=DEVICE) * 3
    assert error(attend(*case), truth(*case)) <= 1e-5


@needs_triton
def test_a_bias_may_be_a_view_in_half_precision():
    bias = torch.randn(3, 25, dtype=torch.float16, device=DEVICE)[:, 4:23]
    case = *inputs(2, 5, 3, 40, 15), bias
    assert error(source_attention_triton(*case), truth(*case)) <= 1e-5


def check_half_precision(dtype, shape):
    case = inputs(*shape, dtype=dtype)
    errs_no_more_than_eager(source_attention_triton, source_attention_ref, truth(*case), case)


@needs_triton
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_half_precision_errs_no_more_than_eager(shape):
    check_half_precision(torch.float16, shape)


# The interpreter truncates to bfloat16 where a device rounds, so bfloat16 is tested only here.
@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 60, 16, 64, 128), (2, 240, 12, 40, 1003)], ids=str)
def test_half_precision_errs_no_more_than_eager_on_the_device(dtype, shape):
    check_half_precision(dtype, shape)


@pytest.mark.gpu
@needs_triton
@needs_gpu
def test_a_row_does_not_depend_on_the_others_on_the_device():
    query, keys, values, mask = inputs(16, 60, 16, 64, 128, dtype=torch.float16)
    together = source_attention_triton(query, keys, values, mask)
    for b in range(16):
        alone = source_attention_triton(*(x[b : b + 1] for x in (query, keys, values, mask)))
        assert torch.equal(alone[0], together[b])


@both
def test_any_mask_is_taken(attend):
    """The first block without a token, gaps, and a token at the very end."""
    query, keys, values, _ = inputs(2, 3, 2, 16, 200)
    mask = torch.zeros(2, 1, 1, 200, dtype=torch.bool, device=DEVICE)
    mask[0, ..., 130] = mask[1, ..., 70:140:3] = mask[1, ..., 199] = True
    case = query, keys, values, mask
    assert error(attend(*case), truth(*case)) <= 1e-5


@needs_triton
def test_what_is_masked_does_not_matter():
    query, keys, values, mask = inputs(2, 4, 2, 16, 90)
    expected = source_attention_triton(query, keys, values, mask)
    for part in (keys, values):
        part.masked_fill_(~mask.transpose(2, 3), torch.nan)
    assert torch.equal(source_attention_triton(query, keys, values, mask), expected)


@needs_triton
def test_views_with_strides_are_taken():
    projected = torch.randn(2, 70, 3, 2, 16, device=DEVICE)  # q, k and v of one projection
    query, keys, values = projected.unbind(2)
    mask = torch.rand(70, 1, 1, 2, device=DEVICE).gt(0.3).transpose(0, 3).contiguous()
    mask[..., 0] = True
    case = query[:, ::3], keys.transpose(1, 2), values.transpose(1, 2), mask.expand(2, -1, -1, -1)
    assert error(source_attention_triton(*case), truth(*case)) <= 1e-5


@needs_triton
def test_a_row_depends_neither_on_the_others_nor_on_padding():
    query, keys, values, mask = inputs(3, 70, 2, 32, 100)
    together = source_attention_triton(query, keys, values, mask)
    for b in range(3):
        n = int(mask[b].sum())
        alone = source_attention_triton(
            query[b : b + 1, 66:68],
            keys[b : b + 1, :, :n],
            values[b : b + 1, :, :n],
            mask[b : b + 1, ..., :n],
        )
        assert torch.equal(alone, together[b : b + 1, 66:68])


@needs_triton
def test_scores_far_apart_neither_overflow_nor_vanish():
    query, keys, values, mask = inputs(1, 5, 1, 16, 70)
    case = query * 100, keys * 100, values, mask
    assert error(source_attention_triton(*case), truth(*case)) <= 1e-5


@needs_triton
@pytest.mark.parametrize("shape", [(0, 2, 2, 8, 3), (2, 0, 2, 8, 3)], ids=str)
def test_no_query_is_no_result(shape):
    assert source_attention_triton(*inputs(*shape)).shape == shape[:4]


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": torch.zeros(2, 3, 8)}, ValueError, "`query` must have shape"),
        ({"query": torch.zeros(2, 3, 2, 12)}, ValueError, "multiple of 8 up to 128, but got 12"),
        ({"query": torch.zeros(2, 3, 2, 136)}, ValueError, "multiple of 8 up to 128, but got 136"),
        ({"query": torch.zeros(2, 3, 2, 8).double()}, TypeError, "`query` must be torch.float32"),
        ({"keys": torch.zeros(2, 2, 5, 8).half()}, TypeError, "`keys` must be torch.float32"),
        ({"keys": torch.zeros(2, 3, 5, 8)}, ValueError, "`keys` must have shape"),
        ({"values": torch.zeros(2, 2, 4, 8)}, ValueError, "`values` must have shape"),
        (
            {"values": torch.zeros(2, 2, 5, 8)},
            ValueError,
            "`values` must have the strides of `keys`",
        ),
        (
            {"keys": torch.zeros(2, 2, 0, 8), "values": torch.zeros(2, 2, 0, 8)},
            ValueError,
            "`keys` must hold a token or more",
        ),
        ({"mask": torch.ones(2, 5).bool()}, ValueError, "`mask` must have shape"),
        ({"mask": torch.ones(2, 1, 1, 4).bool()}, ValueError, "`mask` must have shape"),
        ({"mask": torch.zeros(2, 1, 1, 5)}, TypeError, "`mask` must be torch.bool"),
        ({"bias": torch.zeros(2, 5)}, ValueError, r"`bias` must have shape \(2, 7\)"),
        ({"bias": torch.zeros(2, 7).int()}, TypeError, "`bias` must be torch.float32"),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    names = ("query", "keys", "values", "mask")
    arguments = dict(zip(names, inputs(2, 3, 2, 8, 5), strict=True))
    change = {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(error, match=message):
        source_attention_triton(**(arguments | change))


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        source_attention_triton(*inputs(1, 1, 1, 8, 1))
