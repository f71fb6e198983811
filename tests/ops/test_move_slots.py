"""Slots that move on, against the definition spelled out."""

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
from quals_fast_kernels.move_slots import move_slots_ref, move_slots_triton

both = eager_and_triton("move", move_slots_ref, move_slots_triton)


def inputs(B, K, T, t, C=None):
    """Draw histories, candidates of which several continue one slot, and the choice among them."""
    C = C or 2 * K
    tokens = torch.randint(50_265, (B, K, T + C), device=DEVICE)
    numbers = torch.randn(2, B, K, T, device=DEVICE)
    last = torch.randn(3, B, C, device=DEVICE)
    last[2, :, -1:] = -torch.inf
    beam_idx = torch.randint(K, (B, C), device=DEVICE)
    chosen = Candidates(tokens[:, 0, T:].contiguous(), beam_idx, *last)
    go_on = torch.rand(B, C, device=DEVICE).argsort(1)[:, :K]  # a view, as of what was sorted
    return Histories(tokens[:, :, :T].contiguous(), *numbers), chosen, go_on, t


def flat(moved):
    return *moved.histories, *moved[1:]


def truth(histories, chosen, go_on, t):
    """Spell the definition out, one slot at a time."""
    found = [torch.empty_like(part) for part in histories]
    last = [torch.empty_like(go_on, dtype=part.dtype) for part in chosen]
    for b in range(len(go_on)):
        for k, c in enumerate(go_on[b].tolist()):
            for mine, part in zip(last, chosen, strict=True):
                mine[b, k] = part[b, c]
            of_last = chosen.token_ids, chosen.logprobs, chosen.search_logprobs
            for mine, old, new in zip(found, histories, of_last, strict=True):
                mine[b, k] = old[b, chosen.beam_idx[b, c]]
                mine[b, k, t] = new[b, c]
    token_ids, beam_idx, _, _, scores = last
    return *found, token_ids, beam_idx, scores


@both
@pytest.mark.parametrize("shape", HISTORIES)
def test_equal_to_the_definition(move, shape):
    case = inputs(*shape)
    before = [part.clone() for part in case[0]]
    assert_same(flat(move(*case)), truth(*case))
    assert_same(case[0], before)  # what is read is not written to


@both
def test_candidates_may_be_columns_of_more_and_histories_of_any_strides(move):
    histories, chosen, go_on, t = inputs(3, 4, 9, 5)
    histories = Histories(
        *(part.transpose(0, 1).contiguous().transpose(0, 1) for part in histories)
    )
    case = histories, Candidates(*(part[:, 1:6] for part in chosen)), go_on % 5, t
    assert_same(flat(move(*case)), truth(*case))


@needs_triton
def test_a_sentence_does_not_depend_on_the_others():
    histories, chosen, go_on, t = inputs(4, 5, 7, 3)
    together = flat(move_slots_triton(histories, chosen, go_on, t))
    alone = (Histories(*(x[2:3] for x in histories)), Candidates(*(x[2:3] for x in chosen)))
    assert_same(flat(move_slots_triton(*alone, go_on[2:3], t)), (x[2:3] for x in together))


def test_a_step_that_a_graph_counts_is_taken_by_the_reference():
    histories, chosen, go_on, t = inputs(2, 5, 7, 3)
    found = move_slots_ref(histories, chosen, go_on, torch.tensor(t, device=DEVICE))
    assert_same(flat(found), truth(histories, chosen, go_on, t))


@needs_triton
def test_no_sentence_is_no_result():
    moved = move_slots_triton(*inputs(0, 5, 7, 3))
    assert moved.histories.token_ids.shape == (0, 5, 7)
    assert moved.scores.shape == (0, 5)


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"t": -1}, ValueError, "`t` must be from 0 to 6, the last position, but got -1"),
        ({"t": 7}, ValueError, "`t` must be from 0 to 6, the last position, but got 7"),
        ({"go_on": torch.zeros(2, 4).long()}, ValueError, r"`go_on` must have shape \(2, 3\)"),
        ({"go_on": torch.zeros(2, 3).int()}, TypeError, "`go_on` must be torch.int64"),
        (
            {"histories": {"token_ids": torch.zeros(2, 3, 7).int()}},
            TypeError,
            "`histories.token_ids` must be torch.int64",
        ),
        (
            {"histories": {"logprobs": torch.zeros(2, 3, 8)}},
            ValueError,
            r"`histories.logprobs` must have shape \(2, 3, 7\)",
        ),
        (
            {"histories": {"search_logprobs": torch.zeros(2, 3, 7).double()}},
            TypeError,
            "`histories.search_logprobs` must be torch.float32",
        ),
        (
            {"chosen": {"token_ids": torch.zeros(1, 6).long()}},
            ValueError,
            r"`chosen.token_ids` must have shape \(2, any\)",
        ),
        (
            {"chosen": {"beam_idx": torch.zeros(2, 6)}},
            TypeError,
            "`chosen.beam_idx` must be torch.int64",
        ),
        (
            {"chosen": {"scores": torch.zeros(2, 5)}},
            ValueError,
            r"`chosen.scores` must have shape \(2, 6\)",
        ),
        (
            {"chosen": {"logprobs": torch.zeros(2, 12)[:, :6]}},
            ValueError,
            r"`chosen.logprobs` must have the strides of `chosen.token_ids`, \(6, 1\)",
        ),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    case = dict(zip(("histories", "chosen", "go_on", "t"), inputs(2, 3, 7, 3), strict=True))
    for name, new in change.items():
        if isinstance(new, dict):
            case[name] = case[name]._replace(**{k: v.to(DEVICE) for k, v in new.items()})
        else:
            case[name] = new.to(DEVICE) if isinstance(new, torch.Tensor) else new
    with pytest.raises(error, match=message):
        move_slots_triton(**case)


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        move_slots_triton(*inputs(1, 1, 2, 1))


@pytest.mark.gpu
@needs_triton
@needs_gpu
@pytest.mark.parametrize("shape", [(128, 60, 61, 60), (16, 60, 61, 33), (1, 1, 1, 0)], ids=str)
def test_equal_to_eager_on_the_device(shape):
    case = inputs(*shape)
    assert_same(flat(move_slots_triton(*case)), flat(move_slots_ref(*case)))


@pytest.mark.gpu
@needs_triton
@needs_gpu
def test_a_cuda_graph_can_hold_it():
    case = inputs(2, 60, 61, 20)
    move_slots_triton(*case)  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = move_slots_triton(*case)
    new = inputs(2, 60, 61, 20)
    for mine, theirs in zip(case[:2], new[:2], strict=True):
        for old, part in zip(mine, theirs, strict=True):
            old.copy_(part)
    case[2].copy_(new[2])
    graph.replay()
    assert_same(flat(found), flat(move_slots_ref(*new)))
