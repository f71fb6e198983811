"""`quals-fast score`: where results go, and the settings that reach them."""

import csv
import gzip
import json
import os
import threading
from pathlib import Path

import pytest
from cli_helpers import (
    DOCUMENT,
    GOOD,
    MIXED,
    STATUSES,
    SUMMARIES,
    assert_usage_error,
    json_lines,
    row,
    write,
    write_csv,
)

from quals_fast.config import PRESETS
from quals_fast.jobs.output import CSV_COLUMNS

# Where results go


def test_table_on_standard_output(run, expected):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == "id score status pairs worst question -> answer its score".split()
    assert [line[0] for line in lines[1:]] == [*SUMMARIES, expected.signature]
    for line, one in zip(lines[1:5], expected, strict=True):
        if one.status == "ok":
            assert f"{one.score:.3f}" in line
            assert "->" in line and "queen" in line
    assert lines[2] == ["b", "-", "no_pairs", "0", "-"]


def test_closing_line_and_signature(run, expected):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl")
    (counts,) = result.stderr.splitlines()
    mean = sum(one.score for one in expected if one.status == "ok") / 3
    unknown = "1 unknown token in 1 row"  # "by"
    assert counts == f"4 rows: 3 ok, 1 no_pairs; {unknown}; mean score {mean:.3f}"
    assert result.stdout.splitlines()[-1] == expected.signature


def test_closing_line_counts_failures_and_truncation(run):
    write("in.jsonl", [*MIXED, json.dumps(row("t", summary="queen " * 70))])
    result = run("score", "in.jsonl")
    assert result.exit_code == 1
    counts = result.stderr.splitlines()[0]
    assert counts.startswith("9 rows: ")
    assert "3 error" in counts
    lost = "8 tokens cut off in 1 row; 1 unknown token in 1 row"
    assert f"errors at line 2, 4, 7; {lost}; mean score " in counts
    assert "; first error: line 2: invalid JSON: " in counts


def test_output_file(run, expected):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr.startswith("4 rows: 3 ok, 1 no_pairs")
    lines = json_lines(Path("out.jsonl").read_text("utf-8"))
    assert lines == [
        {"id": row_id, **one.to_dict(include_pairs=False), "signature": expected.signature}
        for row_id, one in zip(SUMMARIES, expected, strict=True)
    ]
    assert lines[1]["score"] is None


def test_output_to_standard_output_is_nothing_but_lines(run, expected):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "-o", "-")
    lines = json_lines(result.stdout)
    assert [line["id"] for line in lines] == list(SUMMARIES)
    assert [line["status"] for line in lines] == STATUSES
    assert result.stderr.startswith("4 rows: ")


def test_quiet(run):
    write("in.jsonl", MIXED)
    result = run("score", "in.jsonl", "-o", "-", "--quiet")
    assert result.stderr == ""
    assert result.exit_code == 1
    assert len(json_lines(result.stdout)) == len(MIXED)


def test_quiet_with_an_output_file(run):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "-o", "out.jsonl", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert len(json_lines(Path("out.jsonl").read_text("utf-8"))) == 4


def test_pairs_and_spans(run, expected):
    write("in.jsonl", GOOD)
    lines = json_lines(run("score", "in.jsonl", "-o", "-", "--pairs", "--spans").stdout)
    places = [(SUMMARIES[x["id"]], s["start"], s["end"]) for x in lines for s in x["spans"]]
    assert [text[start:end] for text, start, end in places] == ["queen"] * 3
    for line, one in zip(lines, expected, strict=True):
        assert line["pairs"] == [pair.to_dict() for pair in one.pairs]
        assert line["n_pairs"] == len(line["pairs"])
        assert line["spans"] == [span.to_dict() for span in one.spans]


def test_standard_input(run, expected):
    stdin = "".join(json.dumps(one) + "\n" for one in GOOD)
    result = run("score", "-", "-o", "-", stdin=stdin)
    assert result.exit_code == 0
    scores = [None if one.status == "no_pairs" else one.score for one in expected]
    # Rows of a stream have other batch mates, which move a score by rounding.
    assert [line["score"] for line in json_lines(result.stdout)] == pytest.approx(scores, abs=1e-5)


def test_csv_in_and_out(run, expected):
    write_csv("in.csv", GOOD)
    result = run("score", "in.csv", "-o", "out.csv")
    assert result.exit_code == 0
    with open("out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [one["id"] for one in rows] == list(SUMMARIES)
    assert [one["status"] for one in rows] == STATUSES
    assert float(rows[0]["score"]) == expected[0].score
    assert rows[0]["worst_answer"] == expected[0].worst_pair.answer == "queen"
    assert (rows[1]["score"], rows[1]["worst_answer"]) == ("", "")


def test_packed_csv_with_other_names_and_encoding(run):
    text = f"id;x,source,hyp\nn°1,{DOCUMENT},{SUMMARIES['a']}\n"
    Path("in.csv.gz").write_bytes(gzip.compress(text.encode("latin-1")))
    names = ["--document-field", "source", "--summary-field", "hyp"]
    result = run("score", "in.csv.gz", "-o", "-", "--encoding", "latin-1", *names)
    assert [line["status"] for line in json_lines(result.stdout)] == ["ok"]
    Path("in.txt").write_text(text.replace("°", "o"))
    result = run("score", "in.txt", "--format", "csv", "-o", "OUT.CSV", *names)
    assert result.exit_code == 0
    assert Path("OUT.CSV").read_text().startswith("id,score,status")


def test_no_rows(run):
    write("in.jsonl", [])
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 0
    assert result.stderr.startswith("0 rows\n")
    assert Path("out.jsonl").read_text() == ""


def test_only_the_lowest_rows_are_shown(run):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "--rows", "2", "-o", "out.jsonl")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["b", "c"]
    assert lines[3].strip() == "the 2 lowest of 4 rows; use -o to write all of them"
    assert len(Path("out.jsonl").read_text().splitlines()) == 4


