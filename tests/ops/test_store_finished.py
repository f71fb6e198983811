"""Hypotheses that are stored, against the definition spelled out."""

import pytest
import torch
from op_cases import (
    DEVICE,
    HISTORIES,
    assert_same,
    eager_and_triton,
    needs_gpu,
    needs_no_triton,
    needs_triton,
)
from quals_fast_kernels._histories import Candidates, Histories
from quals_fast_kernels.store_finished import (
    store_finished_ref,
    store_finished_triton,
)

both = eager_and_triton("store", store_finished_ref, store_finished_triton)

NAMES = ("finished", "histories", "chosen", "normalised", "row", "t")


def inputs(B, K, T, t, M=None):
    """Draw what is there, candidates of which several continue one slot, and rows for half."""
    M, R = M or K, K + 1

    def ids(*shape):
        return torch.randint(50_265, shape, device=DEVICE)

    def numbers(*shape):
        return torch.randn(shape, device=DEVICE)

    long = (B, R, T)
    finished = ids(*long), ids(B, R), numbers(*long), numbers(*long), numbers(B, R)
    finished = *finished, numbers(B, R).double() / 3
    histories = Histories(ids(B, K, T), numbers(B, K, T), numbers(B, K, T))
    beam_idx = torch.randint(K, (B, M), device=DEVICE)
    chosen = Candidates(ids(B, M), beam_idx, *(numbers(B, M) for _ in range(3)))
    row = torch.rand(B, K, device=DEVICE).argsort(1)[:, :M]
    row = torch.where(torch.rand(B, M, device=DEVICE) < 0.5, row, K)
    return finished, histories, chosen, chosen.scores.double() / 3, row, t


def kept(finished):
    """Return all rows but the last, which takes what is dropped."""
    return [part[:, :-1] for part in finished]


def stored(store, finished, *rest):
    """Return what is there afterwards, and leave the case as it was."""
    finished = tuple(part.clone() for part in finished)
    assert store(finished, *rest) is None
    return kept(finished)


def truth(finished, histories, chosen, normalised, row, t):
    """Spell the definition out, one candidate at a time."""
    finished = tuple(part.clone() for part in finished)
    token_ids, lengths, logprobs, search_logprobs, sums, scores = finished
    for b in range(len(row)):
        for m, r in enumerate(row[b].tolist()):
            parts = zip(
                (token_ids, logprobs, search_logprobs),
                histories,
                (chosen.token_ids, chosen.logprobs, chosen.search_logprobs),
                strict=True,
            )
            for mine, history, last in parts:
                mine[b, r] = history[b, chosen.beam_idx[b, m]]
                mine[b, r, t] = last[b, m]
            lengths[b, r], sums[b, r], scores[b, r] = t + 1, chosen.scores[b, m], normalised[b, m]
    return kept(finished)


@both
@pytest.mark.parametrize("shape", HISTORIES)
def test_equal_to_the_definition(store, shape):
    case = inputs(*shape)
    assert_same(stored(store, *case), truth(*case))


@both
@pytest.mark.parametrize("share", [0.0, 1.0], ids=["all-dropped", "none-dropped"])
def test_all_or_none_are_dropped(store, share):
    *case, _, t = inputs(2, 5, 7, 3)
    row = torch.rand(2, 5, device=DEVICE).argsort(1) if share else torch.full((2, 5), 5).to(DEVICE)
    found = stored(store, *case, row, t)
    assert_same(found, truth(*case, row, t))
    assert all(torch.equal(x, y) for x, y in zip(found, kept(case[0]), strict=True)) != bool(share)


@both
def test_candidates_may_be_columns_of_more(store):
    """A rank of groups, as the rule `hamming` stores them."""
    finished, histories, chosen, normalised, row, t = inputs(3, 6, 9, 5)
    rank = slice(2, 4)
    parts = Candidates(*(part[:, rank] for part in chosen))
    case = finished, histories, parts, normalised[:, rank], row[:, rank], t
    assert_same(stored(store, *case), truth(*case))


@needs_triton
def test_a_sentence_does_not_depend_on_the_others():
    finished, histories, chosen, normalised, row, t = case = inputs(4, 5, 7, 3)
    one = slice(2, 3)
    alone = stored(
        store_finished_triton,
        tuple(x[one] for x in finished),
        Histories(*(x[one] for x in histories)),
        Candidates(*(x[one] for x in chosen)),
        normalised[one],
        row[one],
        t,
    )
    assert_same(alone, [x[one] for x in stored(store_finished_triton, *case)])


