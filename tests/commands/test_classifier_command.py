"""`--metric classifier` and `factcc` of `quals-fast score`, `evaluate`, `compare` and `report`."""

import csv
import json
import random
import re
import sys
from itertools import product
from pathlib import Path

import pytest
import tiny_classifiers
from cli_helpers import assert_usage_error, json_lines, row, statuses_of_mixed, write
from click.testing import CliRunner

from quals_fast.classifier import ClassifierScorer
from quals_fast.commands.app import app
from quals_fast.jobs.scores import read_scores

pytest.importorskip("transformers", reason="classifiers need transformers")
pytest.importorskip("spacy", reason="classifiers need spaCy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_classifiers.write_classifier(tmp_path_factory.mktemp("classifiers") / "small")


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """Run a command with the small classifier."""
    monkeypatch.chdir(tmp_path)

    def _run(command, *arguments):
        settings = ["--metric", "classifier", "--classifier", str(folder), "--positive", "CORRECT"]
        return CliRunner().invoke(app, [command, *arguments, *settings, "--device", "cpu"])

    return _run


def rows(n=12):
    """Return rows whose label says whether the document says what the summary says."""
    rng = random.Random(0)
    examples = [tiny_classifiers.example(rng) for _ in range(n)]
    return [
        row(str(i), document=document, summary=sentence, label=1 - wrong)
        for i, (document, sentence, wrong) in enumerate(examples)
    ]


def test_score_writes_the_rows_that_quals_writes(run, folder):
    given = [*rows(4), row("long", document="the town .", summary="the town won " * 20)]
    write("in.jsonl", given)
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--pairs")
    assert result.exit_code == 0, result.stderr
    scorer = ClassifierScorer.from_pretrained(folder, positive="CORRECT", device="cpu")
    texts = [[one[key] for one in given] for key in ("document", "summary")]
    expected = scorer.score(*texts)
    for line, one, score in zip(
        json_lines(Path("out.jsonl").read_text()), given, expected, strict=True
    ):
        assert line == {"id": one["id"], **score.to_dict(), "signature": scorer.signature}
    assert line["cut_sentences"] == 1
    closing = "; 18 tokens cut off in 1 row; 1 sentence too long for the classifier, and so cut; "
    assert closing in result.stderr
    read = list(read_scores("out.jsonl"))
    assert [(pair.question, pair.answer) for pair in read[0].pairs] == [
        (pair.sentence, pair.label) for pair in expected[0].pairs
    ]
    report = CliRunner().invoke(app, ["report", "out.jsonl", "-o", "out.html"])
    assert report.exit_code == 0, report.stderr
    page = Path("out.html").read_text()
    assert "Sentence → label" in page and "Distribution of classifier scores" in page
    assert f"<bdi>{expected[0].pairs[0].sentence}</bdi> → <b><bdi>" in page


def test_bad_rows_do_not_harm_the_others(run):
    statuses = statuses_of_mixed(run)
    assert statuses == ["ok", "error", "ok", "error", "ok", "empty_summary", "error", "ok"]


def test_the_table_and_csv(run):
    write("in.jsonl", rows(3))
    table = run("score", "in.jsonl")
    assert table.exit_code == 0
    assert re.search("^id +score +status +sentences +worst sentence -> label ", table.stdout)
    assert table.stdout.splitlines()[-1].startswith("classifier|positive:CORRECT|")
    assert run("score", "in.jsonl", "-o", "out.csv").exit_code == 0
    with open("out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["worst_question"] for line in lines] == [one["summary"] for one in rows(3)]
    assert {line["worst_answer"] for line in lines} <= {"CORRECT", "INCORRECT"}
    report = CliRunner().invoke(app, ["report", "out.csv", "-o", "out.html"])
    assert report.exit_code == 0 and "Worst sentence: <bdi>" in Path("out.html").read_text()


def test_shards_and_a_job_that_goes_on(run, monkeypatch):
    write("in.jsonl", rows(150))
    assert run("score", "in.jsonl", "-o", "whole.jsonl").exit_code == 0
    real, calls = ClassifierScorer.score, []

    def score(*args, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **settings)

    monkeypatch.setattr(ClassifierScorer, "score", score)
    assert run("score", "in.jsonl", "-o", "out.jsonl").exit_code == 130
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--resume")
    assert result.exit_code == 0 and result.stderr.startswith("150 rows: 150 ok")
    assert len(calls) == 4  # two windows of 64 rows were left
    shards = []
    for i in (1, 2):
        assert run("score", "in.jsonl", "-o", f"{i}.jsonl", "--shard", f"{i}/2").exit_code == 0
        shards.append(Path(f"{i}.jsonl").read_bytes())
    whole = Path("whole.jsonl").read_bytes()
    assert Path("out.jsonl").read_bytes() == b"".join(shards) == whole


def test_evaluate(run):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    write("in.jsonl", rows())
    result = run("evaluate", "in.jsonl", "-o", "out.json", "--resamples", "3")
    assert result.exit_code == 0, result.stderr
    first, rouge, *_ = json.loads(Path("out.json").read_text())["agreement"]
    assert (first["name"], first["auc"]["value"]) == ("CLASSIFIER", 1)
    assert rouge["name"] == "ROUGE-1 precision"


def test_compare_with_factcc(run, tmp_path):
    pytest.importorskip("scipy", reason="compare needs the extra")
    factcc = tiny_classifiers.write_factcc(tmp_path / "factcc")
    facts = product(tiny_classifiers.WHO, tiny_classifiers.DID, tiny_classifiers.WHAT)
    documents = [f"{who} {did} the {what} ." for who, did, what in facts]
    other = {"won": "lost", "lost": "won"}
    systems = {
        "same": lambda words: words,
        "wrong": lambda words: [other.get(word, word) for word in words],
    }
    given = [
        row(i, document=one, summary=" ".join(change(one.split())), system=name)
        for name, change in systems.items()
        for i, one in enumerate(documents)
    ]
    write("in.jsonl", given)
    arguments = ["--by", "system", "--baseline", "wrong", "--resamples", "100", "-o", "out.json"]
    arguments += ["--metric", "factcc", "--classifier", str(factcc)]
    result = CliRunner().invoke(app, ["compare", "in.jsonl", *arguments])
    assert result.exit_code == 0, result.stderr
    content = json.loads(Path("out.json").read_text())
    assert content["signatures"][0].startswith("factcc|positive:CORRECT|")
    measure = content["measures"][0]
    assert measure["name"] == "FACTCC" and measure["differences"][0]["wins"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--metric classifier", "--metric classifier needs a model: add --classifier FOLDER"),
        (
            "--metric factcc",
            "README of github.com/salesforce/factCC … vocab",
        ),
        ("--metric classifier --classifier none", "must be a folder … there is no folder 'none'"),
        ("--metric factcc --positive X", "`--positive` needs --metric classifier, but … factcc"),
        ("--classifier m", "needs --metric classifier or factcc, but got … quals"),
        ("--metric qags --positive X", "`--positive` needs --metric classifier, but got … qags"),
        (
            "--metric qags --revision v1",
            "`--revision` needs --metric quals or classifier or factcc",
        ),
        ("--metric classifier --seed 1", "`--seed` needs --metric qags, but got … classifier"),
        ("--metric classifier --model m", "`--model` needs --metric quals, but got … classifier"),
        ("--metric factcc --num-beams 3", "`--num-beams` needs --metric quals, but got"),
        ("--metric classifier --calibration f", "`--calibration` needs --metric quals, but got"),
        ("--metric classifier --spans -o o.jsonl", "--spans is for QUALS, but got … classifier"),
        ("--metric classifier --runner ray -o o", "--metric does not go with --runner ray"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write("in.jsonl", rows(1))
    result = CliRunner().invoke(app, ["score", "in.jsonl", *arguments.split()])
    assert_usage_error(result, message)


def test_labels_are_listed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("in.jsonl", rows(1))
    message = "`positive` must name … (--positive), one of 'CORRECT', 'INCORRECT' of small"
    arguments = ["score", "in.jsonl", "--metric", "classifier", "--classifier", str(folder)]
    assert_usage_error(CliRunner().invoke(app, arguments), f"{message}, but got None")
    result = CliRunner().invoke(app, [*arguments, "--positive", "yes"])
    assert_usage_error(result, f"{message}, but got 'yes'")


def test_no_spacy_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    write("in.jsonl", rows(1))
    assert_usage_error(run("score", "in.jsonl"), "needs PyTorch, transformers and spaCy: pip")
