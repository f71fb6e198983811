"""One step of group selection, by hand; the searches' parity tests cover the rest."""

import pytest
import torch

from quals_fast import ops


def choose(logprobs, rule, *, scores=None, groups=None, active=None, penalty=0.5, eos=3, ids=None):
    logprobs = torch.tensor([logprobs])
    slots, width = logprobs.shape[1:]
    groups = groups or slots
    ids = torch.arange(width).expand(1, slots, width) if ids is None else torch.tensor([ids])
    scores = torch.zeros(1, slots) if scores is None else torch.tensor([scores])
    active = None if active is None else torch.tensor([active])
    return ops.group_select(
        logprobs,
        ids,
        scores,
        active,
        rule=rule,
        num_beam_groups=groups,
        penalty=penalty,
        eos_token_id=eos,
        vocab_size=9,
    )


def test_fairseq09_counts_both_choices_of_earlier_groups():
    row = [-1.0, -1.1, -1.7, -9.0]
    found = choose([row, row], "fairseq09")
    assert found.token_ids[0].tolist() == [[0, 0], [1, 1]]
    assert found.scores.flatten().tolist() == pytest.approx([-1.0, -1.5, -1.1, -1.6])


def test_hamming_counts_only_the_token_that_continues():
    row = [-1.0, -1.1, -1.7, -9.0]
    found = choose([row, row], "hamming")
    assert found.token_ids[0].tolist() == [[0, 1], [1, 0]]


def test_hamming_never_counts_eos_but_the_token_behind_it():
    row = [-1.0, -1.1, -1.7, -0.1]
    found = choose([row, row], "hamming")
    assert found.token_ids[0].tolist() == [[3, 3], [0, 1]]


def test_a_group_that_has_stopped_penalises_nobody():
    row = [-1.0, -1.1, -1.7, -9.0]
    found = choose([row, row], "hamming", active=[False, True])
    assert found.token_ids[0, :, 1].tolist() == [0, 1]


def test_ties_go_to_the_lowest_row_then_token():
    row = [-1.0, -1.0, -1.0, -9.0]
    found = choose([row, row], "fairseq09", groups=1)
    assert found.beam_idx[0, :, 0].tolist() == [0, 0, 0, 1]
    assert found.token_ids[0, :, 0].tolist() == [0, 1, 2, 0]


def test_slots_are_interleaved_and_dead_ones_left_alone():
    row = [-1.0, -1.1, -1.7, -1.9]
    dead = [0.0, 0.0, -torch.inf, -torch.inf]
    found = choose([row] * 4, "fairseq09", groups=2, scores=dead)
    assert found.beam_idx[0].tolist() == [[0, 1]] * 4
    assert found.candidate_idx[0, :, 0].tolist() == [0, 1, 2, 3]


def test_the_column_of_the_choice_is_told_where_ids_are_sparse():
    found = choose([[-2.0, -1.0], [-1.0, -2.0]], "hamming", ids=[[4, 7], [0, 8]])
    assert found.token_ids[0, 0].tolist() == [7, 0]
    assert found.candidate_idx[0, 0].tolist() == [1, 0]
