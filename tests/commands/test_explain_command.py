"""`quals-fast explain`: on the terminal, as a page, and for some rows only."""

import html
import re
from pathlib import Path

import pytest
from cli_helpers import DOCUMENT, GOOD, MIXED, MIXED_IDS, SUMMARIES, assert_usage_error, write
from messages import says


def test_explain_on_the_terminal(run, expected):
    write("in.jsonl", MIXED)
    result = run("explain", "in.jsonl")
    assert result.exit_code == 1
    out = result.stdout
    heads = [line for line in out.splitlines() if re.match(r"\w+   score ", line)]
    assert [head.split()[0] for head in heads] == [str(one) for one in MIXED_IDS]
    assert heads[0].startswith(f"a   score {expected[0].score:.3f}   ok   ")
    assert f"who -> queen   {expected[0].pairs[0].score:.3f}" in out
    assert SUMMARIES["a"] in out
    assert "given summary" in out and "given document" in out
    assert "no generated question" in out
    assert "this row could not be scored: line 2: invalid JSON" in out
    legend = [
        "[words] in a summary: answers, marked by their mean drop; the rest drops less or was not "
        "asked about",
        "! -0.5 nats or less, !! -2 nats or less",
    ]
    assert out.splitlines()[-3:] == [*legend, expected.signature]
    assert result.stderr.startswith("8 rows: ")
    assert len(result.stderr.splitlines()) == 1


def test_explain_says_which_tokens_count(run):
    write("in.jsonl", GOOD[:1])
    result = run("explain", "in.jsonl", "--tokens", "answer")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2].endswith(", — does not count (--tokens answer)")
    drops = [line.split() for line in result.stdout.splitlines() if line.startswith("  drop")]
    assert drops and all(drop[1] == "—" and drop[-1] != "—" for drop in drops)


def test_explain_page(run, expected):
    write("in.jsonl", GOOD)
    result = run("explain", "in.jsonl", "--html", "why.html")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == "wrote why.html"
    page = html.unescape(Path("why.html").read_text("utf-8"))
    assert expected.signature in page
    assert all(summary in page for summary in SUMMARIES.values())
    assert "wrote" not in run("explain", "in.jsonl", "--html", "why.html", "--quiet").stderr


def test_explain_page_on_standard_output(run):
    write("in.jsonl", GOOD)
    result = run("explain", "in.jsonl", "--html", "-")
    assert result.exit_code == 0
    assert result.stderr.startswith("4 rows: ")
    assert result.stdout.lstrip().lower().startswith("<!doctype html>")


def test_explain_some_rows(run):
    write("in.jsonl", [*GOOD, {"document": DOCUMENT, "summary": SUMMARIES["a"]}])
    result = run("explain", "in.jsonl", "--id", "c", "--id", "5")
    assert result.exit_code == 0
    assert result.stderr.startswith("2 rows: 2 ok")
    assert SUMMARIES["c"] in result.stdout and SUMMARIES["a"] in result.stdout
    assert SUMMARIES["d"] not in result.stdout


@pytest.mark.parametrize(
    ("ids", "missing"),
    [(["nobody"], "nobody"), (["a", "nobody"], "nobody"), (["x", "y", "c"], "x or y")],
    ids=["one", "one-of-two", "two-of-three"],
)
def test_explain_missing_id(run, ids, missing):
    write("in.jsonl", GOOD)
    options = [part for one in ids for part in ("--id", one)]
    message = f"has the id {missing}; … line number"
    result = run("explain", "in.jsonl", *options, "--html", "why.html")
    assert_usage_error(result, f"no row of in.jsonl {message}")
    assert not Path("why.html").exists()
    stdin = Path("in.jsonl").read_text()
    result = run("explain", "-", *options, stdin=stdin)
    assert result.exit_code == 2
    assert re.search(says(f"no row of standard input {message}"), result.stderr)


def test_explain_top(run):
    write("in.jsonl", GOOD[:1])
    result = run("explain", "in.jsonl", "--top", "1", "--max-pairs", "all")
    assert result.exit_code == 0
    assert result.stdout.count(" -> ") == 1
    result = run("explain", "in.jsonl", "--top", "1", "--html", "why.html")
    assert_usage_error(result, "--top … terminal, but got --html")