@needs_triton
def test_the_last_row_stays_as_it_was():
    finished, *rest = inputs(2, 5, 7, 3)
    before = [part[:, -1].clone() for part in finished]
    store_finished_triton(finished, *rest)
    assert_same([part[:, -1] for part in finished], before)


def test_a_step_that_a_graph_counts_is_taken_by_the_reference():
    *case, t = inputs(2, 5, 7, 3)
    found = stored(store_finished_ref, *case, torch.tensor(t, device=DEVICE))
    assert_same(found, truth(*case, t))


@needs_triton
def test_no_sentence_is_no_work():
    case = inputs(0, 5, 7, 3)
    assert stored(store_finished_triton, *case)[0].shape == (0, 5, 7)


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"t": -1}, ValueError, "`t` must be from 0 to 6, the last position, but got -1"),
        ({"t": 7}, ValueError, "`t` must be from 0 to 6, the last position, but got 7"),
        ({"row": torch.zeros(2, 4).long()}, ValueError, r"`row` must have shape \(2, 3\)"),
        ({"row": torch.zeros(2, 3).int()}, TypeError, "`row` must be torch.int64"),
        ({"normalised": torch.zeros(2, 3)}, TypeError, "`normalised` must be torch.float64"),
        (
            {"normalised": torch.zeros(3, 3).double()},
            ValueError,
            r"`normalised` must have shape \(2, 3\)",
        ),
        (
            {"finished": (0, torch.zeros(2, 4, 8).long())},
            ValueError,
            r"`finished\[0\]` must have shape \(2, any, 7\)",
        ),
        (
            {"finished": (1, torch.zeros(2, 5).long())},
            ValueError,
            r"`finished\[1\]` must have shape \(2, 4\)",
        ),
        (
            {"finished": (3, torch.zeros(2, 5, 7))},
            ValueError,
            r"`finished\[3\]` must have shape \(2, 4, 7\)",
        ),
        (
            {"finished": (5, torch.zeros(2, 4))},
            TypeError,
            r"`finished\[5\]` must be torch.float64",
        ),
        (
            {"finished": (2, torch.zeros(4, 2, 7).transpose(0, 1))},
            ValueError,
            r"`finished\[2\]` must be contiguous, since it is written to in place",
        ),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    case = dict(zip(NAMES, inputs(2, 3, 7, 3), strict=True))
    for name, new in change.items():
        if isinstance(new, tuple):
            place, part = new
            finished = list(case["finished"])
            finished[place] = part.to(DEVICE)
            case["finished"] = tuple(finished)
        else:
            case[name] = new.to(DEVICE) if isinstance(new, torch.Tensor) else new
    with pytest.raises(error, match=message):
        store_finished_triton(**case)


@needs_triton
def test_the_launcher_refuses_histories_that_do_not_fit():
    case = dict(zip(NAMES, inputs(2, 3, 7, 3), strict=True))
    short = case["histories"]._replace(logprobs=torch.zeros(2, 3, 6, device=DEVICE))
    with pytest.raises(ValueError, match=r"`histories.logprobs` must have shape \(2, 3, 7\)"):
        store_finished_triton(**(case | {"histories": short}))


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        store_finished_triton(*inputs(1, 1, 2, 1))


@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("shape", [(128, 60, 61, 60), (16, 60, 61, 33), (1, 1, 1, 0)], ids=str)
def test_equal_to_eager_on_the_device(shape):
    case = inputs(*shape)
    assert_same(stored(store_finished_triton, *case), stored(store_finished_ref, *case))


@pytest.mark.gpu
@needs_triton
@needs_gpu
def test_a_cuda_graph_can_hold_it():
    case, new = inputs(2, 60, 61, 20), inputs(2, 60, 61, 20)
    stored(store_finished_triton, *case)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        store_finished_triton(*case)
    for mine, theirs in zip(case[:3], new[:3], strict=True):
        for old, part in zip(mine, theirs, strict=True):
            old.copy_(part)
    case[3].copy_(new[3])
    case[4].copy_(new[4])
    graph.replay()
    assert_same(kept(case[0]), truth(*new))
