"""Statistics against scipy, sklearn and paper arithmetic; intervals, odd input, messages, ROUGE."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest

from quals_fast.errors import InputError
from quals_fast.evaluation import (
    Agreement,
    Estimate,
    LabelledRow,
    Labels,
    agreement,
    compare,
    rouge_floor,
)
from quals_fast.jobs.parsing import InputRow
from quals_fast.results import SummaryScore

STATISTICS = ("pearson", "spearman", "kendall", "auc")


def make_rows(n: int, seed: int = 0) -> tuple[list[float], list[float]]:
    """Return scores with ties and labels in thirds that go with them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n) / 3
    scores = np.round(labels + rng.normal(size=n), 1)
    return scores.tolist(), labels.tolist()


def estimates(result: Agreement) -> list[Estimate]:
    return [getattr(result, name) for name in STATISTICS]


def is_undefined(estimate: Estimate) -> bool:
    return all(math.isnan(x) for x in (estimate.value, estimate.low, estimate.high))


@pytest.fixture(autouse=True)
def _warnings_fail():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Point values


@pytest.mark.parametrize("n", [7, 63, 240])
def test_values_are_those_of_scipy_and_sklearn(n: int) -> None:
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    scores, labels = make_rows(n)
    expected = [
        stats.pearsonr(scores, labels).statistic,
        stats.spearmanr(scores, labels).statistic,
        stats.kendalltau(scores, labels).statistic,
        roc_auc_score([label >= 1 for label in labels], scores),
    ]
    found = estimates(agreement("QUALS", scores, labels, n_resamples=5))
    assert [one.value for one in found] == pytest.approx(expected, abs=1e-12)


def test_values_by_hand() -> None:
    # Deviations (-1.5, -.5, .5, 1.5) and (-.5, -.5, .5, .5): covariance 2, variances 5 and 1.
    # Pairs: 4 concordant, 2 tied in the label. Spearman is Pearson, as the scores are ranks.
    result = agreement("x", [1, 2, 3, 4], [0, 0, 1, 1], n_resamples=5)
    assert result.pearson.value == pytest.approx(2 / math.sqrt(5))
    assert result.spearman.value == pytest.approx(2 / math.sqrt(5))
    assert result.kendall.value == pytest.approx(4 / math.sqrt(6 * 4))
    assert result.auc.value == 1.0


def test_auc_counts_a_tie_as_one_half() -> None:
    # Positive 2 and 3 against negative 1 and 2: wins 1, 1/2, 1, 1 of 4.
    assert agreement("x", [1, 2, 2, 3], [0, 0, 1, 1], n_resamples=5).auc.value == 3.5 / 4


def test_positive_from_moves_the_classes() -> None:
    scores, labels = [1.0, 2.0, 3.0, 0.0], [0.0, 0.5, 1.0, 1.0]
    assert agreement("x", scores, labels, n_resamples=5).auc.value == 2 / 4
    assert agreement("x", scores, labels, positive_from=0.5, n_resamples=5).auc.value == 2 / 3


# Intervals


def test_intervals_are_ordered_and_hold_the_value() -> None:
    for estimate in estimates(agreement("x", *make_rows(240), n_resamples=200)):
        assert -1 <= estimate.low < estimate.value < estimate.high <= 1


def test_intervals_match_direct_resampling() -> None:
    from scipy import stats
    from sklearn.metrics import roc_auc_score

    scores, labels = (np.array(column) for column in make_rows(60))
    rng = np.random.default_rng(7)
    draws = []
    for rows in rng.integers(0, 60, (400, 60)):
        x, y = scores[rows], labels[rows]
        draws.append(
            [
                stats.pearsonr(x, y).statistic,
                stats.spearmanr(x, y).statistic,
                stats.kendalltau(x, y).statistic,
                roc_auc_score(y >= 1, x),
            ]
        )
    expected = np.percentile(draws, [2.5, 97.5], axis=0).T
    found = estimates(agreement("x", scores.tolist(), labels.tolist(), n_resamples=2000))
    for estimate, (low, high) in zip(found, expected, strict=True):
        # The ends of 400 and 2000 other draws differ by their own spread, some hundredths.
        assert estimate.low == pytest.approx(low, abs=0.05)
        assert estimate.high == pytest.approx(high, abs=0.05)


def test_a_seed_fixes_the_intervals_and_another_moves_them() -> None:
    rows = make_rows(40)
    first = agreement("x", *rows, n_resamples=50, seed=1)
    again = agreement("x", *rows, n_resamples=50, seed=1)
    other = agreement("x", *rows, n_resamples=50, seed=2)
    assert first == again
    for one, two in zip(estimates(first), estimates(other), strict=True):
        assert one.value == two.value
        assert (one.low, one.high) != (two.low, two.high)


def test_intervals_shrink_with_rows() -> None:
    sizes = [
        [e.high - e.low for e in estimates(agreement("x", *make_rows(n), n_resamples=100))]
        for n in (20, 200, 1000)
    ]
    for wide, narrow in pairwise(sizes):
        assert all(a > b for a, b in zip(wide, narrow, strict=True))


