"""Both searches of the engine against the reference: random models, sizes, ties, forced tokens."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from table_models import TableModel

from bench.checks.near_ties import margin_where_they_part
from quals_fast import DecodingConfig
from quals_fast.decoding import host_search as host_module
from quals_fast.decoding.diverse_beam import diverse_beam_search
from quals_fast.decoding.host_search import host_search
from quals_fast.engine.generation import read_back
from quals_fast.reference import diverse_beam as reference
from quals_fast.reference.tolerances import TOKEN_LOGPROB


@st.composite
def searches(draw):
    group_size = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 6))
    min_length = draw(st.integers(0, 4))
    config = DecodingConfig(
        rule=draw(st.sampled_from(["fairseq09", "hamming"])),
        num_beams=groups * group_size,
        num_beam_groups=groups,
        diversity_penalty=draw(st.sampled_from([0.0, 0.25, 0.5, 3.0])),
        length_penalty=draw(st.sampled_from([1.0, 0.0, 0.6])),
        min_length=min_length,
        max_length=draw(st.integers(max(2, min_length), 9)),
    )
    size = draw(st.integers(2 * group_size + 3, 23))  # PAD is not usable
    steps, seed = draw(st.integers(1, 4)), draw(st.integers(0, 2**20))
    levels = draw(st.sampled_from([None, 4]))  # 4 levels of logits: nothing but ties
    logits = torch.randn(steps, size, size, generator=torch.Generator().manual_seed(seed)) * 2
    if levels is not None:
        logits = (logits * 0.5).round().clamp(-2, 1) * 0.25
    return TableModel(logits, bos=draw(st.sampled_from([None, 0]))), config


def on_tensors(model, config, batch, on_choice=None):
    device = torch.device("cpu")
    found = diverse_beam_search(
        model, model.conventions, config, batch, device, on_choice=on_choice
    )
    return list(read_back(found))


def on_host(model, config, batch, on_choice=None):
    return host_search(model.on_host(), model.conventions, config, batch, on_choice)


BOTH = pytest.mark.parametrize("search", [on_tensors, on_host])


def check_equal(rows, expected):
    for row in rows:
        assert [h.token_ids for h in row] == [h.token_ids for h in expected]
        for one, other in zip(row, expected, strict=True):
            assert one.logprobs == pytest.approx(other.logprobs, abs=TOKEN_LOGPROB)
            assert one.search_logprobs == pytest.approx(other.search_logprobs, abs=TOKEN_LOGPROB)
            assert one.search_sum == pytest.approx(other.search_sum, abs=TOKEN_LOGPROB)
            assert one.search_score == pytest.approx(other.search_score, abs=TOKEN_LOGPROB)


@settings(max_examples=200, deadline=None)
@given(searches())
def test_the_search_on_tensors_is_equal_to_the_reference(search):
    model, config = search
    check_equal(on_tensors(model, config, 2), reference.diverse_beam_search(model, config))


@settings(max_examples=300, deadline=None)
@given(searches(), st.sampled_from([2, 3, 6, 16]))
def test_the_search_on_the_host_is_equal_to_the_reference(search, few):
    model, config = search
    expected = reference.diverse_beam_search(model, config)
    with mock.patch.object(host_module, "FEW_CANDIDATES", few):  # fewer are seldom certain
        check_equal(on_host(model, config, 2), expected)


@BOTH
def test_the_forced_first_token_starts_every_hypothesis_and_costs_the_search_nothing(search):
    model = TableModel(torch.randn(3, 12, 12), bos=5)
    config = DecodingConfig(num_beams=4, num_beam_groups=4, min_length=2, max_length=6)
    (found,) = search(model, config, 1)
    for hypothesis in found:
        assert hypothesis.token_ids[0] == 5
        assert hypothesis.search_logprobs[0] == 0.0
        assert hypothesis.logprobs[0] == pytest.approx(float(model.logprobs[0, 2, 5]))


@BOTH
def test_the_margin_is_that_of_the_decision_at_which_two_searches_part(search):
    logits = torch.full((1, 8, 8), -20.0)
    logits[..., 4:] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    logits[0, 4, 4:6] = torch.tensor([2.0, 2.5])  # behind token 4, tokens 4 and 5 nearly tie
    nudged = logits.clone()
    nudged[0, 4, 5] = 1.999
    config = DecodingConfig(num_beams=2, num_beam_groups=2, min_length=3, max_length=3)
    trace: reference.Trace = []
    reference.diverse_beam_search(TableModel(logits), config, trace)
    for table, margin in ((logits, None), (nudged, trace[1][0].margin)):
        choices = []
        search(TableModel(table), config, 1, choices.append)
        assert margin_where_they_part(trace, choices) == margin
    assert trace[1][0].margin == pytest.approx(0.5)
