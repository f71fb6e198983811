"""Needles in haystacks: the reference against a loop, and the kernel against the reference."""

import random

import pytest
import torch
from op_cases import interpreted, needs_no_triton, on_gpu
from quals_fast_kernels.span_match import span_match_ref, span_match_triton


def cases_of(batch, num_needles, width, longest, symbols, dtype=torch.int32, seed=0):
    """Few symbols, so that many needles nearly match; half of them are cut from the haystack."""
    draw = random.Random(seed)
    haystack = torch.randint(symbols, (batch, width), dtype=dtype)
    lengths = torch.randint(width + 1, (batch,))
    needles = torch.randint(symbols, (batch, num_needles, longest), dtype=dtype)
    needle_lengths = torch.randint(longest + 1, (batch, num_needles))
    for b in range(batch):
        for n in range(num_needles):
            length = min(int(needle_lengths[b, n]), int(lengths[b]))
            if draw.random() < 0.5:
                start = draw.randint(0, int(lengths[b]) - length)
                needles[b, n, :length] = haystack[b, start : start + length]
                needle_lengths[b, n] = length
    return haystack, lengths, needles, needle_lengths


def by_loop(haystack, lengths, needles, needle_lengths):
    found = torch.zeros(needle_lengths.shape, dtype=torch.bool)
    for b, row in enumerate(haystack.tolist()):
        row = row[: lengths[b]]
        for n, needle in enumerate(needles[b].tolist()):
            needle = needle[: needle_lengths[b, n]]
            starts = range(len(row) - len(needle) + 1)
            found[b, n] = bool(needle) and any(row[s : s + len(needle)] == needle for s in starts)
    return found


SHAPES = [
    (1, 1, 1, 1, 2),
    (3, 7, 63, 5, 2),
    (2, 5, 256, 9, 3),
    (2, 5, 257, 300, 2),
    (2, 3, 600, 4, 9),
    (4, 60, 20, 20, 2),
]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "B{}-N{}-S{}-T{}-V{}".format(*s))
dtypes = pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)


@shapes
@dtypes
def test_reference_equals_a_loop(shape, dtype):
    cases = cases_of(*shape, dtype=dtype)
    assert span_match_ref(*cases).equal(by_loop(*cases))


@interpreted
@shapes
@dtypes
def test_kernel_equals_the_reference(shape, dtype):
    cases = cases_of(*shape, dtype=dtype, seed=1)
    assert span_match_triton(*cases).equal(span_match_ref(*cases))


@pytest.mark.gpu
@on_gpu
@shapes
@dtypes
def test_kernel_equals_the_reference_on_the_gpu(shape, dtype):
    cases = cases_of(*shape, dtype=dtype, seed=1)
    found = span_match_triton(*(part.cuda() for part in cases))
    assert found.cpu().equal(span_match_ref(*cases))


IMPLEMENTATIONS = [span_match_ref, pytest.param(span_match_triton, marks=interpreted)]
implementations = pytest.mark.parametrize(
    "span_match", IMPLEMENTATIONS, ids=["reference", "interpreter"]
)


def run(span_match, haystack, needles, lengths):
    haystack = torch.tensor([haystack], dtype=torch.int32)
    needles = torch.tensor([needles], dtype=torch.int32)
    size = torch.tensor([haystack.shape[1]])
    return span_match(haystack, size, needles, torch.tensor([lengths]))[0].tolist()


@implementations
def test_by_hand(span_match):
    needles = [[1, 2, 9], [2, 3, 1], [1, 3, 9], [3, 1, 2], [9, 9, 9]]
    # An interrupted run does not match, nor does one that would end behind the haystack.
    found = run(span_match, [1, 2, 3, 1], needles, [2, 3, 2, 3, 0])
    assert found == [True, True, False, False, False]


@implementations
def test_what_stands_behind_a_length_does_not_matter(span_match):
    haystack = torch.tensor([[5, 6, 7, 8]])
    needles = torch.tensor([[[7, 8], [7, 99]]])
    found = span_match(haystack, torch.tensor([3]), needles, torch.tensor([[2, 1]]))
    assert found.tolist() == [[False, True]]


@implementations
def test_rows_do_not_depend_on_their_neighbours_nor_on_strides(span_match):
    haystack, lengths, needles, needle_lengths = cases_of(5, 9, 40, 6, 2)
    whole = span_match(haystack, lengths, needles, needle_lengths)
    for b in range(5):
        row = slice(b, b + 1)
        alone = span_match(haystack[row], lengths[row], needles[row], needle_lengths[row])
        assert alone.equal(whole[row])
    wide = torch.full((5, 18, 8), 1, dtype=needles.dtype)
    wide[:, ::2, :6] = needles
    assert span_match(haystack, lengths, wide[:, ::2, :6], needle_lengths).equal(whole)


@implementations
def test_no_rows_and_no_needles(span_match):
    for batch, num_needles in ((0, 3), (3, 0)):
        cases = cases_of(batch, num_needles, 4, 2, 2)
        assert span_match(*cases).shape == (batch, num_needles)


@interpreted
@pytest.mark.parametrize(
    ("position", "change", "error", "message"),
    [
        (0, lambda t: t.float(), TypeError, "`haystack` must be torch.int32 or torch.int64, but g"),
        (0, lambda t: t[0], ValueError, r"`haystack` must have shape \(any, any\), but got \(20,"),
        (0, lambda t: t[:, ::2], ValueError, "`haystack` must be contiguous in its last dimension"),
        (1, lambda t: t.int(), TypeError, "`haystack_lengths` must be torch.int64, but got torch."),
        (1, lambda t: t[:1], ValueError, r"`haystack_lengths` must have shape \(2,\), but got \(1"),
        (2, lambda t: t.long(), TypeError, "`needles` must be torch.int32, but got torch.int64"),
        (2, lambda t: t[:1], ValueError, r"`needles` must have shape \(2, any, any\), but got \(1"),
        (3, lambda t: t[:, :2], ValueError, r"`needle_lengths` must have shape \(2, 3\), but got"),
        (3, lambda t: t.to("meta"), ValueError, "`needle_lengths` must be on cpu, but got meta"),
    ],
    ids=range(9),
)
def test_launcher_names_what_does_not_fit(position, change, error, message):
    cases = list(cases_of(2, 3, 20, 4, 2))
    cases[position] = change(cases[position])
    with pytest.raises(error, match=message):
        span_match_triton(*cases)


@needs_no_triton
def test_launcher_without_triton():
    with pytest.raises(ModuleNotFoundError, match="Triton is not installed"):
        span_match_triton(*cases_of(2, 3, 20, 4, 2))
