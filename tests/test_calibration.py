"""What a calibration's file may hold, which scores it fits, and the probabilities it gives."""

import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from calibrations import CURVE, content_for, write_calibration
from cli_helpers import DOCUMENT, SUMMARIES
from messages import says

import quals_fast
from quals_fast import DecodingConfig, QAPair, QualsScorer, ScoringConfig
from quals_fast.calibration import Calibration, Isotonic, Logistic, document_key, measures_of
from quals_fast.results import SummaryScore
from quals_fast.signature import signature

NAMED = {"model": "mine", "digest": "aa", "dtype": "float32", "backend": "eager"}
SMALL = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)


def signed(decoding=DecodingConfig(), scoring=ScoringConfig(), **changes):  # noqa: B008 - frozen
    return signature(decoding, scoring, **(NAMED | changes))


def measures(score, n_pairs=0, truncated_tokens=0):
    return measures_of(score, n_pairs, truncated_tokens)


PAIR = QAPair(
    question="who?", answer="anne", token_ids=(5,), tokens=("a",), summary_logprobs=(-1.0,),
    document_logprobs=(-1.5,),
)  # fmt: skip


# The curves


def test_a_logistic_curve():
    curve = Logistic(1.0, {"score": 2.0, "n_pairs": 0.25, "truncated": -0.5, "exp_score": 1.0})
    log_odds = 1.0 + 2.0 * -0.5 + 0.25 * 4 - 0.5 + math.exp(-0.5)
    expected = 1 / (1 + math.exp(-log_odds))
    assert curve.probability(measures(-0.5, 4, 17)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("score", "expected"), [(-1e6, 0.0), (1e6, 1.0), (0.0, 0.5)])
def test_extreme_scores_do_not_overflow(score, expected):
    assert Logistic(0.0, {"score": 10.0}).probability(measures(score)) == expected


@pytest.mark.parametrize(
    ("score", "expected"),
    [(-9.0, 0.2), (-2.0, 0.2), (-1.5, 0.3), (-1.0, 0.4), (-0.25, 0.85), (0.0, 1.0), (3.0, 1.0)],
)
def test_an_isotonic_curve_is_straight_between_its_points(score, expected):
    curve = Isotonic((-2.0, -1.0, 0.0), (0.2, 0.4, 1.0))
    assert curve.probability(measures(score)) == pytest.approx(expected)


def test_an_isotonic_curve_of_one_point_is_flat():
    assert Isotonic((-1.0,), (0.3,)).probability(measures(-7.0)) == 0.3


@pytest.mark.parametrize("status", ["no_pairs", "empty_summary", "unknown_text", "error"])
def test_a_row_without_a_score_has_no_probability(tmp_path, status):
    calibration = Calibration.load(write_calibration(tmp_path / "c.json", signed()))
    # A no_pairs_score is no measurement.
    assert calibration.probability(SummaryScore(status=status, score=-1.0)) is None
    assert calibration.probability(SummaryScore(status="ok", score=-1.0, pairs=(PAIR,))) > 0


