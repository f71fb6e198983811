"""Fits against known curves, figures against arithmetic, and documents that stay apart."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from quals_fast.calibrating import (
    FORMS,
    MIN_ROWS,
    Fit,
    Form,
    JudgedRow,
    _folds,
    calibration_file,
    fit,
    reliability,
    reliability_on_others,
)
from quals_fast.calibration import Calibration, Logistic, document_key
from quals_fast.evaluation import LabelledRow
from quals_fast.pages.reliability import fit_table, render_reliability

pytest.importorskip("sklearn", reason="fits need the extra")
BY_SCORE = Form("logistic", ("score",))
ISOTONIC = Form("isotonic", ("score",))


def judged(document, label, score, n_pairs=10, truncated_tokens=0):
    return JudgedRow.of(
        document, label, score=score, n_pairs=n_pairs, truncated_tokens=truncated_tokens
    )


def rows_of(probability_at, n=1500, per_document=2, seed=0):
    """Return rows whose labels are drawn with the probability at their score and pairs."""
    generator = np.random.default_rng(seed)
    scores = generator.uniform(-3, 0, n)
    n_pairs = generator.integers(5, 15, n)
    chances = np.array([probability_at(*both) for both in zip(scores, n_pairs, strict=True)])
    labels = generator.random(n) < chances
    return [
        judged(f"document {i // per_document}", float(label), float(score), int(pairs))
        for i, (label, score, pairs) in enumerate(zip(labels, scores, n_pairs, strict=True))
    ]


def logistic(log_odds):
    return 1 / (1 + math.exp(-log_odds))


# Figures


def test_figures_by_hand():
    found = reliability([0.05, 0.08, 0.9, 1.0], [0.0, 1.0, 1.0, 0.5])
    squares = [0.05**2, 0.92**2, 0.1**2, 0.5 * 0 + 0.5 * 1.0]
    assert found.brier == pytest.approx(sum(squares) / 4)
    half_wrong = -0.5 * (math.log(1 - 1e-6) + math.log(1e-6))
    losses = [-math.log(0.95), -math.log(0.08), -math.log(0.9), half_wrong]
    assert found.log_loss == pytest.approx(sum(losses) / 4)
    assert [(one.low, one.high, one.n) for one in found.bins] == [(0.0, 0.1, 2), (0.9, 1.0, 2)]
    assert [one.share for one in found.bins] == [0.5, 0.75]
    assert [one.probability for one in found.bins] == pytest.approx([0.065, 0.95])
    assert found.ece == pytest.approx((2 * 0.435 + 2 * 0.2) / 4)
    json.dumps(found.to_dict(), allow_nan=False)


# The fit


def test_a_known_curve_is_found():
    fitted = fit(rows_of(lambda score, _: logistic(1 + 2 * score)), forms=FORMS[:3])
    assert fitted.form == BY_SCORE
    assert fitted.curve.intercept == pytest.approx(1, abs=0.35)
    assert fitted.curve.coefficients["score"] == pytest.approx(2, abs=0.35)
    assert fitted.unseen.ece < 0.05
    assert fitted.unseen.brier < fitted.base_rate.brier - 0.02
    assert fitted.unseen.n == 1500


def test_the_number_of_pairs_is_used_only_where_it_helps():
    rows = rows_of(lambda score, n_pairs: logistic(2 * score + n_pairs / 3 - 2), 500)
    assert fit(rows, forms=FORMS[:5]).form == Form("logistic", ("score", "n_pairs"))
    rows = rows_of(lambda score, _: logistic(2 * score + 1), 500)
    assert "n_pairs" not in fit(rows, forms=FORMS[:5]).form.measures


def test_an_isotonic_curve_rises_and_claims_no_more_than_its_rows_can_tell():
    rows = rows_of(lambda score, _: float(score > -1), 400)
    curve = ISOTONIC.fit(rows)
    assert list(curve.probabilities) == sorted(curve.probabilities)
    assert curve.probabilities[0] == pytest.approx(1 / 402)
    assert curve.probabilities[-1] == pytest.approx(401 / 402)
    assert fit(rows, forms=[ISOTONIC]).unseen.brier < 0.02


def test_labels_that_a_score_separates_give_a_finite_curve():
    curve = BY_SCORE.fit(rows_of(lambda score, _: float(score > -1), 400))
    assert 0 < curve.probability({"score": -3.0}) < 0.01
    assert 0.99 < curve.probability({"score": 0.0}) < 1


def test_a_label_between_counts_as_a_share_of_either():
    halves = [judged(f"d{i}", 0.75, -i / 20) for i in range(60)] + [
        judged(f"e{i}", 0.25, -3 - i / 20) for i in range(60)
    ]
    votes = [row._replace(label=float(vote < 4 * row.label)) for row in halves for vote in range(4)]
    one, other = BY_SCORE.fit(halves), BY_SCORE.fit(votes)
    # The votes are four times as many rows, so the penalty is weaker.
    for score in (-5.0, -2.0, 0.0):
        at = {"score": score}
        assert one.probability(at) == pytest.approx(other.probability(at), abs=0.01)


def test_rows_that_all_agree_where_a_fold_has_no_others():
    curve = BY_SCORE.fit([judged(f"d{i}", 1.0, -1.0) for i in range(8)])
    assert curve.probability({"score": -2.0}) == pytest.approx(0.9)


def test_summaries_of_a_document_are_never_on_both_sides():
    rows = [
        judged(text, i % 2, -i / 10)
        for i in range(30)
        for text in (f"Document number {i}.", f"document  NUMBER {i}", f"“Document number {i}”")
    ]
    parts = list(_folds(rows))
    assert sorted(i for _, unseen in parts for i in unseen) == list(range(len(rows)))
    for seen, unseen in parts:
        left_out = {document_key(rows[i].document) for i in unseen}
        assert not left_out & {document_key(row.document) for row in seen}
        assert len(left_out) == 6


def test_what_is_reported_has_not_been_seen():
    rows = rows_of(lambda score, _: logistic(score / 2), 200)
    fitted = fit(rows, forms=[ISOTONIC])
    of_its_rows = reliability(
        [fitted.curve.probability(row.measures) for row in rows], [row.label for row in rows]
    )
    assert of_its_rows.log_loss < fitted.unseen.log_loss - 0.02


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([judged("d", 1, 0)] * 12, f"at least {MIN_ROWS} labelled rows with a score, but got 12"),
        ([judged("d", 1, 0)] * 60, "summaries of at least 20 documents, but got 1; "),
        ([judged(f"{i}", 1, 0) for i in range(60)], "labels must differ, but all are 1; label bo"),
        (
            [judged(f"{i}", i / 60, -i / 10) for i in range(60)],
            "must be higher for more consistent summaries, but these do not rise with the scores",
        ),
    ],
)
@pytest.mark.parametrize("form", [BY_SCORE, ISOTONIC], ids=str)
def test_rows_that_do_not_suffice(rows, message, form):
    with pytest.raises(ValueError, match=message):
        fit(rows, forms=[form])


def test_a_fit_that_is_no_better_than_a_constant_is_said_to_be():
    labels = [1.0, 0.0] * 3
    constant, sure = reliability([0.5] * 6, labels), reliability([0.9] * 6, labels)
    good = reliability([0.9, 0.1] * 3, labels)
    text = {}
    for name, unseen in (("sure", sure), ("good", good)):
        fitted = Fit(
            curve=Logistic(0.0, {"score": 1.0}), form=BY_SCORE, log_losses={str(BY_SCORE): 0.5},
            unseen=unseen, base_rate=constant,
        )  # fmt: skip
        console = Console(record=True, width=100, file=io.StringIO())
        console.print(fit_table(fitted, "quals|x", n_without_score=0))
        text[name] = console.export_text()
        about = {"file": "a.jsonl", "rows": 6, "documents": 3, "label": "label"}
        page = render_reliability(fitted, about, "quals|x")
        assert ("<p>No better than the base rate" in page) == (name == "sure")
    assert "no better than the base rate" in text["sure"]
    assert "no better" not in text["good"]
    assert "logistic in score  0.5000 <- chosen" in text["good"]


# The file


def test_the_file_of_a_fit_gives_its_probabilities(tmp_path):
    rows = rows_of(lambda score, _: logistic(1 + score), 200)
    fitted = fit(rows)
    settings = {"model": "m@1", "rule": "hamming"}
    content = calibration_file(fitted, rows, settings=settings, fitted_on={"file": "in.jsonl"})
    (tmp_path / "c.json").write_text(json.dumps(content, allow_nan=False))
    calibration = Calibration.load(tmp_path / "c.json")
    assert calibration.settings == settings
    assert calibration.content["fitted_on"] == {"file": "in.jsonl", "rows": 200, "documents": 100}
    assert calibration.curve == fitted.curve
    assert all(calibration.has_seen(row.document) for row in rows)

    labelled = [
        LabelledRow("Document 3!", "s", 1.0, -1.0, 0.9),  # of the fit
        LabelledRow("another", "s", 1.0, -1.0, 0.8),
        LabelledRow("without a score", "s", 1.0, math.nan, None),
    ]
    found, n_seen = reliability_on_others(labelled, calibration)
    assert (found.n, n_seen) == (1, 1)
    assert found.brier == pytest.approx(0.04)
    assert reliability_on_others(labelled[:1], calibration) == (None, 1)
