"""`quals-fast report`: from scored rows to a page."""

import subprocess
import sys
from pathlib import Path

import pytest
from cli_helpers import GOOD, MIXED, SUMMARIES, assert_usage_error, write
from click.testing import CliRunner
from html_page import Page

from quals_fast.commands.app import app

SIGNATURE = "quals|model:toy@0123"


def scores(name, n=3, **changes):
    """Write a file of scores."""
    row = {"score": -1.0, "status": "ok", "signature": SIGNATURE} | changes
    return write(name, [{"id": f"r{i}"} | row for i in range(1, n + 1)])


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, stdin=None: CliRunner().invoke(
        app, ["report", *arguments], input=stdin
    )


def page(name="r.html"):
    return Page(Path(name).read_text("utf-8"))


def test_from_pairs_to_a_page(run, expected):
    write("in.jsonl", [row | {"system": row["id"] < "c"} for row in GOOD])
    assert run("score", "in.jsonl", "-o", "s.jsonl", "--pairs").exit_code == 0
    arguments = ["s.jsonl", "--input", "in.jsonl", "--by", "system", "-o", "r.html"]
    done = run("report", *arguments, small=False)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "wrote r.html: 4 rows\n"
    texts = page().texts
    assert {*SUMMARIES.values()} - {SUMMARIES["b"]} <= set(texts)  # b has no score
    assert texts.count("who") >= 3 and texts.count("queen") >= 3
    assert {"By system", "true", "false", "no_pairs", expected.signature} <= set(texts)
    lowest = min(row.score for row in expected if row.pairs)
    assert f"{lowest:.3f}" in texts


def test_csv_and_bad_rows(run):
    write("in.jsonl", MIXED)
    assert run("score", "in.jsonl", "-o", "s.csv").exit_code == 1
    done = run("report", "s.csv", "--input", "in.jsonl", "-o", "r.html", small=False)
    assert (done.exit_code, done.stderr) == (0, "wrote r.html: 8 rows\n")
    assert any(text.startswith("line 7: `summary` must be a string") for text in page().texts)


def test_to_standard_output_from_standard_input(report):
    text = Path(scores("s.jsonl")).read_text()
    done = report("-", "-o", "-", stdin=text)
    assert (done.exit_code, done.stderr) == (0, "3 rows\n")
    assert "Scores of standard input" in Page(done.stdout).texts
    assert report("-", "-o", "-", "--quiet", stdin=text).stderr == ""


def test_an_existing_page_is_replaced_but_not_by_a_failure(report):
    scores("s.jsonl")
    Path("r.html").write_text("former")
    assert_usage_error(report("none.jsonl", "-o", "r.html"), "cannot read none.jsonl: No such file")
    assert Path("r.html").read_text() == "former"
    assert report("s.jsonl", "-o", "r.html").exit_code == 0
    assert page().texts[0] == "Scores of s.jsonl"


def test_a_broken_line_is_named_and_changes_the_exit_code(report):
    scores("s.jsonl")
    with open("s.jsonl", "a") as file:
        file.write('{"id": "r4", "sco')
    done = report("s.jsonl", "-o", "r.html")
    assert done.exit_code == 1
    assert done.stderr.startswith(
        "wrote r.html: 3 rows; 1 line not read, first s.jsonl, line 4: invalid JSON: "
    )
    assert "1 line could not be read" in page().texts


def test_different_signatures_are_told(report):
    scores("a.jsonl")
    scores("b.jsonl", signature="quals|model:other@4567")
    done = report("a.jsonl", "b.jsonl", "-o", "r.html")
    assert done.exit_code == 0
    assert "; 2 signatures, whose scores are not comparable" in done.stderr
    assert "2 different signatures." in page().texts


def test_an_input_with_more_rows_is_told(report):
    scores("s.jsonl")
    write("in.jsonl", [{"id": f"r{i}", "document": "d", "summary": "s"} for i in range(1, 6)])
    done = report("s.jsonl", "--input", "in.jsonl", "-o", "r.html")
    assert done.stderr == "wrote r.html: 3 rows; the input has 2 more rows than there are scores\n"


def test_the_input_is_read_as_score_reads_it(report):
    scores("s.jsonl", 1)
    Path("in.csv").write_text("id;article;short\nr1;d;café\n", "latin-1")
    names = ["--document-field", "article", "--summary-field", "short", "--encoding", "latin-1"]
    assert report("s.jsonl", "--input", "in.csv", *names, "-o", "r.html").exit_code == 0
    assert "café" in page().texts