# The file


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "c.json is no calibration: it must be JSON"),
        (b"\xff", "c.json is no calibration: it must be JSON"),
        (b"[1]", "it must be an object with `calibration_format` … quals-fast calibrate"),
        (b'{"score": 1}', "it must be an object with `calibration_format`"),
        ({"calibration_format": 2}, "format 2, … reads format 1; install a newer version"),
        ({"settings": {"rule": "hamming"}}, "`settings` must be … `model`"),
        ({"settings": {"model": 3}}, "`settings` must be an object of texts"),
        ({"method": "magic"}, "`method` must be 'logistic' or 'isotonic', but is 'magic'"),
        ({"coefficients": {"mood": 1}}, "`coefficients` must be an object with score or exp_score"),
        ({"coefficients": {"score": "1"}}, "`coefficients` must be finite numbers"),
        ({"intercept": math.nan}, "`intercept` and `coefficients` must be finite"),
        ({"intercept": True}, "`intercept` and `coefficients` must be finite"),
        ({"method": "isotonic"}, "`scores` and `probabilities` must be arrays"),
        ({"method": "isotonic", "scores": [1], "probabilities": [1.5]}, "from 0 to 1"),
        ({"method": "isotonic", "scores": [1, 1], "probabilities": [0, 1]}, "must ascend"),
        ({"method": "isotonic", "scores": [1, 2], "probabilities": [0]}, "for each of them"),
        ({"documents": "abc"}, "`documents` must be an array"),
    ],
)
def test_a_file_that_is_no_calibration(tmp_path, content, message):
    if isinstance(content, dict):
        content = json.dumps(content_for(signed(), **content)).encode()
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ValueError, match=says(message)):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize("name", ["none.json", ""])
def test_a_file_that_cannot_be_read(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot read the calibration .*; give 'bundled' or a fi"):
        Calibration.load(tmp_path / name)


# Which scores it fits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoding": DecodingConfig(rule="hamming")}, "rule fairseq09 (this scorer: hamming)"),
        ({"decoding": DecodingConfig(num_beams=30, num_beam_groups=30)}, "beams 60/60 … 30/30"),
        ({"decoding": DecodingConfig(diversity_penalty=1.0)}, "diversity 0.5 (this scorer: 1.0)"),
        ({"scoring": ScoringConfig(max_pairs=None)}, "pairs 10 (this scorer: all)"),
        ({"scoring": ScoringConfig(summary_logprob="search")}, "summary model (this … search)"),
        ({"scoring": ScoringConfig(tokens="answer")}, "tokens all (this scorer: answer)"),
        ({"digest": "bb"}, "model mine@aa (this scorer: mine@bb)"),
        ({"kernels": "k|new:part"}, "new unknown (this scorer: part)"),  # of a later version
        (
            {"digest": "bb", "decoding": DecodingConfig(rule="hamming")},
            "c.json is for other scores: rule … hamming), model … mine@bb); score as it says, or "
            "fit one for these scores with quals-fast calibrate",
        ),
    ],
)
def test_scores_of_other_settings_are_refused(tmp_path, changes, message):
    calibration = Calibration.load(write_calibration(tmp_path / "c.json", signed()))
    with pytest.raises(ValueError, match=says(message)):
        calibration.check(signed(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "renamed"},
        {"dtype": "int8", "backend": "onnx-cpu", "kernels": "x"},
        {"scoring": ScoringConfig(no_pairs_score=-3.0)},
        {"calibration": "0123"},
    ],
)
def test_precision_engine_and_names_may_differ(tmp_path, changes):
    calibration = Calibration.load(write_calibration(tmp_path / "c.json", signed()))
    calibration.check(signed(**changes))
    calibration.check(signed(**changes).replace(quals_fast.__version__, "9.9"))


def test_a_document_is_known_in_any_layout(tmp_path):
    documents = [document_key("Queen Anne won.")]
    path = write_calibration(tmp_path / "c.json", signed(), documents=documents)
    calibration = Calibration.load(path)
    assert calibration.has_seen("queen  anne\nwon")
    assert not calibration.has_seen("Queen Anne lost.")


# The scorer


@pytest.fixture(scope="module")
def queens(tmp_path_factory):
    import tiny_models

    return tiny_models.write_asking(tmp_path_factory.mktemp("models") / "queens")


def test_a_scorer_with_a_calibration(queens, tmp_path):
    plain = QualsScorer.from_pretrained(queens, device="cpu", decoding=SMALL)
    path = write_calibration(tmp_path / "c.json", plain.signature)
    scorer = QualsScorer.from_pretrained(queens, device="cpu", decoding=SMALL, calibration=path)
    texts = [[DOCUMENT] * 3, [SUMMARIES["a"], SUMMARIES["b"], " "]]
    without, rows = plain.score(*texts), scorer.score(*texts)
    assert [row.status for row in rows] == ["ok", "no_pairs", "empty_summary"]
    curve = Logistic(CURVE["intercept"], CURVE["coefficients"])
    expected = curve.probability(measures(without[0].score, len(without[0].pairs)))
    assert [row.probability for row in rows] == [expected, None, None]
    assert [row.probability for row in without] == [None] * 3
    assert rows[0].score == without[0].score
    digest = scorer.calibration.digest
    assert rows.signature == without.signature.replace(
        "|version:", f"|calibration:{digest}|version:"
    )
    assert list(rows[0].to_dict())[:2] == ["score", "probability"]
    assert "probability" not in without[0].to_dict()

    path.unlink()  # unpickled where the file is not
    again = pickle.loads(pickle.dumps(scorer))
    assert again.score(*texts)[0].probability == expected


def test_a_calibration_of_another_model_is_refused(queens):
    with pytest.raises(
        ValueError, match=r"the calibration bundled is for other scores: .*model qa"
    ):
        QualsScorer.from_pretrained(queens, device="cpu", decoding=SMALL, calibration="bundled")


def test_the_bundled_calibration_fits_the_bundled_model(bundled_scorer):
    calibration = Calibration.load("bundled")
    calibration.check(bundled_scorer.signature)
    low, high = (calibration.curve.probability(measures(score, 10)) for score in (-4.0, 0.0))
    assert 0 < low < high < 1
    assert calibration.content["fitted_on"]["limits"]


def test_applying_one_needs_neither_torch_nor_scikit_learn():
    load = "from quals_fast.calibration import Calibration; Calibration.load('bundled')"
    code = f"import sys; {load}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parent.parent,
    ).stdout.split()  # fmt: skip
    assert not {"torch", "sklearn", "scipy", "numpy"} & set(loaded)
