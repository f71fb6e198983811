"""Comparisons of systems against sums by hand, full enumeration and direct resampling."""

import json
import math
import sys
from itertools import product

import numpy as np
import pytest
from messages import says

from quals_fast.comparison import (
    PairedDocument,
    ScoredSummary,
    compare_systems,
    copied_ngrams,
    paired_difference,
    text_measures,
)
from quals_fast.evaluation import rouge_floor

pytest.importorskip("rouge_score", reason="comparisons of texts need the extra")


def scores_of(n, seed=0):
    """Return scores of a baseline and of a system that is a little better."""
    rng = np.random.default_rng(seed)
    baseline = rng.normal(-2, 1, n)
    return baseline.tolist(), (baseline + rng.normal(0.15, 0.5, n)).tolist()


def document(label, texts=False, **scores):
    """Return a document with one score for each system, or several."""
    summaries = {
        system: [
            ScoredSummary(
                scores=score if isinstance(score, dict) else {"QUALS": score},
                summary=f"{system} says {label}" if texts else None,
            )
            for score in (of if isinstance(of, list) else [of])
        ]
        for system, of in scores.items()
    }
    text = f"a says {label} and no more" if texts else None
    return PairedDocument(label=str(label), document=text, summaries=summaries)


def test_mean_and_counts_by_hand():
    # Differences 1, -0.5, 0, 0.0009, -0.0009, 0.001: the fourth and fifth are ties, the last not.
    found = paired_difference("b", [0, 0, 0, 0, 0, 0], [1, -0.5, 0, 0.0009, -0.0009, 0.001])
    assert found.mean.value == pytest.approx(0.501 / 6)
    assert (found.wins, found.ties, found.losses) == (2, 3, 1)


@pytest.mark.parametrize("n", [6, 9])
def test_p_value_is_the_share_of_all_exchanges(n):
    baseline, scores = scores_of(n)
    differences = np.subtract(scores, baseline)
    means = [np.dot(signs, differences) / n for signs in product((1, -1), repeat=n)]
    expected = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert paired_difference("b", baseline, scores).p_value == pytest.approx(expected, abs=1e-12)


def test_fewest_documents_reach_significance_and_no_fewer():
    assert paired_difference("b", [0.0] * 6, [1.0] * 6).p_value == 2 / 2**6 < 0.05
    assert paired_difference("b", [0.0] * 5, [1.0] * 5).p_value == 2 / 2**5 > 0.05


def test_p_value_and_interval_match_direct_resampling():
    baseline, scores = scores_of(60)
    differences = np.subtract(scores, baseline)
    rng = np.random.default_rng(7)
    flipped = (rng.choice([1, -1], (4000, 60)) * differences).mean(axis=1)
    p_value = np.mean(np.abs(flipped) >= abs(differences.mean()))
    drawn = rng.integers(0, 60, (4000, 60))
    means = np.array(scores)[drawn].mean(axis=1) - np.array(baseline)[drawn].mean(axis=1)
    found = paired_difference("b", baseline, scores, n_resamples=4000)
    assert 0 < found.p_value < 0.1
    assert found.p_value == pytest.approx(p_value, abs=0.015)
    low, high = np.percentile(means, [2.5, 97.5])
    assert (found.mean.low, found.mean.high) == pytest.approx((low, high), abs=0.02)


def test_pairing_matters():
    """Documents differ far more than systems: only the paired interval excludes 0."""
    rng = np.random.default_rng(0)
    baseline = rng.normal(0, 10, 50)
    found = paired_difference("b", baseline, baseline + rng.normal(0.5, 0.5, 50), n_resamples=1000)
    assert 0 < found.mean.low < 0.5 < found.mean.high < 1
    assert found.p_value < 0.01


def test_equal_systems():
    baseline, _ = scores_of(30)
    found = paired_difference("b", baseline, baseline, n_resamples=200)
    assert (found.mean.value, found.mean.low, found.mean.high, found.p_value) == (0, 0, 0, 1)
    assert (found.wins, found.ties, found.losses) == (0, 30, 0)


def test_the_same_call_gives_the_same_numbers_and_another_seed_others():
    both = scores_of(30)
    found = paired_difference("b", *both, n_resamples=500)
    assert paired_difference("b", *both, n_resamples=500) == found
    assert paired_difference("b", *both, n_resamples=500, seed=1) != found


@pytest.mark.parametrize(
    ("baseline", "scores", "message"),
    [
        ([1.0], [1.0], "at least two documents, but got 1"),
        ([1, 2], [1], "the same length … 2 and 1"),
        ([1, 2, 3], [1, math.nan, 3], "must be finite numbers, but got 2 and nan at 1; leave out"),
    ],
)
def test_scores_that_cannot_be_paired(baseline, scores, message):
    with pytest.raises(ValueError, match=says(message)):
        paired_difference("b", baseline, scores)


def test_systems_are_compared_on_the_documents_that_all_have_a_score_of():
    documents = [document(i, a=0.0, b=i / 10, c=-1.0) for i in range(8)]
    documents += [document("x", a=math.nan, b=9.0, c=9.0), document("y", a=9.0, b=9, c=math.nan)]
    found = compare_systems(documents, ["a", "b", "c"], unpaired=[["a"], ["a", "b"]])
    (measure,) = found.measures
    assert measure.name == "QUALS" and found.rouge_against is None
    assert measure.means == pytest.approx({"a": 0, "b": 0.35, "c": -1})
    assert [one.system for one in measure.differences] == ["b", "c"]
    assert (found.n_documents, found.n_without_score, found.n_unpaired) == (8, 2, 2)
    assert found.without_score == {"QUALS": {"a": 1, "b": 0, "c": 1}}
    assert found.unpaired == {"a": 2, "b": 1, "c": 0}
    assert [one.label for one in found.most_different(2)] == ["7", "6"]
    assert json.loads(json.dumps(found.to_dict()))["measures"][0]["differences"][1]["losses"] == 8


