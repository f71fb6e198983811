"""`quals-fast evaluate`: agreement with labels, and labels that are wrong."""

import json
from pathlib import Path

import pytest
from cli_helpers import SUMMARIES, assert_usage_error, row, write, write_csv

from quals_fast import QualsScorer

LABELLED = [
    row("a", label=1),
    row("b", label="0"),
    row("c", label=0.5),
    row("d", label=1),
    row("e", summary=SUMMARIES["a"] + " who won", label=0),
    row("f", summary="queen", label=1),
]
FEW = ["--resamples", "3"]


def test_evaluate(run, expected):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    write("in.jsonl", LABELLED)
    result = run("evaluate", "in.jsonl", *FEW)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == "Pearson Spearman Kendall AUC".split()
    assert lines[1][0] == "QUALS"
    assert lines[3][:2] == ["ROUGE-1", "precision"]
    assert "\nn = 5, 1 more without a score; 95 % " in result.stdout
    assert result.stdout.splitlines()[-1] == expected.signature
    assert len(result.stderr.splitlines()) == 1


def test_evaluate_writes_json(run, expected):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    write_csv("in.csv", [one | {"human": one["label"]} for one in LABELLED])
    options = ["--label", "human", "--positive-from", "0.5", *FEW]
    result = run("evaluate", "in.csv", "-o", "out.json", *options)
    assert result.exit_code == 0
    content = json.loads(Path("out.json").read_text())
    assert content["signature"] == expected.signature
    assert [one["name"] for one in content["agreement"]][:2] == ["QUALS", "ROUGE-1 precision"]
    quals = content["agreement"][0]
    assert (quals["n"], quals["n_missing"]) == (5, 1)
    assert -1 <= quals["pearson"]["low"] <= quals["pearson"]["high"] <= 1
    result = run("evaluate", "in.csv", "-o", "-", "--quiet", *options)
    assert json.loads(result.stdout) == content


def test_evaluate_says_why_a_figure_is_missing(run):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    write("in.jsonl", [one | {"label": 2 + i} for i, one in enumerate(LABELLED)])
    result = run("evaluate", "in.jsonl", "-o", "out.json", *FEW)
    reason = "all labels are 1 or more, so there is only one class"
    assert f"\nno AUC: {reason}" in result.stdout
    for one in json.loads(Path("out.json").read_text())["agreement"]:
        assert one["auc"]["value"] is None
        assert one["undefined"]["auc"].startswith(reason)


def test_evaluate_quietly(run):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    write("in.jsonl", LABELLED)
    result = run("evaluate", "in.jsonl", "-o", "out.json", "--quiet", *FEW)
    assert (result.stdout, result.stderr) == ("", "")
    assert json.loads(Path("out.json").read_text())["agreement"]


def test_evaluate_leaves_bad_rows_out(run):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    bad = ['{"document": 1', json.dumps(row("n", summary=None, label=1))]
    write("in.jsonl", [*LABELLED[:3], *bad, *LABELLED[3:]])
    result = run("evaluate", "in.jsonl", *FEW)
    assert result.exit_code == 1
    assert "\nn = 5, 1 more without a score; " in result.stdout
    assert "2 error" in result.stderr
    assert "errors at line 4, 5" in result.stderr
    assert "first error: line 4: invalid JSON" in result.stderr


@pytest.mark.parametrize(
    ("label", "option", "message"),
    [
        pytest.param(
            "good", "label", "line 3: the label 'label' must be a number, but got 'good'", id="word"
        ),
        pytest.param(
            None, "label", "line 3: the label 'label' must be a number, but got None", id="null"
        ),
        pytest.param(
            "", "label", "line 3: the label 'label' must be a number, but got ''", id="empty"
        ),
        pytest.param(
            float("nan"),
            "label",
            "line 3: the label 'label' must be finite, but got nan … leave out rows",
            id="nan",
        ),
        pytest.param(
            1,
            "human",
            "line 1: expected a label 'human', but got 'id' … 'label' … --label",
            id="key",
        ),
    ],
)
def test_evaluate_with_a_wrong_label_is_found_before_the_work(
    run, monkeypatch, label, option, message
):
    rows = [*LABELLED[:2], row("c", label=label), *LABELLED[3:]]
    write("in.jsonl", rows)
    result = run("evaluate", "-", "--label", option, stdin=Path("in.jsonl").read_text())
    assert_usage_error(result, message)
    monkeypatch.setattr(QualsScorer, "from_pretrained", None)
    assert_usage_error(run("evaluate", "in.jsonl", "--label", option), message)


def test_evaluate_needs_rows(run):
    write("in.jsonl", LABELLED[:2])
    result = run("evaluate", "in.jsonl")
    assert_usage_error(result, "at least 3 rows with a score, but got 1 (1 more")
