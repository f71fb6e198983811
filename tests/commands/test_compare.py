"""`quals-fast compare`: from texts or scores to a table, JSON and a page; bad input."""

import json
from pathlib import Path

import pytest
from cli_helpers import DOCUMENT, SUMMARIES, assert_usage_error, write
from html_page import Page

from quals_fast import QualsScorer
from quals_fast.qags.results import QagsResult, QagsScore

pytest.importorskip("rouge_score", reason="compare needs the extra")

FEW = ["--resamples", "100"]
SIGNATURE = "quals|rule:fairseq09|model:toy@0123|version:0.1.0"
DOCUMENTS = [f"{DOCUMENT} {word} ." for word in "king town river score bridge lives tower".split()]


def rows_of(summary, documents=DOCUMENTS, **fields):
    return [{"document": one, "summary": summary} | fields for one in documents]


def scores(name, numbers, **changes):
    row = {"status": "ok", "signature": SIGNATURE} | changes
    return write(name, [{"id": i, "score": score} | row for i, score in enumerate(numbers, 1)])


@pytest.fixture
def two(run):
    """Run the command on two files of texts."""
    write("a.jsonl", rows_of(SUMMARIES["a"]))
    write("b.jsonl", rows_of(SUMMARIES["d"]))
    return lambda *arguments: run("compare", "a.jsonl", "b.jsonl", *FEW, *arguments)


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model fails."""
    monkeypatch.setattr(QualsScorer, "from_pretrained", None)


@pytest.fixture
def compare(run, no_model):
    """Run the command where no model is needed."""
    return lambda *arguments: run("compare", *arguments, small=False)


def test_two_files_of_texts(two, run):
    result = two("-o", "c.json", "--html", "c.html")
    assert result.exit_code == 0
    assert result.stderr == "14 rows: 14 ok\n"
    assert run("score", "a.jsonl", "b.jsonl", "-o", "s.jsonl").exit_code == 0
    scored = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    means = {
        system: sum(one["score"] for one in scored if one["file"] == f"{system}.jsonl") / 7
        for system in "ab"
    }
    content = json.loads(Path("c.json").read_text())
    assert content["signatures"] == [scored[0]["signature"]]
    assert (content["systems"], content["n_documents"]) == (["a", "b"], 7)
    assert [one["name"] for one in content["measures"]] == [
        "QUALS", "ROUGE-1 precision", "ROUGE-2 precision", "ROUGE-L precision", "words",
        "copied trigrams",
    ]  # fmt: skip
    assert content["measures"][0]["means"] == pytest.approx(means, abs=1e-5)
    (difference,) = content["measures"][0]["differences"]
    assert difference["difference"]["value"] == pytest.approx(means["b"] - means["a"], abs=1e-5)
    lines = result.stdout.splitlines()
    assert lines[2].split()[:2] == ["a", f"{means['a']:.3f}"]
    assert lines[3].split()[0] == "b" and lines[3].split()[1].startswith(f"{means['b']:.3f}")
    assert lines[6].split()[:2] == ["QUALS", "b"]
    assert lines[-1] == scored[0]["signature"]
    page = Page(Path("c.html").read_text())
    assert page.texts[0] == "a and b compared"
    assert {SUMMARIES["a"], SUMMARIES["d"], *DOCUMENTS} <= set(page.texts)


def test_one_file_by_a_column_with_another_baseline_and_references(run):
    write("in.jsonl", [
        *rows_of(SUMMARIES["a"], who="lead", gold="queen anne opened the bridge"),
        *rows_of(SUMMARIES["d"], who="ours", gold="queen anne opened the bridge"),
    ])  # fmt: skip
    options = ["--by", "who", "--baseline", "ours", "--reference-field", "gold", *FEW]
    result = run("compare", "in.jsonl", *options, "-o", "-")
    content = json.loads(result.stdout)
    assert content["systems"] == ["ours", "lead"]
    assert content["measures"][1]["name"] == "ROUGE-1 F1"
    assert content["measures"][1]["means"]["lead"] == pytest.approx(2 * 5 / (7 + 5))


def test_what_does_not_pair_or_has_no_score_is_left_out_and_told(run):
    write("a.jsonl", rows_of(SUMMARIES["a"], [*DOCUMENTS, "king won"]))
    of_b = [SUMMARIES["d"]] * 6 + [SUMMARIES["b"]]  # the last one gets no pairs
    rows = [one | {"summary": of} for one, of in zip(rows_of(""), of_b, strict=True)]
    write("b.jsonl", ['{"document', *rows, *rows_of(SUMMARIES["c"], DOCUMENTS[:1])])
    result = run("compare", "a.jsonl", "b.jsonl", *FEW, "-o", "c.json")
    assert result.exit_code == 1
    warning, closing = result.stderr.splitlines()
    assert warning == (
        "warning: 1 document is not in the rows of every system: a.jsonl, line 8 (not in b); left "
        "out"
    )
    assert closing.startswith("16 rows: ") and "1 error" in closing and "1 no_pairs" in closing
    assert "errors at b.jsonl line 1; " in closing and "mean" not in closing
    for note in (
        "left out: 1 document that not every system has (a: 1)",
        "left out: 1 document with a summary that has no score (b: 1)",
        "the mean of several summaries counts as one for b: 1 documents",
    ):
        assert note in result.stdout


def test_files_of_scores_need_no_model(compare):
    scores("a.jsonl", [-1.0] * 8)
    scores("b.jsonl", [-0.5] * 6 + [None, -9.0])
    result = compare("a.jsonl", "b.jsonl", "--baseline", "b.jsonl", "--html", "c.html")
    assert result.exit_code == 0
    assert result.stderr == "16 rows\n"
    shown = " ".join(result.stdout.split())
    assert "mean QUALS b -1.714 a -1.000 measure system" in shown
    assert "QUALS a +0.714" in shown and "1/0/6" in shown
    assert "no ROUGE, words, copied trigrams: they need the texts, which files" in result.stdout
    assert "left out: 1 document with a summary that has no score (b: 1)" in result.stdout
    assert result.stdout.splitlines()[-1] == SIGNATURE
    assert "8.000" in Page(Path("c.html").read_text()).texts


def test_a_line_that_is_no_row_of_scores_changes_the_exit_code(compare):
    scores("a.jsonl", [-1.0] * 6)
    scores("b.jsonl", [-1.0] * 6)
    with open("b.jsonl", "a") as file:
        file.write('{"id": 7, "sco')
    result = compare("a.jsonl", "b.jsonl", "--quiet")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "1 line not read, first b.jsonl, line 7: " in compare("a.jsonl", "b.jsonl").stderr


def test_quietly_into_files(compare):
    scores("a.jsonl", [-1.0] * 6)
    scores("b.jsonl", [-1.0] * 6)
    result = compare("a.jsonl", "b.jsonl", "--quiet", "-o", "c.json")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert json.loads(Path("c.json").read_text())["measures"][0]["differences"][0]["p_value"] == 1
    page = compare("a.jsonl", "b.jsonl", "--html", "-", "--rows", "0").stdout
    assert Page(page).texts[0] == "a and b compared"
    assert "differ most" not in page


def test_systems_with_equal_file_names_stay_distinct(compare):
    for folder in ("x", "y"):
        Path(folder).mkdir()
        scores(f"{folder}/s.jsonl", [-1.0] * 6)
    result = compare("x/s.jsonl", "y/s.jsonl", "-o", "-")
    assert json.loads(result.stdout)["systems"] == ["x/s.jsonl", "y/s.jsonl"]


def test_fail_fast_stops_before_the_work(run):
    write("a.jsonl", ['{"document', *rows_of(SUMMARIES["a"])])
    write("b.jsonl", rows_of(SUMMARIES["d"]))
    result = run("compare", "a.jsonl", "b.jsonl", "--fail-fast")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("1 row: 1 error; errors at a.jsonl line 1")


class FakeQags:
    """Scores a summary by its length; a summary of one letter has no questions."""

    signature = "qags|version:0.1.0"

    @classmethod
    def from_pretrained(cls, *_, **options):
        assert options["seed"] == 3
        return cls()

    def score(self, documents, summaries, *, on_progress=None):
        rows = [
            QagsScore(status="ok", score=1 / len(one))
            if len(one) > 1
            else QagsScore(status="no_questions")
            for one in summaries
        ]
        return QagsResult(tuple(rows), self.signature, {})


def test_several_metrics_in_one_run(run, monkeypatch):
    monkeypatch.setattr("quals_fast.qags.QagsScorer", FakeQags)
    write("a.jsonl", [*rows_of(SUMMARIES["a"]), *rows_of("x", [DOCUMENT])])
    write("b.jsonl", rows_of(SUMMARIES["d"], [*DOCUMENTS, DOCUMENT]))
    both = ["--metric", "qags", "--metric", "quals", "--metric", "qags", "--seed", "3"]
    out = ["-o", "c.json", "--save-scores", "kept"]
    result = run("compare", "a.jsonl", "b.jsonl", *both, *FEW, *out)
    assert result.exit_code == 0
    qags, quals = result.stderr.splitlines()
    assert qags.startswith("QAGS: 16 rows: 15 ok, 1 no_questions")
    assert quals.startswith("QUALS: 16 rows: ")
    content = json.loads(Path("c.json").read_text())
    assert content["metrics"] == ["QAGS", "QUALS"]
    assert [one["name"] for one in content["measures"]][:3] == [
        "QAGS",
        "QUALS",
        "ROUGE-1 precision",
    ]
    assert [one.split("|")[0] for one in content["signatures"]] == ["qags", "quals"]
    assert (content["n_documents"], content["without_score"]["QAGS"]) == (7, {"a": 1, "b": 0})
    assert content["measures"][0]["means"]["a"] == pytest.approx(1 / len(SUMMARIES["a"]))
    assert "(QAGS of a: 1" in result.stdout
    # What was kept is compared again without a model.
    kept = [f"kept/{metric}-{system}.jsonl" for metric in ("quals", "qags") for system in "ab"]
    assert sorted(map(str, Path("kept").iterdir())) == sorted(kept)
    again = json.loads(run("compare", *kept[:2], *FEW, "-o", "-", small=False).stdout)
    assert again["signatures"] == content["signatures"][1:]
    message = "must be a folder without scores, but kept/qags-a.jsonl is there"
    assert_usage_error(run("compare", "a.jsonl", "b.jsonl", *both, *out), message)


def test_a_metric_that_cannot_run_is_found_before_the_work(run, monkeypatch):
    monkeypatch.setattr(QualsScorer, "score", None)
    write("a.jsonl", rows_of(SUMMARIES["a"]))
    write("b.jsonl", rows_of(SUMMARIES["d"]))
    both = ["compare", "a.jsonl", "b.jsonl", "--metric", "quals", "--metric", "classifier"]
    assert_usage_error(run(*both), "--metric classifier needs a model: add --classifier FOLDER")
    result = run(*both, "--revision", "main")
    assert_usage_error(result, "--revision is of one model, but --metric names several; give")


def test_scores_are_kept_if_there_are_too_few(run):
    write("a.jsonl", rows_of(SUMMARIES["a"]))
    write("b.jsonl", rows_of(""))
    message = "got 0 of 7 (without a score: b: 7); add … with --save-scores FOLDER, no"
    assert_usage_error(run("compare", "a.jsonl", "b.jsonl", "--quiet"), message)
    result = run("compare", "a.jsonl", "b.jsonl", "--quiet", "--save-scores", "kept")
    assert_usage_error(result, "got 0 of 7 … the scores are in kept")
    assert len(Path("kept/quals-a.jsonl").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "at least two systems, but got a; give a file for each … --by"),
        (["a", "./a"], "INPUT must have each file once, but a and ./a are the same"),
        (["a", "s"], "all hold texts, or all scores … but a holds texts and s holds scores"),
        (["a", "-"], "compare needs files, but got a standard input"),
        (["a", "none"], "cannot read none: No such file"),
        (["a", "b", "--baseline", "c"], "one of the systems a, b, but got 'c'"),
        (["a", "b", "--by", "who"], "a, line 1: expected the name of a system in 'who'"),
        (["a", "b", "--reference-field", "gold"], "a, line 1: expected a reference summary 'gold'"),
        (
            ["a", "other"],
            "every document … paired by their text, but 8 documents are not … not in other",
        ),
        (
            ["a", "less", "--unpaired", "refuse"],
            "1 document … (not in less) … leave out --unp",
        ),
        (["a", "few"], "at least 6 documents … got 5; 2 documents … (not in few); add"),
        (["a", "b", "--rows", "3"], "--rows is for the page, but got no --html; add --html FILE"),
        (["a", "b", "-o", "c.csv"], "-o writes a JSON object, but got the file name c.csv"),
        (["a", "b", "-o", "c", "--html", "c"], "must be different files, but both are c"),
        (["a", "b", "--html", "none/c.html"], "there is no folder none"),
        (["a", "b", "-o", "a"], "must not be the same file as INPUT"),
        (["s", "t", "--model", "x"], "--model is for files of texts, but s t holds scores"),
        (["s", "t", "--format", "csv"], "--format is for files of texts"),
        (["s", "t", "--reference-field", "gold"], "--reference-field is for files of texts"),
        (["s", "u"], "not comparable, but s, line 1 has model:toy@0123 and u, line 1 has model:"),
        (["s", "v"], "at least 6 documents with a score of every system, but got 5 of 6 (without"),
        (["s", "t", "--save-scores", "x"], "--save-scores is for files of texts, but s t holds"),
        (["s", "t", "--metric", "qags"], "--metric is for files of texts, but s t holds scores"),
        (
            ["a", "b", "--metric", "qags", "--metric", "qags", "--model", "x"],
            "`--model` needs --metric quals, but got --metric qags --metric qags; leave",
        ),
        (["a", "b", "--save-scores", "no/x"], "cannot write no/x: No such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(compare, arguments, message):
    write("a", rows_of("who won"))
    write("b", rows_of("who lost"))
    write("few", rows_of("who lost", DOCUMENTS[:5]))
    write("less", rows_of("who lost", DOCUMENTS[:6]))
    write("other", rows_of("who lost", ["another"]))
    scores("s", [-1.0] * 6)
    scores("t", [-1.0] * 6)
    scores("u", [-1.0] * 6, signature=SIGNATURE.replace("toy", "other"))
    scores("v", [-1.0] * 5 + [None])
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert_usage_error(compare(*arguments), message)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before