def test_several_summaries_of_a_document_count_as_their_mean():
    documents = [document(i, a=[0.0, 1.0], b=0.25) for i in range(6)]
    documents.append(document("x", a=[0.0, math.nan], b=0.25))
    found = compare_systems(documents, ["a", "b"])
    assert found.measures[0].means == {"a": 0.5, "b": 0.25}
    assert found.n_averaged == {"a": 6, "b": 0}
    assert (found.n_documents, found.n_without_score) == (6, 1)


def test_rouge_is_precision_against_the_document():
    documents = [document(i, texts=True, a=0.0, b=0.0) for i in range(6)]
    found = compare_systems(documents, ["b", "a"])
    assert found.rouge_against == "document"
    names = ["QUALS", "ROUGE-1 precision", "ROUGE-2 precision", "ROUGE-L precision"]
    names += ["words", "copied trigrams"]
    assert [one.name for one in found.measures] == names
    # "b says 3" against "a says 3 and no more": 2 of 3 words, 1 of 2 pairs; "a says 3" is in it.
    assert found.measures[1].means == pytest.approx({"b": 2 / 3, "a": 1})
    assert found.measures[2].means == {"b": 0.5, "a": 1}
    assert found.measures[1].differences[0].p_value == 2 / 2**6
    assert found.measures[4].means == {"b": 3, "a": 3}
    assert found.measures[5].means == {"b": 0, "a": 1}


def test_rouge_is_f1_against_references_and_averaged_too():
    def summaries(*texts):
        return [
            ScoredSummary(scores={"QUALS": 0.0}, summary=one, reference="the queen won")
            for one in texts
        ]

    documents = [
        PairedDocument(
            label=str(i),
            document="d",
            summaries={"a": summaries("the queen", "a king"), "b": summaries("the queen won")},
        )
        for i in range(6)
    ]
    found = compare_systems(documents, ["a", "b"])
    assert found.rouge_against == "reference"
    expected = rouge_floor(["the queen won"] * 2, ["the queen", "a king"])["ROUGE-1 F1"]
    assert found.measures[1].name == "ROUGE-1 F1"
    assert found.measures[1].means == pytest.approx({"a": np.mean(expected), "b": 1})


def test_several_metrics_are_compared_on_the_documents_that_have_all_scores():
    def scores(quals, qags):
        return {"QUALS": quals, "QAGS": qags}

    documents = [document(i, a=scores(-1.0, 0.5), b=scores(-1.0, i / 8)) for i in range(8)]
    documents.append(document("x", a=scores(9.0, math.nan), b=scores(-1.0, 0.5)))
    documents.append(document("y", a=scores(-1.0, 0.5), b=scores(math.nan, math.nan)))
    found = compare_systems(documents, ["a", "b"], metrics=["QUALS", "QAGS"])
    assert [one.name for one in found.measures] == found.metrics == ["QUALS", "QAGS"]
    assert found.measures[0].means == {"a": -1, "b": -1}
    assert found.measures[1].means == {"a": 0.5, "b": 28 / 64}
    assert (found.n_documents, found.n_without_score) == (8, 2)
    assert found.without_score == {"QUALS": {"a": 0, "b": 1}, "QAGS": {"a": 1, "b": 1}}
    assert json.loads(json.dumps(found.to_dict()))["metrics"] == ["QUALS", "QAGS"]


def test_measures_of_texts_by_hand():
    found = text_measures(["The cat sat on it."], ["the cat sat, and ran"], ["a cat sat"])
    assert found == {
        **{
            f"ROUGE-{kind} F1": [pytest.approx(share)]
            for kind, share in (("1", 4 / 8), ("2", 2 / 6), ("L", 4 / 8))
        },
        "words": [5.0],
        "copied trigrams": [pytest.approx(1 / 3)],
    }
    assert next(iter(text_measures(["a"], ["a"]))) == "ROUGE-1 precision"


def test_copied_ngrams():
    assert copied_ngrams("The cat sat.", "the cat ran", 2) == 1 / 2
    assert copied_ngrams("Cats, cats, cats", "cats cats cats cats", 2) == 1
    assert copied_ngrams("The cat sat.", "cat", 2) == copied_ngrams("", "", 1) == 0


def test_too_few_documents():
    documents = [document(i, a=0.0, b=math.nan if i < 2 else 1.0) for i in range(7)]
    message = "a score of every system, but got 5 of 7 (without a score: b: 2); add"
    with pytest.raises(ValueError, match=says(message)):
        compare_systems(documents, ["a", "b"])


def test_too_few_documents_with_all_scores():
    scores = {"QUALS": 0.0, "QAGS": math.nan}
    documents = [document(i, a=dict.fromkeys(scores, 0.0), b=scores) for i in range(7)]
    with pytest.raises(ValueError, match=says("got 0 of 7 (without a score: QAGS of b: 7); add")):
        compare_systems(documents, ["a", "b"], metrics=["QUALS", "QAGS"])


def test_one_system():
    with pytest.raises(ValueError, match="`systems` must be at least two, but got 1"):
        compare_systems([document(i, a=0.0) for i in range(7)], ["a"])


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ModuleNotFoundError, match=says("ROUGE needs rouge-score: pip install")):
        text_measures(["a"], ["a"])
    paired_difference("b", [0.0, 1.0], [1.0, 1.0])  # needs none