def test_draws_of_one_class_are_left_out() -> None:
    # (3/4)**4 of the draws hold no positive row; in the others it wins every comparison.
    auc = agreement("x", [1, 2, 3, 4], [0, 0, 0, 1], n_resamples=200).auc
    assert auc == Estimate(1.0, 1.0, 1.0)


def test_one_resample_is_enough_to_run() -> None:
    result = agreement("x", *make_rows(30), n_resamples=1)
    assert result.pearson.low == result.pearson.high


# Missing and degenerate rows


def test_nan_scores_are_counted_and_left_out() -> None:
    scores, labels = make_rows(40)
    expected = agreement("x", scores, labels, n_resamples=20)
    nan = math.nan
    result = agreement("x", [nan, *scores, nan], [0.0, *labels, 1.0], n_resamples=20)
    assert (result.n, result.n_missing) == (40, 2)
    assert (expected.n, expected.n_missing) == (40, 0)
    assert estimates(result) == estimates(expected)


def test_constant_scores_have_no_correlation() -> None:
    result = agreement("x", [0.1] * 5, [0, 1, 0, 1, 0.5], n_resamples=20)
    assert all(is_undefined(e) for e in (result.pearson, result.spearman, result.kendall))
    assert result.auc == Estimate(0.5, 0.5, 0.5)


def test_constant_labels_leave_everything_undefined() -> None:
    result = agreement("x", [1, 2, 3, 4], [1, 1, 1, 1], n_resamples=20)
    assert all(is_undefined(e) for e in estimates(result))


@pytest.mark.parametrize("shift", [0.0, 2.0], ids=["all negative", "all positive"])
def test_one_class_has_no_auc(shift: float) -> None:
    labels = [shift + x for x in (0.0, 0.3, 0.6, 0.9)]
    result = agreement("x", [1, 2, 3, 4], labels, n_resamples=20)
    assert is_undefined(result.auc)
    assert result.pearson.value == pytest.approx(1.0)


def test_to_dict_is_json_with_none_for_nan() -> None:
    result = agreement("QUALS", [1, 2, 3, math.nan], [0, 0.25, 0.5, 0.5], n_resamples=20)
    row = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(row) == ["name", "n", "n_missing", *STATISTICS, "undefined"]
    assert (row["name"], row["n"], row["n_missing"]) == ("QUALS", 3, 1)
    assert row["auc"] == {"value": None, "low": None, "high": None}
    assert row["kendall"]["value"] == pytest.approx(1.0)


def test_numpy_columns_are_welcome() -> None:
    scores, labels = make_rows(20)
    expected = agreement("x", scores, labels, n_resamples=5)
    assert agreement("x", np.array(scores), np.array(labels), n_resamples=5) == expected


# Messages


def test_lengths_differ() -> None:
    with pytest.raises(ValueError, match=r"`scores` and `labels` .* same length, but got 3 and 2"):
        agreement("x", [1, 2, 3], [1, 2])


@pytest.mark.parametrize("label", [math.nan, math.inf, "1", None], ids=str)
def test_a_bad_label_is_named(label: float) -> None:
    with pytest.raises(
        ValueError, match=r"^labels\[3\] must be a finite number, but got .*; leave out rows"
    ):
        agreement("x", [1, 2, 3, 4], [0, 0, 1, label])


@pytest.mark.parametrize("score", [-math.inf, "1", None], ids=str)
def test_a_bad_score_is_named(score: float) -> None:
    with pytest.raises(ValueError, match=r"^scores\[2\] must be a finite number or NaN, but got "):
        agreement("x", [1, 2, score, 4], [0, 0, 1, 1])


def test_too_few_rows() -> None:
    with pytest.raises(
        ValueError, match=r"at least 3 rows with a score, but got 2 \(1 more .* add rows"
    ):
        agreement("x", [1, 2, math.nan], [0, 1, 1])


def test_too_few_resamples() -> None:
    with pytest.raises(ValueError, match="`n_resamples` must be at least 1, but got 0"):
        agreement("x", [1, 2, 3], [0, 1, 1], n_resamples=0)


def test_agreement_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r'needs SciPy and scikit-learn: pip install "\.\[evaluate\]" in the checkout$',
    ):
        agreement("x", [1, 2, 3], [0, 1, 1])


def test_rouge_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(
        ModuleNotFoundError,
        match=r'needs rouge-score: pip install "\.\[evaluate\]" in the checkout$',
    ):
        rouge_floor(["a"], ["a"])


