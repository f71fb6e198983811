"""Attention through the slot index, against float64 and against a cache that is reordered."""

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
from quals_fast_kernels.beam_attention import (
    beam_attention_ref,
    beam_attention_triton,
)
from torch.nn import functional as F

both = eager_and_triton("attend", beam_attention_ref, beam_attention_triton)

SHAPES = [  # B, K, H, D, T, length
    pytest.param((1, 1, 1, 8, 1, 1), id="B1-K1-H1-D8-T1"),
    pytest.param((2, 5, 3, 40, 9, 7), id="B2-K5-H3-D40-T9-length7"),
    pytest.param((1, 4, 2, 64, 64, 64), id="D64-T64-one-block"),
    pytest.param((1, 4, 2, 64, 65, 65), id="D64-T65-one-block-plus-one"),
    pytest.param((2, 3, 2, 32, 61, 17), id="D32-T61-length17"),
    pytest.param((1, 2, 1, 128, 63, 63), id="D128-T63"),
    pytest.param((1, 2, 1, 24, 1024, 1003), id="D24-T1024-length1003"),
]


def inputs(B, K, H, D, T, length, dtype=torch.float32, index_dtype=torch.int32):
    """Draw a store that is NaN from the newest position on, with an index out of bounds there."""
    new, store = torch.randn(3, B, K, H, D), torch.randn(2, B, K, H, T, D)
    store[:, :, :, :, length - 1 :] = torch.nan
    index = torch.randint(K, (B, K, T))
    index[:, :, length - 1 :] = 2**30
    keys, values = (part.to(DEVICE, dtype, copy=True) for part in store)
    return *new.to(DEVICE, dtype), keys, values, index.to(DEVICE, index_dtype), length


def truth(query, key, value, keys, values, index, length, bias=None):
    """Spell the definition out in float64, one slot and position at a time."""
    q, key, value, keys, values = (x.double().cpu() for x in (query, key, value, keys, values))
    bias = torch.zeros(q.shape[2], length) if bias is None else bias.cpu()
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for k in range(q.shape[1]):
            past = list(enumerate(index[b, k, : length - 1].tolist()))
            mine = torch.stack([*(keys[b, row, :, s] for s, row in past), key[b, k]])  # (T, H, D)
            scores = (q[b, k] * mine).sum(-1) / q.shape[-1] ** 0.5 + bias.T.double()
            weight = scores.softmax(0)  # (T, H)
            mine = torch.stack([*(values[b, row, :, s] for s, row in past), value[b, k]])
            out[b, k] = (weight[:, :, None] * mine).sum(0)
    return out


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_definition(attend, shape):
    case = inputs(*shape)
    _, key, value, keys, values, _, length = case
    stored = keys.clone(), values.clone()
    found = attend(*case)
    assert found.dtype == torch.float32
    assert error(found, truth(*case)) <= 1e-5
    for after, before, new in zip((keys, values), stored, (key, value), strict=True):
        before[:, :, :, length - 1] = new
        assert torch.equal(after.nan_to_num(), before.nan_to_num())  # and nothing else changed


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_a_bias_is_added_to_the_scores(attend, shape):
    _, _, heads, _, _, length = shape
    case = *inputs(*shape), torch.randn(heads, length, device=DEVICE) * 3
    assert error(attend(*case), truth(*case)) <= 1e-5


@needs_triton
def test_a_bias_may_be_a_view_in_half_precision():
    bias = torch.randn(3, 9, dtype=torch.float16, device=DEVICE)[:, :7]
    case = *inputs(2, 5, 3, 40, 9, 7), bias
    assert error(beam_attention_triton(*case), truth(*case)) <= 1e-5


def check_half_precision(dtype, shape):
    case = inputs(*shape, dtype=dtype)
    errs_no_more_than_eager(beam_attention_triton, beam_attention_ref, truth(*case), case)


@needs_triton
@pytest.mark.parametrize("shape", SHAPES[1:-1])
def test_half_precision_errs_no_more_than_eager(shape):
    check_half_precision(torch.float16, shape)


# The interpreter truncates to bfloat16 where a device rounds, so bfloat16 is tested only here.
@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(4, 60, 12, 64, 61, 33), (2, 60, 16, 40, 128, 128)], ids=str)
def test_half_precision_errs_no_more_than_eager_on_the_device(dtype, shape):
    check_half_precision(dtype, shape)


@both
@pytest.mark.parametrize("is_branching", [False, True], ids=["permuted", "branching"])
def test_equal_to_a_cache_that_is_reordered_every_step(attend, is_branching):
    """A few steps of a search: all slots move, or several continue the same one."""
    B, K, H, D, T = 2, 5, 2, 16, 6
    slots = torch.arange(K, device=DEVICE)
    keys, values = torch.full((2, B, K, H, T, D), torch.nan, device=DEVICE)
    moved = keys.clone(), values.clone()
    index = torch.full((B, K, T), 2**30, dtype=torch.int32, device=DEVICE)
    for t in range(T):
        query, key, value = torch.randn(3, B, K, H, D, device=DEVICE)
        for store, new in zip(moved, (key, value), strict=True):
            store[:, :, :, t] = new
        past = (store[..., : t + 1, :].double() for store in moved)
        expected = F.scaled_dot_product_attention(query[:, :, :, None].double(), *past)
        found = attend(query, key, value, keys, values, index, t + 1)
        index[:, :, t] = slots
        assert error(found, expected[:, :, :, 0].cpu()) <= 1e-5
        if is_branching:
            beam_idx = torch.randint(K, (B, K), device=DEVICE)
        else:
            beam_idx = torch.rand(B, K, device=DEVICE).argsort(1)
        index = index.gather(1, beam_idx[:, :, None].expand(-1, -1, T))
        rows = beam_idx[:, :, None, None, None].expand(-1, -1, H, T, D)
        moved = tuple(store.gather(1, rows) for store in moved)