def test_a_pipe_is_read_once(run, tmp_path):
    """As with bash's <(...)."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = "".join(json.dumps(one) + "\n" for one in GOOD)
    writer = threading.Thread(target=pipe.write_text, args=[content], daemon=True)
    writer.start()
    result = run("score", str(pipe), "-o", "-")
    writer.join(5)
    assert [line["id"] for line in json_lines(result.stdout)] == list(SUMMARIES)


# Several files


def test_several_files_are_one_job(run, expected):
    write("a.jsonl", GOOD[:2])
    write_csv("b.csv", GOOD[2:])
    result = run("score", "a.jsonl", "b*", "-o", "out.jsonl")
    assert result.exit_code == 0
    lines = json_lines(Path("out.jsonl").read_text("utf-8"))
    assert [line.pop("file") for line in lines] == ["a.jsonl"] * 2 + ["b.csv"] * 2
    assert lines == [  # also the scores, to the last bit: windows do not end with a file
        {"id": row_id, **one.to_dict(include_pairs=False), "signature": expected.signature}
        for row_id, one in zip(SUMMARIES, expected, strict=True)
    ]
    run("score", "a.jsonl", "b.csv", "-o", "out.csv")
    with open("out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == ("file", *CSV_COLUMNS)
    assert [one["file"] for one in rows] == ["a.jsonl"] * 2 + ["b.csv"] * 2


def test_errors_of_several_files_are_named_with_their_file(run):
    write("a.jsonl", [GOOD[0], "x", "y"])
    write("b.jsonl", ["z", *GOOD])
    result = run("score", "a.jsonl", "b.jsonl", "-o", "-")
    assert result.exit_code == 1
    assert "; errors at a.jsonl line 2, 3, b.jsonl line 1; " in result.stderr
    assert "; first error: a.jsonl, line 2: invalid JSON: " in result.stderr
    messages = [line["message"] for line in json_lines(result.stdout) if "message" in line]
    places = [message.split(": ")[0] for message in messages]
    assert places == ["a.jsonl, line 2", "a.jsonl, line 3", "b.jsonl, line 1"]


def test_parquet(run, expected):
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    pq.write_table(pa.Table.from_pylist([*GOOD, row("n", summary=None)]), "in.parquet")
    result = run("score", "in.parquet", "-o", "out.jsonl")
    assert result.exit_code == 1
    assert "; errors at row 5; " in result.stderr
    lines = json_lines(Path("out.jsonl").read_text("utf-8"))
    assert [line["score"] for line in lines[:4]] == [
        None if one.status == "no_pairs" else one.score for one in expected
    ]
    assert lines[4]["message"].startswith("row 5: `summary` must be a string, but got NoneType")
    stdin = Path("in.parquet").read_bytes()
    result = run("score", "-", stdin=stdin)
    assert_usage_error(result, "standard input is a Parquet file … from a pipe; give its name")
    Path("in.parquet.gz").write_bytes(gzip.compress(stdin))
    result = run("score", "in.parquet.gz")
    assert_usage_error(result, "in.parquet.gz is a Parquet file … compressed; decompress it first")


# Settings


def test_settings_reach_the_signature(run):
    write("in.jsonl", GOOD[:1])
    settings = (
        "--rule hamming --diversity-penalty 0.25 --length-penalty 2 --summary-logprob search "
        "--tokens answer --max-pairs all --no-pairs-score -7 --dtype float32 --max-batch-tokens 99"
    )
    result = run("score", "in.jsonl", *settings.split())
    assert result.exit_code == 0
    signature = result.stdout.splitlines()[-1]
    assert "|rule:hamming|beams:6/6|diversity:0.25|length:2-12|lp:2.0|" in signature
    assert "|summary:search|tokens:answer|pairs:all|nopairs:-7.0|unknown:dropped|" in signature
    assert "|model:queens@" in signature
    assert "|dtype:float32|backend:eager|" in signature


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_what_is_not_given(run, model, name):
    write("in.jsonl", GOOD[:1])
    given = f"--model {model} --device cpu --min-length 2 --max-length 12 --preset {name}"
    result = run("score", "in.jsonl", *given.split(), small=False)
    beams = PRESETS[name].decoding.num_beams
    assert result.exit_code == 0
    assert f"|beams:{beams}/{beams}|diversity:0.5|length:2-12|" in result.stdout
    given += " --num-beams 4 --num-beam-groups 2"
    result = run("score", "in.jsonl", *given.split(), small=False)
    assert "|beams:4/2|" in result.stdout


@pytest.mark.parametrize("n", ["1", "12", "all"])
def test_max_pairs(run, n):
    write("in.jsonl", GOOD[:1])
    result = run("score", "in.jsonl", "--max-pairs", n)
    assert result.exit_code == 0
    assert f"|pairs:{n}|" in result.stdout


def test_no_pairs_score_is_the_score_and_in_the_mean(run):
    write("in.jsonl", GOOD[1:2])
    result = run("score", "in.jsonl", "-o", "-", "--no-pairs-score", "-2.5")
    (line,) = json_lines(result.stdout)
    assert (line["status"], line["score"]) == ("no_pairs", -2.5)
    assert result.stderr.startswith("1 row: 1 no_pairs; mean score -2.500")