def test_rows_limits_what_is_shown(report):
    scores("s.jsonl", 9)
    assert report("s.jsonl", "-o", "r.html", "--rows", "2").exit_code == 0
    assert "The 2 lowest scores, worst first" in page().texts
    assert report("s.jsonl", "-o", "r.html", "--rows", "1001").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "r.html"], "Missing argument 'SCORES...'"),
        (["s.jsonl"], "Missing option '-o'"),
        (["empty.jsonl", "-o", "r.html"], "SCORES has no rows"),
        (["in.jsonl", "-o", "r.html"], "in.jsonl must be a file that quals-fast score wrote"),
        (
            ["s.jsonl", "-o", "r.html", "--by", "x"],
            "got 'x'; the columns of s.jsonl are 'file', 'id', 'score'",
        ),
        (["s.jsonl", "./s.jsonl", "-o", "r.html"], "SCORES must have each file once … ./s.jsonl"),
        (["n*.jsonl", "-o", "r.html"], "no file matches n*.jsonl"),
        (["s.jsonl", "-o", "./s.jsonl"], "must not be one of the files that are read"),
        (["s.jsonl", "--input", "in.jsonl", "-o", "in.jsonl"], "in.jsonl is; choose another name"),
        (["s.jsonl", "-o", "none/r.html"], "cannot write none/r.html: there is no folder none"),
        (["s.jsonl", "-o", "."], "cannot write .: Is a directory"),
        (["s.jsonl", "-o", "r.html.gz"], "leave out .gz"),
        (["s.jsonl", "--input", "none", "-o", "r.html"], "cannot read none: No such file"),
        (["s.jsonl", "--input", "in.jsonl", "-o", "r.html"], "--input must have … in the order"),
    ],
)
def test_bad_input(report, arguments, message):
    scores("s.jsonl")
    write("in.jsonl", [{"id": "x", "document": "d", "summary": "s"}])
    Path("empty.jsonl").write_text("")
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert_usage_error(report(*arguments), message)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_patterns(report):
    for name in ("b", "a"):
        scores(f"s-{name}.jsonl", 1)
        write(f"in-{name}.jsonl", [{"id": "r1", "document": "d", "summary": f"of {name}"}])
    done = report("s-*.jsonl", "--input", "in-?.jsonl", "--by", "file", "-o", "r.html")
    assert (done.exit_code, done.stderr) == (0, "wrote r.html: 2 rows\n")
    assert {"Scores of 2 files", "s-a.jsonl", "s-b.jsonl", "of a", "of b"} <= set(page().texts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "x"], "got 'x'; the columns of a.jsonl and 1 more file are 'file', 'id', 'score"),
        (["--by", "x", "--input", "in.jsonl"], "2 more files are … 'system', 'message'; for"),
        (["in.jsonl"], "in.jsonl must be a file that quals-fast score wrote, but line 1 is no"),
        (["--input", "none.jsonl"], "cannot read none.jsonl: No such file or directory"),
    ],
    ids=["column", "column-of-input", "other-file", "missing"],
)
def test_what_cannot_be_is_found_in_the_first_rows(report, monkeypatch, arguments, message):
    monkeypatch.setattr("quals_fast.pages.collecting.Collection", None)  # which reads all rows
    scores("a.jsonl")
    scores("b.jsonl")
    write("in.jsonl", [{"id": "r1", "document": "d", "summary": "s", "system": "x"}])
    assert_usage_error(report("a.jsonl", "b.jsonl", *arguments, "-o", "r.html"), message)


def test_a_column_may_be_missing_in_some_rows_and_files(report):
    scores("a.jsonl", 1)
    with open(scores("b.jsonl", 50), "a") as file:
        file.write(Path(scores("c.jsonl", 1, kind="k")).read_text())
    assert report("a.jsonl", "b.jsonl", "--by", "kind", "-o", "r.html").exit_code == 0
    assert {"k", "(no value)"} <= set(page().texts)
    with open(scores("a.jsonl", 200), "a") as file:
        file.write(Path(scores("c.jsonl", 1, message="broken")).read_text())
    assert report("a.jsonl", "--by", "message", "-o", "r.html").exit_code == 0


def test_a_column_of_standard_input_is_checked_at_the_end(report):
    text = Path(scores("s.jsonl")).read_text()
    done = report("-", "--by", "x", "-o", "r.html", stdin=text)
    assert_usage_error(done, "got 'x'; the columns of standard input are 'file', 'id', 'score'")


def test_without_jinja(report, monkeypatch):
    scores("s.jsonl")
    monkeypatch.setattr("quals_fast.commands.running.find_spec", lambda _: None)
    assert_usage_error(report("s.jsonl", "-o", "r.html"), "needs Jinja: pip install jinja2")


def test_help_shows_every_option(report):
    text = report("--help").stdout
    assert "report [OPTIONS] SCORES..." in text
    for parameter in app.commands["report"].params[1:]:
        assert parameter.opts[-1] in text and parameter.help


def test_the_program_does_not_import_torch(report):
    scores("s.jsonl")
    code = (
        "import sys, atexit; from quals_fast.commands.app import main\n"
        "atexit.register(lambda: print(sorted({'torch', 'tokenizers'} & set(sys.modules))))\n"
        "sys.argv[1:] = ['report', 's.jsonl', '-o', 'r.html']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
