"""`quals-fast calibrate`, and `--calibration` in the commands that score."""

import csv
import json
from pathlib import Path

import pytest
from calibrations import write_calibration
from cli_helpers import GOOD, SUMMARIES, assert_usage_error, json_lines, row, write, write_csv

from quals_fast.calibration import Calibration, measures_of

pytest.importorskip("sklearn", reason="calibrate needs the extra")
NUMBERS = "forty four nine ten lives by river town king lost".split()


def labelled(label_of=lambda i, summary: i % 3 > 0):
    """Return 60 rows with a score, of as many documents, and some without one."""
    texts = [SUMMARIES[one] for one in "acd"] * 20
    rows = [
        row(f"{i}", summary=text, document=f"queen {NUMBERS[i % 10]} {NUMBERS[i // 10]} won .")
        | {"label": label_of(i, text)}
        for i, text in enumerate(texts)
    ]
    return [*rows, row("none", summary=SUMMARIES["b"], label=1), '{"id": "broken"']


@pytest.fixture
def rising(run):
    """Return labels that rise with the scores, but for some."""
    write("unlabelled.jsonl", labelled())
    run("score", "unlabelled.jsonl", "-o", "unlabelled-scores.jsonl")
    scores = [one["score"] for one in json_lines(Path("unlabelled-scores.jsonl").read_text())]
    middle = sorted(scores[:60])[30]
    return lambda i, _: (scores[i] > middle) != (i % 7 == 0)