@both
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_one_slot_may_read_a_store_of_many(attend, dtype):
    *new, keys, values, index, length = inputs(2, 4, 3, 8, 5, 5, index_dtype=dtype)
    case = *(part[:, :1] for part in new), keys, values, index[:, 2:3], length
    assert error(attend(*case), truth(*case)) <= 1e-5


@needs_triton
def test_views_with_strides_are_taken():
    projected = torch.randn(2, 3, 3, 2, 16, device=DEVICE)  # q, k and v of one projection
    store = torch.randn(2, 3, 9, 2, 2, 16, device=DEVICE)  # (B, K, T, keys and values, H, D)
    keys, values = (store[:, :, :, i].transpose(2, 3)[..., :7, :] for i in range(2))
    index = torch.randint(3, (2, 1, 9), device=DEVICE).expand(-1, 3, -1)
    case = *projected.unbind(2), keys, values, index, 6
    assert error(beam_attention_triton(*case), truth(*case)) <= 1e-5


@needs_triton
def test_a_slot_does_not_depend_on_the_others():
    *case, length = inputs(3, 4, 2, 32, 20, 13)
    together = beam_attention_triton(*case, length)
    *new, keys, values, index = (part[1:2] for part in case)
    two = (part[:, :2] for part in (*new, index))
    alone = beam_attention_triton(next(two), next(two), next(two), keys, values, next(two), length)
    assert torch.equal(alone, together[1:2, :2])


@needs_triton
def test_scores_far_apart_neither_overflow_nor_vanish():
    query, key, value, keys, *rest = inputs(1, 2, 1, 16, 70, 70)
    case = query * 100, key * 100, value, keys * 100, *rest
    assert error(beam_attention_triton(*case), truth(*case)) <= 1e-5


@needs_triton
def test_no_sentence_is_no_result():
    assert beam_attention_triton(*inputs(0, 2, 2, 8, 3, 3)).shape == (0, 2, 2, 8)


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"length": 0}, ValueError, "`length` must be from 1 to the 5 positions of `keys`"),
        ({"length": 6}, ValueError, "`length` must be from 1 to the 5 positions of `keys`"),
        ({"index": torch.zeros(2, 3, 3).int()}, ValueError, "and the 3 of `index`, but got 4"),
        ({"index": torch.zeros(2, 3, 5)}, TypeError, "`index` must be torch.int32 or torch.int64"),
        ({"index": torch.zeros(2, 4, 5).int()}, ValueError, "`index` must have shape"),
        ({"query": torch.zeros(2, 3, 8)}, ValueError, "`query` must have shape"),
        ({"query": torch.zeros(2, 3, 2, 12)}, ValueError, "multiple of 8 up to 128, but got 12"),
        ({"query": torch.zeros(2, 3, 2, 136)}, ValueError, "multiple of 8 up to 128, but got 136"),
        ({"query": torch.zeros(2, 3, 2, 8).double()}, TypeError, "`query` must be torch.float32"),
        ({"key": torch.zeros(2, 3, 2, 9)}, ValueError, "`key` must have shape"),
        ({"value": torch.zeros(2, 1, 2, 8)}, ValueError, "`value` must have shape"),
        ({"value": torch.zeros(2, 3, 2, 8).half()}, TypeError, "`value` must be torch.float32"),
        (
            {"key": torch.zeros(2, 2, 3, 8).transpose(1, 2)},
            ValueError,
            "`key` must have the strides of `query`",
        ),
        (
            {"keys": torch.zeros(2, 2, 2, 5, 8), "values": torch.zeros(2, 2, 2, 5, 8)},
            ValueError,
            "`keys` must have room for the 3 slots of `query`, but got 2",
        ),
        ({"bias": torch.zeros(2, 3)}, ValueError, "`bias` must have shape"),
        ({"bias": torch.zeros(2, 4).int()}, TypeError, "`bias` must be torch.float32"),
        ({"keys": torch.zeros(2, 3, 2, 5, 8).half()}, TypeError, "`keys` must be torch.float32"),
        ({"keys": torch.zeros(2, 3, 4, 5, 8)}, ValueError, "`keys` must have shape"),
        ({"values": torch.zeros(2, 3, 2, 4, 8)}, ValueError, "`values` must have shape"),
        (
            {"values": torch.zeros(2, 3, 5, 2, 8).transpose(2, 3)},
            ValueError,
            "`values` must have the strides of `keys`",
        ),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    names = ("query", "key", "value", "keys", "values", "index", "length")
    arguments = dict(zip(names, inputs(2, 3, 2, 8, 5, 4), strict=True))
    change = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in change.items()}
    with pytest.raises(error, match=message):
        beam_attention_triton(**(arguments | change))


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        beam_attention_triton(*inputs(1, 1, 1, 8, 1, 1))
