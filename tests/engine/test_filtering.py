"""Which sequences are pairs about the summary, and which of them are selected."""

from dataclasses import replace

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from quals_fast.engine.filtering import KeptPair, keep_pairs, select
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.reference import quals as reference
from quals_fast.results import Hypothesis


def hypothesis_of(ids, search_sum=0.0):
    zeros = (0.0,) * len(ids)
    return Hypothesis(
        token_ids=tuple(ids),
        logprobs=zeros,
        search_logprobs=zeros,
        search_sum=search_sum,
        search_score=search_sum / len(ids),
    )


def pairs_of(rows):
    return [KeptPair(q, a, hypothesis_of([5], total)) for q, a, total in rows]


def read(kept):
    return [(pair.question, pair.answer) for pair in kept]


def test_answers_take_turns_best_first():
    rows = [("q1", "A", -1.0), ("q2", "A", -2.0), ("q3", "B", -3.0), ("q4", "a", -0.5)]
    assert read(select(pairs_of(rows), None)) == [
        ("q4", "a"),
        ("q3", "B"),
        ("q1", "A"),
        ("q2", "A"),
    ]


def test_selection_stops_at_the_end_of_the_round_that_reaches_the_limit():
    rows = [(f"q{i}", f"answer {i}", -float(i)) for i in range(12)] + [("late", "answer 0", -99.0)]
    assert len(select(pairs_of(rows), 10)) == 12  # 12 distinct answers: one round
    assert len(select(pairs_of(rows), 13)) == 13


def test_a_repeated_question_is_lost_with_its_turn():
    rows = [("Who?", "a", -1.0), ("who?", "A", -2.0), ("when?", "a", -3.0), ("why?", "b", -1.5)]
    assert read(select(pairs_of(rows), None)) == [("Who?", "a"), ("why?", "b"), ("when?", "a")]
    # With a limit, the round in which nothing is added ends it: "when?" is never reached.
    assert read(select(pairs_of([rows[0], rows[1], rows[2]]), 10)) == [("Who?", "a")]


def test_equal_scores_keep_the_order_of_generation():
    rows = [("q1", "a", -1.0), ("q2", "b", -1.0), ("q3", "c", -1.0)]
    assert read(select(pairs_of(rows), None)) == [("q1", "a"), ("q2", "b"), ("q3", "c")]


@given(
    st.lists(
        st.tuples(st.sampled_from("pqrPQ"), st.sampled_from("abcAB"), st.integers(-6, 0)),
        max_size=30,
    ),
    st.sampled_from([1, 3, 10, None]),
)
def test_selection_equals_the_reference(rows, max_pairs):
    expected = [rows[i][:2] for i in reference.select(rows, max_pairs)]
    assert read(select(pairs_of(rows), max_pairs)) == expected


@pytest.fixture(scope="module")
def wordpiece(tiny_folder):
    _, conventions = read_checkpoint(tiny_folder)
    return QATokenizer.from_folder(tiny_folder, conventions), conventions


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    folder = tiny_models.write_checkpoint(
        tmp_path_factory.mktemp("bpe"), tiny_models.FAIRSEQ_LIKE, tiny_models.byte_level_tokenizer()
    )
    _, conventions = read_checkpoint(folder)
    return QATokenizer.from_folder(folder, conventions), conventions


def kept(loaded, summary, question, answer, *, ids=None):
    """Return what is kept of one sequence, written as text or given as ids."""
    tokenizer, conventions = loaded
    question_ids, answer_ids = (s.text_ids for s in tokenizer.encode([question, answer]))
    if ids is None:
        ids = [*question_ids, conventions.sep_token_id, *answer_ids, conventions.eos_token_id]
    (source,) = tokenizer.encode([summary])
    return keep_pairs([hypothesis_of(ids)], source, tokenizer, conventions, 10)


def test_wordpiece_answers_are_matched_by_ids(wordpiece):
    assert wordpiece[0].answer_match == "ids"
    assert read(kept(wordpiece, "The queen, Anne.", "who?", "queen , anne")) == [
        ("who ?", "queen , anne")
    ]
    # As text, "opened" stands in "reopened"; as ids it does not.
    assert kept(wordpiece, "the reopened tower", "what?", "opened") == []
    assert kept(wordpiece, "queen of anne", "who?", "queen anne") == []


def test_byte_level_answers_are_matched_as_lower_cased_text(byte_level):
    assert byte_level[0].answer_match == "text"
    assert read(kept(byte_level, "The QUEEN opened it", "Who?", "Queen")) == [("Who?", "Queen")]
    assert read(kept(byte_level, "a reopened tower", "what?", "opened")) == [("what?", "opened")]
    assert kept(byte_level, "The king opened it", "Who?", "queen") == []


@pytest.mark.parametrize("loaded", ["wordpiece", "byte_level"])
def test_what_is_no_pair_is_dropped(loaded, request):
    loaded = request.getfixturevalue(loaded)
    tokenizer, s = loaded
    (word,) = (source.text_ids for source in tokenizer.encode(["queen"]))
    sep, eos = s.sep_token_id, s.eos_token_id
    assert kept(loaded, "queen", "", "", ids=[*word, eos]) == []  # no separator
    assert kept(loaded, "queen", "", "", ids=[*word, sep, *word, sep, *word, eos]) == []  # two
    assert kept(loaded, "queen", "", "", ids=[*word, sep, eos]) == []  # an empty answer
    assert len(kept(loaded, "queen", "", "", ids=[*word, sep, *word, eos])) == 1


def test_an_answer_with_an_unknown_token_is_dropped(wordpiece):
    tokenizer, conventions = wordpiece
    for match in ("ids", "text"):
        matching = tokenizer.with_conventions(replace(conventions, answer_match=match))
        loaded = matching, conventions
        for answer in ("陈", "queen 陈", "陈 queen"):  # in the summary by any rule
            assert kept(loaded, f"the [UNK] , {answer} won", "who?", answer) == []
        found = kept(loaded, "the 陈 queen", "who is 陈?", "queen")  # in a question it may stand
        assert read(found) == [("who [UNK] [UNK] ?", "queen")]


def test_an_answer_of_spaces_is_empty(byte_level):
    assert kept(byte_level, "a b", "what?", " ") == []


@given(st.text("queen anrtow,.", max_size=12), st.text("queen anrtow,.", max_size=30))
def test_the_span_rule_equals_the_reference(wordpiece, byte_level, answer, summary):
    for loaded in (wordpiece, byte_level):
        tokenizer, conventions = loaded
        (source,) = tokenizer.encode([answer])
        if conventions.sep_token_id in source.text_ids:
            continue
        found = bool(kept(loaded, summary, "who?", answer))
        assert found == reference.answer_stands_in(list(source.text_ids), summary, tokenizer)