def test_calibrate_then_score(run, rising):
    write("in.jsonl", labelled(rising))
    result = run("calibrate", "in.jsonl", "-o", "cal.json", "--html", "page.html")
    assert result.exit_code == 1, result.stderr  # a row could not be read
    assert "<- chosen" in result.stdout
    assert "always the base rate" in result.stdout
    assert "60 rows, each predicted by a fit without its document; left out 2 rows" in result.stdout
    content = json.loads(Path("cal.json").read_text())
    facts = content["fitted_on"]
    assert (facts["rows"], facts["documents"], facts["rows_without_score"]) == (60, 60, 2)
    assert (facts["file"], facts["label"]) == ("in.jsonl", "label")
    assert content["unseen_documents"]["n"] == 60
    assert content["unseen_documents"]["brier"] < content["base_rate"]["brier"]
    assert {*content["settings"]} >= {"model", "rule", "beams", "pairs", "summary", "tokens"}
    assert not {*content["settings"]} & {"dtype", "backend", "version"}
    page = Path("page.html").read_text()
    assert page.count("<circle") == len(content["unseen_documents"]["bins"])
    assert "<script" not in page

    calibrated = ("--calibration", "cal.json")
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--pairs", *calibrated)
    rows = json_lines(Path("out.jsonl").read_text())
    calibration = Calibration.load("cal.json")
    for one in rows[:60]:
        measures = measures_of(one["score"], one["n_pairs"], one["truncated_tokens"])
        assert one["probability"] == pytest.approx(calibration.curve.probability(measures))
        assert f"|calibration:{calibration.digest}|" in one["signature"]
    assert [one["probability"] for one in rows[60:]] == [None, None]
    assert list(rows[0])[:3] == ["id", "score", "probability"]

    run("score", "in.jsonl", "-o", "out.csv", *calibrated)
    with open("out.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [one["probability"] for one in cells[60:]] == ["", ""]
    assert float(cells[0]["probability"]) == rows[0]["probability"]

    result = run("score", "in.jsonl", "--rows", "2", *calibrated)
    assert result.stdout.split()[:3] == ["id", "score", "probability"]

    # Both forms, read back.
    result = run("report", "out.jsonl", "out.csv", "-o", "report.html", small=False)
    assert result.exit_code == 0, result.stderr
    page = Path("report.html").read_text()
    mean = sum(one["probability"] for one in rows[:60]) / 60
    assert f"<dt>Mean probability</dt><dd>{mean:.2f}<" in page
    lowest = min(rows[:60], key=lambda one: one["score"])
    assert f"probability {lowest['probability']:.2f}" in page

    # What it was fitted on says nothing of the calibration; other documents do.
    options = ("-o", "e.json", "--resamples", "3", *calibrated)
    result = run("evaluate", "in.jsonl", *options)
    assert "left out 60 rows whose documents the calibration was fitted on" in result.stdout
    assert json.loads(Path("e.json").read_text())["probability"] == {"n": 0, "n_seen": 60}
    others = [row(f"{i}", label=i / 3, summary=SUMMARIES["acd"[i]]) for i in range(3)]
    write("others.jsonl", others)
    result = run("evaluate", "others.jsonl", *options)
    assert "probabilities of 3 rows" in result.stdout
    assert json.loads(Path("e.json").read_text())["probability"]["n"] == 3
    write("five.jsonl", [one | {"label": 5} for one in others])
    assert_usage_error(run("evaluate", "five.jsonl", *options), "line 1: … from 0 to 1")


def test_explain_shows_probabilities(run, expected, tmp_path):
    path = write_calibration(tmp_path / "cal.json", expected.signature)
    write("in.jsonl", GOOD)
    chance = Calibration.load(path).probability(expected[0])
    result = run("explain", "in.jsonl", "--calibration", "cal.json", "--id", "a")
    assert f"   probability {chance:.2f}   ok" in result.stdout
    run("explain", "in.jsonl", "--calibration", "cal.json", "--html", "page.html")
    page = Path("page.html").read_text()
    assert f"probability {chance:.2f} ·" in page
    assert page.count("probability 0.") == 3  # of the rows with a score
    assert "share of people" in page


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_only_quals_is_calibrated(run, command):
    write("in.jsonl", labelled())
    result = run(command, "in.jsonl", "--metric", "qags", "--calibration", "c", small=False)
    assert_usage_error(result, "`--calibration` needs --metric quals, but got --metric qags")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "rule fairseq09 (this scorer: hamming) … fit one for these scores"),
        (["--calibration", "in.jsonl"], "in.jsonl is no calibration: it must be JSON"),
        (["--calibration", "none.json"], "cannot read the calibration 'none.json': No such file"),
        (["--calibration", "bundled"], "bundled is for other scores: … model qagen-mini@"),
    ],
)
def test_a_calibration_that_does_not_fit(run, expected, tmp_path, options, message):
    write_calibration(tmp_path / "cal.json", expected.signature)
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "--calibration", "cal.json", "--rule", "hamming", *options)
    assert_usage_error(result, message)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (True, "labels must differ, but all are 1; label both"),
        (4, "line 1: the label 'label' must be from 0 to 1 to be … but got 4; give 1 for consist"),
        ("good", "line 1: the label 'label' must be a number, but got 'good'"),
        (None, "line 1: the label 'label' must be a number, but got None"),
        (float("nan"), "line 1: the label 'label' must be finite, but got nan"),
    ],
)
def test_labels_of_no_use(run, label, message):
    write("in.jsonl", labelled(lambda i, _: label)[:60])
    assert_usage_error(run("calibrate", "in.jsonl", "-o", "cal.json"), message)
    assert not Path("cal.json").exists()


def test_rows_and_files_of_no_use(run):
    write("in.jsonl", labelled())
    result = run("calibrate", "in.jsonl", "-o", "cal.json", "--label", "human")
    assert_usage_error(result, "line 1: expected a label 'human', but got 'id', … --label")
    for name in ("none/cal.json", "in.jsonl"):
        result = run("calibrate", "in.jsonl", "-o", name)
        assert_usage_error(result, name)
    result = run("calibrate", "in.jsonl", "-o", "cal.json", "--html", "none/page.html")
    assert_usage_error(result, "none/page.html")
    write_csv("few.csv", [one | {"label": str(i > 3)} for i, one in enumerate(labelled()[:9])])
    # Said before the model is loaded.
    result = run("calibrate", "few.csv", "-o", "cal.json", "--model", "none", small=False)
    assert_usage_error(result, "at least 50 labelled rows with a score, but got 9; label more")