def test_import_is_light() -> None:
    code = (
        "import sys, quals_fast.evaluation; "
        "print([m for m in ('scipy', 'sklearn', 'rouge_score', 'numpy', 'torch') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ROUGE


def test_rouge_by_hand() -> None:
    # Document of 6 words, summary of 4; "cats" and "cat" meet at the stem.
    # Words in common: the, cat, on -> 3. Bigrams in common: "the cat" of 3 and 5. Longest common
    # subsequence: the cat on -> 3.
    columns = rouge_floor(["The cat sat on a mat."], ["the cats slept on"])
    assert {key: values[0] for key, values in columns.items()} == pytest.approx(
        {
            "ROUGE-1 precision": 3 / 4,
            "ROUGE-1 F1": 2 * 3 / (6 + 4),
            "ROUGE-2 precision": 1 / 3,
            "ROUGE-2 F1": 2 * 1 / (5 + 3),
            "ROUGE-L precision": 3 / 4,
            "ROUGE-L F1": 2 * 3 / (6 + 4),
        }
    )


def test_rouge_keeps_the_order_of_pairs() -> None:
    columns = rouge_floor(["red car", "blue sky", "green hill"], ["red car", "", "hill green"])
    assert columns["ROUGE-1 precision"] == [1.0, 0.0, 1.0]
    assert columns["ROUGE-2 precision"] == [1.0, 0.0, 0.0]
    assert columns["ROUGE-L F1"] == [1.0, 0.0, 0.5]


def test_rouge_of_nothing_has_all_columns() -> None:
    assert set(map(len, rouge_floor([], []).values())) == {0}


def test_rouge_lengths_differ() -> None:
    with pytest.raises(
        ValueError, match=r"`documents` and `summaries` .* same length, but got 2 and 1"
    ):
        rouge_floor(["a", "b"], ["a"])


def test_rouge_of_one_string_is_refused() -> None:
    with pytest.raises(TypeError, match="`summaries` must be a list of strings, but got str"):
        rouge_floor(["a"], "a")


def test_rouge_names_what_is_no_string() -> None:
    with pytest.raises(TypeError, match=r"`documents\[1\]` must be a string, but got NoneType"):
        rouge_floor(["a", None], ["a", "b"])


# Labelled rows


def make_row(label: object, problem: str | None = None) -> InputRow:
    return InputRow(
        line=7, id=7, fields={"label": label}, document="d", summary="s", problem=problem
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [
        pytest.param("good", "must be a number, but got 'good'", id="word"),
        pytest.param([1], r"must be a number, but got \[1\]", id="list"),
        pytest.param(math.nan, "must be finite, but got nan; leave out rows", id="nan"),
        pytest.param("NaN", "must be finite, but got nan", id="nan-cell"),
        pytest.param(-math.inf, "must be finite, but got -inf", id="infinite"),
        pytest.param("1e999", "must be finite, but got inf", id="huge"),
        pytest.param(10**400, "must be finite, but got inf", id="huge-integer"),
    ],
)
def test_a_label_of_no_use_is_named_with_its_line(label: object, message: str) -> None:
    with pytest.raises(InputError, match=f"^line 7: the label 'label' {message}"):
        Labels("label").check(make_row(label))


def test_labels_are_gathered_of_rows_that_could_be_scored() -> None:
    labels = Labels("label")
    labels.check(make_row(None, problem="the line is blank"))
    labels.add(make_row("0.5"), SummaryScore(status="ok", score=-1.0))
    labels.add(make_row(None), SummaryScore(status="error", message="line 7: broken"))
    assert labels.rows == [LabelledRow("d", "s", 0.5, -1.0)]


def test_rouge_is_compared_on_the_rows_that_have_a_score() -> None:
    pytest.importorskip("rouge_score", reason="evaluate needs the extra")
    summaries = ["red car", "blue hill", "green sky", "red sky", "car"]
    scores, labels = [-1.0, -2.0, math.nan, -0.5, -3.0], [1.0, 0.0, 1.0, 1.0, 0.0]
    rows = [
        LabelledRow("red car blue sky", *row) for row in zip(summaries, labels, scores, strict=True)
    ]
    quals, *rouge = compare(rows, n_resamples=5)
    assert (quals.name, quals.n, quals.n_missing) == ("QUALS", 4, 1)
    assert {(one.n, one.n_missing) for one in rouge} == {(4, 0)}
    assert rouge == compare([*rows[:2], *rows[3:]], n_resamples=5)[1:]


@pytest.mark.parametrize(
    ("scores", "labels", "undefined"),
    [
        ([0.1, 0.2, 0.3], [0.0, 1.0, 1.0], {}),
        ([0.1, 0.2, 0.3], [4, 5, 3], {"auc": "all labels are 1 or more"}),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.9], {"auc": "all labels are below 1"}),
        (
            [0.5, 0.5, 0.5],
            [0, 1, 1],
            dict.fromkeys(("pearson", "spearman", "kendall"), "all scores are 0.5"),
        ),
        (
            [0.1, 0.2, 0.3],
            [3, 3, 3],
            {
                **dict.fromkeys(("pearson", "spearman", "kendall"), "all labels are 3"),
                "auc": "all labels are 1 or more",
            },
        ),
    ],
    ids=["none", "above", "below", "scores", "labels"],
)
def test_why_a_statistic_is_undefined(scores, labels, undefined):
    found = agreement("QUALS", scores, labels, n_resamples=3)
    assert found.undefined.keys() == undefined.keys()
    for name, reason in undefined.items():
        assert found.undefined[name].startswith(reason)
        assert math.isnan(getattr(found, name).value)
    assert found.to_dict().get("undefined", {}) == found.undefined
