"""The arithmetic of a score, by hand."""

import math
from dataclasses import replace

import pytest

from quals_fast.results import QAPair, QualsResult, SummaryScore, nested_like


def pair(summary_logprobs, document_logprobs, **changes):
    n = len(summary_logprobs)
    return QAPair(
        question="q",
        answer="a",
        token_ids=tuple(range(n)),
        tokens=("t",) * n,
        summary_logprobs=summary_logprobs,
        document_logprobs=document_logprobs,
        **changes,
    )


def of_pairs(*pairs, no_pairs_score=None, n_hypotheses=60, summary=""):
    return SummaryScore.of_pairs(
        pairs,
        no_pairs_score=no_pairs_score,
        n_hypotheses=n_hypotheses,
        num_beams=60,
        truncated_tokens=3,
        unknown_tokens=2,
        summary=summary,
    )


TWO = pair((-1.0, -3.0), (-2.0, -7.0))  # means -2 and -4.5
FOUR = pair((-0.5, -0.5, -1.0, -2.0), (-0.5, -0.5, -1.0, -1.0))  # means -1 and -0.75


def test_a_pair_scores_the_difference_of_its_means():
    assert TWO.score == pytest.approx(-2.5)
    assert FOUR.score == pytest.approx(0.25)


def test_only_tokens_that_count_are_averaged():
    answer = pair(FOUR.summary_logprobs, FOUR.document_logprobs, first_counted=2)
    assert answer.score == pytest.approx(0.5)  # means -1.5 and -1
    assert of_pairs(TWO, answer).score == pytest.approx(-1.0)
    assert answer.to_dict()["first_counted"] == 2


def test_a_summary_scores_the_mean_over_pairs_whatever_their_lengths():
    result = of_pairs(TWO, FOUR)
    assert (result.status, result.score) == ("ok", pytest.approx(-1.125))
    assert result.worst_pair is TWO
    assert (result.n_hypotheses, result.truncated_tokens, result.unknown_tokens) == (60, 3, 2)


def about(score, *places):
    """A pair whose answer drops by `score` and occurs at these places."""
    asks = pair((-1.0, -9.0, -0.1, -1.0, -2.0), (-5.0, -9.0, -0.1, -1.0 + score, -7.0))
    return replace(asks, tokens=("who", "?", "<sep>", "anne", "<eos>"), answer_spans=places)


SUMMARY = "Queen Anne's sister, Anne's"


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([about(-1.0, (0, 10))], [("Queen Anne", -1.0)], id="one"),
        pytest.param(
            [about(-1.0, (0, 10)), about(-3.0, (0, 10))], [("Queen Anne", -2.0)], id="the mean"
        ),
        pytest.param(
            [about(-1.0, (0, 5)), about(-3.0, (0, 10))],
            [("Anne", -3.0), ("Queen", -2.0)],
            id="inside",
        ),
        pytest.param(
            [about(-1.0, (0, 10)), about(-3.0, (6, 19))],
            [("'s sister", -3.0), ("Anne", -2.0), ("Queen", -1.0)],
            id="overlapping",
        ),
        pytest.param([about(-1.0, (6, 10), (21, 25))], [("Anne", -1.0)] * 2, id="twice"),
        pytest.param(
            [about(-1.0, (0, 10), (6, 19))],
            [("Queen", -1.0), ("Anne", -1.0), ("'s sister", -1.0)],
            id="occurrences that overlap count once",
        ),
        pytest.param(
            [about(-1.0, (12, 21)), about(-3.0, (12, 19))],
            [("sister", -2.0)],
            id="no white space at the ends, and not only punctuation",
        ),
    ],
)
def test_spans_have_the_mean_drop_of_the_answers_there_and_the_worst_comes_first(pairs, expected):
    spans = of_pairs(*pairs, summary=SUMMARY).spans
    found = [(SUMMARY[span.start : span.end], span.score) for span in spans]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [score for _, score in found] == pytest.approx([s for _, s in expected])


def test_spans_and_answers_in_json():
    row = of_pairs(about(-1.0, (6, 10)), summary=SUMMARY)
    (content,) = QualsResult((row,), "s").to_dict(include_spans=True)["rows"]
    assert content["spans"] == [{"start": 6, "end": 10, "score": pytest.approx(-1.0)}]
    assert content["pairs"][0]["answer_spans"] == [[6, 10]]
    assert "spans" not in row.to_dict()


def test_with_a_calibration_rows_without_a_score_have_no_probability_and_say_so():
    rows = (SummaryScore(status="error"), (SummaryScore(status="ok", score=-1, probability=0.2),))
    bad, (good,) = QualsResult(rows, "quals|calibration:0|version:1").to_dict()["rows"]
    assert [bad["probability"], good["probability"]] == [None, 0.2]
    assert "probability" not in QualsResult(rows[:1], "quals|version:1").to_dict()["rows"][0]


def test_without_pairs():
    assert of_pairs().status == "no_pairs"
    assert math.isnan(of_pairs().score)
    assert of_pairs().worst_pair is None
    assert of_pairs(no_pairs_score=-5.0).score == -5.0


@pytest.mark.parametrize(
    "broken",
    [
        of_pairs(TWO, n_hypotheses=59),
        of_pairs(n_hypotheses=0),
        of_pairs(pair((math.nan,), (0.0,))),
        of_pairs(pair((math.nan, 0.0), (0.0, 0.0), first_counted=1)),
        of_pairs(TWO, pair((-math.inf,), (0.0,))),
        of_pairs(pair((-math.inf,), (0.0,)), pair((0.0,), (-math.inf,))),
    ],
    ids=[
        "a slot that never finished",
        "no slot finished",
        "NaN",
        "NaN before the answer",
        "infinite",
        "both infinities",
    ],
)
def test_what_is_not_finite_is_an_error_and_not_a_score(broken):
    assert broken.status == "error"
    assert math.isnan(broken.score)
    assert "log-probabilities are not finite" in broken.message


def test_to_dict_has_no_nan():
    assert of_pairs().to_dict(include_pairs=False) == {
        "score": None,
        "status": "no_pairs",
        "n_pairs": 0,
        "truncated_tokens": 3,
        "unknown_tokens": 2,
    }
    assert of_pairs(TWO).to_dict()["pairs"][0]["document_logprobs"] == [-2.0, -7.0]


def test_nesting():
    a, b, c = (SummaryScore(status="ok", score=float(i)) for i in range(3))
    rows = nested_like(["x", ["y", "z"], []], [a, b, c])
    result = QualsResult(rows, "signature")
    assert result.scores == [0.0, [1.0, 2.0], []]
    assert list(result.flat()) == [a, b, c]
    assert len(result) == 3
    assert result[1] == (b, c)
