"""`--metric qags` of `quals-fast score`, `evaluate` and `compare`."""

import json
import re
import sys
from pathlib import Path

import pytest
import qags_models
from cli_helpers import assert_usage_error, json_lines, row, statuses_of_mixed, write
from click.testing import CliRunner

from quals_fast.commands.app import app
from quals_fast.qags import QagsScorer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qags_models.write_models(tmp_path_factory.mktemp("qags"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Run a command with tiny networks and, in place of spaCy's, the tests' candidates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("quals_fast.qags.scorer.SpacyAnswers", AnyAnswers)

    def _run(command, *arguments):
        settings = ["--metric", "qags", "--qags-models", str(folder), "--dtype", "float32"]
        return CliRunner().invoke(app, [command, *arguments, *settings])

    return _run


class AnyAnswers(qags_models.WordAnswers):
    def extract(self, summaries):
        return [qags_models.CANDIDATES.get(summary, []) for summary in summaries]


def rows(**changes):
    return [
        row(str(i), document=qags_models.DOCUMENT, summary=summary, **changes)
        for i, summary in enumerate(qags_models.SUMMARIES)
    ]


def test_score_writes_the_rows_that_quals_writes(run, folder):
    write("in.jsonl", rows())
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--pairs", "--seed", "3")
    assert result.exit_code == 0
    lines = json_lines(Path("out.jsonl").read_text())
    expected = QagsScorer.from_pretrained(
        folder, extractor=AnyAnswers(), device="cpu", dtype="float32", seed=3
    ).score([qags_models.DOCUMENT] * 5, qags_models.SUMMARIES)
    for i, (line, score) in enumerate(zip(lines, expected, strict=True)):
        assert line == {"id": str(i), **score.to_dict(), "signature": expected.signature}
    assert "|seed:3|candidates:words|" in expected.signature
    assert {line["status"] for line in lines} == {"ok", "no_questions"}
    assert "5 rows: " in result.stderr


def test_bad_rows_do_not_harm_the_others(run):
    statuses_of_mixed(run)


def test_the_table_and_csv(run):
    write("in.jsonl", rows())
    table = run("score", "in.jsonl", "--qags-arm", "as_shipped", "--qags-setting", "paper")
    assert table.exit_code == 0
    assert table.stdout.splitlines()[-1].startswith("qags|answers:10|questions:20|setting:paper|")
    assert re.search(r"^4 +- +no_questions", table.stdout, re.MULTILINE)
    assert run("score", "in.jsonl", "-o", "out.csv", "--qags-filter").exit_code == 0
    assert "|filter:answer|" in Path("out.csv").read_text()


def test_evaluate(run):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    write("in.jsonl", [one | {"label": i % 2} for i, one in enumerate(rows())])
    result = run("evaluate", "in.jsonl", "-o", "out.json", "--resamples", "3")
    assert result.exit_code == 0
    names = [one["name"] for one in json.loads(Path("out.json").read_text())["agreement"]]
    assert names[:2] == ["QAGS", "ROUGE-1 precision"]
    assert result.stdout.splitlines()[1].startswith("QAGS ")
    assert "\nn = 3, 2 more without a score; " in result.stdout


def test_compare(run):
    pytest.importorskip("scipy", reason="compare needs the extra")
    documents = [f"{qags_models.DOCUMENT} {word}" for word in "a the king queen town game".split()]
    two = [(one, summary) for summary in qags_models.SUMMARIES[2:4] for one in documents]
    write("in.jsonl", [row(i, document=d, summary=s, who=s[:4]) for i, (d, s) in enumerate(two)])
    result = run("compare", "in.jsonl", "--by", "who", "-o", "out.json", "--resamples", "100")
    assert result.exit_code == 0 and result.stderr.startswith("12 rows: 12 ok")
    content = json.loads(Path("out.json").read_text())
    assert content["measures"][0]["name"] == "QAGS" and content["n_documents"] == 6
    assert content["signatures"][0].startswith("qags|")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "hamming"], "`--rule` … --metric quals, but got --metric qags"),
        (["--model", "m"], "`--model` needs --metric quals"),
        (["--max-pairs", "3"], "`--max-pairs` needs --metric quals"),
        (["--metric", "quals", "--seed", "1"], "`--seed` needs --metric qags"),
        (["--metric", "quals", "--qags-filter"], "`--qags-filter` needs --metric qags"),
        (["--qags-arm", "as_shipped", "--dtype", "bfloat16"], "'as_shipped' computes in float32"),
        (["--qags-models", "none"], "none must contain the folders question_generation and"),
    ],
)
def test_options_that_do_not_go_together(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write("in.jsonl", rows())
    metric = [] if "--metric" in arguments else ["--metric", "qags"]
    if metric and "--qags-models" not in arguments:
        metric += ["--qags-models", str(folder)]
    result = CliRunner().invoke(app, ["score", "in.jsonl", *metric, *arguments])
    assert_usage_error(result, message)


def test_a_spacy_model_of_another_version_is_one_line(folder, tmp_path, monkeypatch):
    spacy = pytest.importorskip("spacy", reason="needs spaCy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spacy, "__version__", "2.0.0")
    write("in.jsonl", rows())
    arguments = ["score", "in.jsonl", "--metric", "qags", "--qags-models", str(folder)]
    assert_usage_error(CliRunner().invoke(app, arguments), "would silently find other candidates")


def test_no_spacy_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "spacy", None)
    write("in.jsonl", rows())
    arguments = ["score", "in.jsonl", "--metric", "qags", "--qags-models", str(folder)]
    assert_usage_error(CliRunner().invoke(app, arguments), "spaCy, which is not installed: pip")
