"""The command line as its users meet it: what it prints, writes, refuses and returns."""

import csv
import gzip
import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny_models
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from quals_fast import DecodingConfig, QualsScorer, __version__
from quals_fast.cli import app
from quals_fast.files import CSV_COLUMNS

SMALL = "--num-beams 6 --num-beam-groups 6 --min-length 2 --max-length 12".split()
DOCUMENT = "king closed the tower in 1969 . queen anne won ."
# The model below asks "who -> queen" of a summary, so one without her has no pairs.
SUMMARIES = {
    "a": "queen anne opened the bridge in 1962 .",
    "b": "the town won forty four lives",
    "c": "king and queen lost score by a river .",
    "d": "anne won the queen",
}
STATUSES = ["ok", "no_pairs", "ok", "ok"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """More threads only wait for one another in a network this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint that asks for the queen: each position of its targets has its word."""
    folder = tiny_models.write_checkpoint(tmp_path_factory.mktemp("models") / "queens", seed=2)
    words = [*tiny_models.SPECIAL, *tiny_models.WORDS]
    weights = load_file(folder / "model.safetensors")
    positions = weights["model.decoder.embed_positions.weight"]
    for place, word in enumerate(["who", "[SEP0]", "queen", "[SEP]"], start=2):
        positions[place] += 5 * weights["model.shared.weight"][words.index(word)]
    for name, weight in weights.items():
        if name.startswith("model.decoder.layers") and name.endswith(
            ("out_proj.weight", "fc2.weight")
        ):
            weight *= 0.4
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def expected(model):
    """What the Python interface says of the good rows."""
    decoding = DecodingConfig(num_beams=6, num_beam_groups=6, min_length=2, max_length=12)
    scorer = QualsScorer.from_pretrained(model, device="cpu", decoding=decoding)
    result = scorer.score([DOCUMENT] * len(SUMMARIES), list(SUMMARIES.values()))
    assert [row.status for row in result] == STATUSES
    return result


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Run a command on the tiny model in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def _run(command, *arguments, stdin=None, small=True):
        settings = ["--model", str(model), "--device", "cpu", *SMALL] if small else []
        return CliRunner().invoke(app, [command, *arguments, *settings], input=stdin)

    return _run


def row(row_id, **changes):
    summary = SUMMARIES.get(row_id, "who won")
    return {"id": row_id, "document": DOCUMENT, "summary": summary} | changes


GOOD = [row(row_id) for row_id in SUMMARIES]
# Line 2 is no JSON, line 4 has no document, line 7 has the wrong type.
MIXED = [
    json.dumps(GOOD[0]),
    '{"id": "x", ',
    json.dumps(GOOD[1]),
    json.dumps({"id": "y", "summary": "s"}),
    json.dumps(GOOD[2]),
    json.dumps(row("e", summary=" ")),
    json.dumps(row("z", summary=3)),
    json.dumps(GOOD[3]),
]
MIXED_STATUSES = ["ok", "error", "no_pairs", "error", "ok", "empty_summary", "error", "ok"]
MIXED_IDS = ["a", 2, "b", "y", "c", "e", "z", "d"]


def write(name, rows):
    lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    Path(name).write_text("\n".join(lines) + "\n")
    return name


def write_csv(name, rows):
    with open(name, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return name


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def assert_usage_error(result, message):
    """One line on standard error, nothing on standard output, no traceback, exit code 2."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr


# score: where results go


def test_table_on_standard_output(run, expected):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == "id score status pairs worst question -> answer its score".split()
    assert [line[0] for line in lines[1:]] == list(SUMMARIES)
    for line, one in zip(lines[1:], expected, strict=True):
        if one.status == "ok":
            assert f"{one.score:.3f}" in line
            assert "->" in line and "queen" in line
    assert lines[2] == ["b", "-", "no_pairs", "0", "-"]


def test_closing_lines(run, expected):
    write("in.jsonl", GOOD)
    counts, signature = run("score", "in.jsonl").stderr.splitlines()
    mean = sum(one.score for one in expected if one.status == "ok") / 3
    assert counts == f"4 rows: 3 ok, 1 no_pairs; mean score {mean:.3f}"
    assert signature == expected.signature


def test_closing_line_counts_failures_and_truncation(run):
    write("in.jsonl", [*MIXED, json.dumps(row("t", summary="queen " * 70))])
    result = run("score", "in.jsonl")
    assert result.exit_code == 1
    counts = result.stderr.splitlines()[0]
    assert counts.startswith("9 rows: ")
    assert "3 error" in counts
    assert "errors at line 2, 4, 7; 8 tokens cut off in 1 row; mean score " in counts
    assert "; first error: line 2: invalid JSON: " in counts


def test_output_file(run, expected):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 0
    assert "no_pairs" in result.stdout  # the table comes all the same
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


def test_pairs(run, expected):
    write("in.jsonl", GOOD)
    lines = json_lines(run("score", "in.jsonl", "-o", "-", "--pairs").stdout)
    for line, one in zip(lines, expected, strict=True):
        assert line["pairs"] == [pair.to_dict() for pair in one.pairs]
        assert line["n_pairs"] == len(line["pairs"])


def test_standard_input(run, expected):
    stdin = "".join(json.dumps(one) + "\n" for one in GOOD)
    result = run("score", "-", "-o", "-", stdin=stdin)
    assert result.exit_code == 0
    assert [line["score"] for line in json_lines(result.stdout)] == [
        None if one.status == "no_pairs" else one.score for one in expected
    ]


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
    assert lines[3].strip() == "the 2 lowest of 4 rows; -o writes all"
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


# score: bad rows


def test_bad_rows_get_a_status_and_the_others_are_scored(run, expected):
    write("in.jsonl", MIXED)
    result = run("score", "in.jsonl", "-o", "-")
    assert result.exit_code == 1
    lines = json_lines(result.stdout)
    assert [line["id"] for line in lines] == MIXED_IDS
    assert [line["status"] for line in lines] == MIXED_STATUSES
    good = [line["score"] for line in lines if line["status"] == "ok"]
    assert good == [one.score for one in expected if one.status == "ok"]
    assert [line["message"] for line in lines if line["status"] == "error"] == [
        "line 2: invalid JSON: Expecting property name enclosed in double quotes at column 13; "
        'expected one object a line, such as {"document": "...", "summary": "..."}',
        "line 4: expected a key 'document', but got 'id', 'summary'; name the right ones with "
        "--document-field and --summary-field",
        "line 7: `summary` must be a string, but got int; convert it to text, or give an empty "
        "string where there is none",
    ]


BAD_ROWS = [
    pytest.param('{"document": "d"', "line 7: invalid JSON: ", id="invalid-json"),
    pytest.param("", "line 7: the line is blank", id="blank"),
    pytest.param("\udce9", "line 7: expected utf-8, but got the byte 0xE9; pass the", id="latin-1"),
    pytest.param(
        row("n", summary="a\0b"), "line 7: `summary` must be text, but holds a NUL", id="nul"
    ),
    pytest.param(
        row("\ud800", document="\udfff"),
        "line 7: `document` must be valid Unicode, but holds the lone surrogate U+DFFF",
        id="lone-surrogate",
    ),
    pytest.param(
        row("n", document=None), "line 7: `document` must be a string, but got NoneType", id="null"
    ),
    pytest.param(row("n", document=["d"]), "line 7: `document` must be a string", id="list"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS)
def test_a_bad_line_seven(run, bad, message):
    lines = [json.dumps(GOOD[0]).encode()] * 9
    text = json.dumps(bad) if isinstance(bad, dict) else bad
    lines[6] = text.encode(errors="surrogateescape")
    Path("in.jsonl").write_bytes(b"\n".join(lines))
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith("9 rows: 8 ok, 1 error; errors at line 7; mean score ")
    assert message in result.stderr
    assert message.split(":")[0] in result.stdout
    found = json_lines(Path("out.jsonl").read_text("utf-8"))
    assert [line["status"] for line in found] == ["ok"] * 6 + ["error"] + ["ok"] * 2
    assert found[6]["message"].startswith(message)
    assert len({line["score"] for line in found}) == 2


def test_empty_texts(run):
    write("in.jsonl", [row("a", summary=""), row("b", document=" \n\u3000"), row("c")])
    result = run("score", "in.jsonl", "-o", "-")
    assert result.exit_code == 0
    lines = json_lines(result.stdout)
    assert [line["status"] for line in lines] == ["empty_summary", "empty_document", "ok"]
    assert [line["score"] is None for line in lines] == [True, True, False]
    assert not any("message" in line for line in lines)


def test_a_document_of_one_megabyte(run):
    write("in.jsonl", [row("a", document="queen " * 170_000), row("c")])
    result = run("score", "in.jsonl", "-o", "-")
    assert result.exit_code == 0
    first, second = json_lines(result.stdout)
    assert first["status"] == second["status"] == "ok"
    assert (first["truncated_tokens"], second["truncated_tokens"]) == (170_000 - 62, 0)
    assert f"{170_000 - 62} tokens cut off in 1 row" in result.stderr


def test_fail_fast(run):
    write("in.jsonl", [row("e", summary=""), *MIXED])
    result = run("score", "in.jsonl", "-o", "-", "--fail-fast")
    assert result.exit_code == 1
    lines = json_lines(result.stdout)
    assert [line["status"] for line in lines] == ["empty_summary", "ok", "error"]
    assert lines[-1]["message"].startswith("line 3: invalid JSON")
    assert result.stderr.startswith("3 rows: ")


def test_fail_fast_without_errors(run):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "-o", "-", "--fail-fast")
    assert result.exit_code == 0
    assert len(json_lines(result.stdout)) == 4


def test_lone_surrogates_come_through(run):
    write("in.jsonl", [row("\ud800"), GOOD[0] | {"id": "\x1b[2J\udcff"}])
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    found = json_lines(Path("out.jsonl").read_text("utf-8"))
    assert [line["id"] for line in found] == ["\ud800", "\x1b[2J\udcff"]


# Settings


def test_settings_reach_the_signature(run):
    write("in.jsonl", GOOD[:1])
    settings = (
        "--rule hamming --diversity-penalty 0.25 --length-penalty 2 --summary-logprob search "
        "--max-pairs all --no-pairs-score -7 --dtype bfloat16 --max-batch-tokens 99"
    )
    result = run("score", "in.jsonl", *settings.split())
    assert result.exit_code == 0
    signature = result.stderr.splitlines()[-1]
    assert "|rule:hamming|beams:6/6|diversity:0.25|length:2-12|lp:2.0|" in signature
    assert "|summary:search|pairs:all|nopairs:-7.0|model:queens@" in signature
    assert "|dtype:bfloat16|backend:eager|" in signature


@pytest.mark.parametrize("n", ["1", "12", "all"])
def test_max_pairs(run, n):
    write("in.jsonl", GOOD[:1])
    result = run("score", "in.jsonl", "--max-pairs", n)
    assert result.exit_code == 0
    assert f"|pairs:{n}|" in result.stderr


def test_no_pairs_score_is_the_score_and_in_the_mean(run):
    write("in.jsonl", GOOD[1:2])
    result = run("score", "in.jsonl", "-o", "-", "--no-pairs-score", "-2.5")
    (line,) = json_lines(result.stdout)
    assert (line["status"], line["score"]) == ("no_pairs", -2.5)
    assert result.stderr.startswith("1 row: 1 no_pairs; mean score -2.500")


def test_reference_backend_agrees(run, expected):
    pytest.importorskip("transformers", reason="the reference runs on transformers")
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "-o", "-", "--backend", "reference")
    assert result.exit_code == 0
    lines = json_lines(result.stdout)
    assert [line["status"] for line in lines] == STATUSES
    assert lines[0]["score"] == pytest.approx(expected[0].score, abs=1e-4)
    assert "|backend:reference|" in lines[0]["signature"]


WRONG_USAGE = [
    pytest.param(
        "--num-beams 6 --num-beam-groups 4",
        "`num_beam_groups` must divide `num_beams`, but got 4 groups for 6 beams; use one of 1, 2, "
        "3, 6",
        id="groups",
    ),
    pytest.param(
        "--rule martian", "`rule` must be 'fairseq09' or 'hamming', but got 'martian'", id="rule"
    ),
    pytest.param(
        "--max-pairs many",
        "`--max-pairs` must be a whole number or 'all', but got 'many'",
        id="max-pairs-word",
    ),
    pytest.param(
        "--max-pairs -1",
        "`--max-pairs` must be a whole number or 'all', but got '-1'",
        id="max-pairs-negative",
    ),
    pytest.param(
        "--max-pairs 2.5", "`--max-pairs` must be a whole number or 'all'", id="max-pairs-float"
    ),
    pytest.param("--max-pairs 0", "`max_pairs` must be at least 1, but got 0", id="max-pairs-zero"),
    pytest.param(
        "--summary-logprob both",
        "`summary_logprob` must be 'model' or 'search', but got 'both'",
        id="summary-logprob",
    ),
    pytest.param(
        "--no-pairs-score nan", "`no_pairs_score` must be a finite number, but got nan", id="nan"
    ),
    pytest.param(
        "--diversity-penalty -1",
        "`diversity_penalty` must be a finite number of at least 0, but got -1.0",
        id="diversity-penalty",
    ),
    pytest.param("--num-beams 0", "`num_beams` must be at least 1, but got 0", id="no-beams"),
    pytest.param(
        "--min-length 13",
        "`max_length` must be at least `min_length`, but got 12 with a `min_length` of 13",
        id="lengths",
    ),
    pytest.param(
        "--max-length 64",
        "`max_length` must be below the model's 64 positions, but got 64",
        id="positions",
    ),
    pytest.param(
        "--max-batch-tokens 0",
        "`max_batch_tokens` must be at least 1, but got 0",
        id="max-batch-tokens",
    ),
    pytest.param(
        "--model bart-maxi",
        "model 'bart-maxi' is neither bundled (qagen-mini) nor a local folder; nothing is "
        "downloaded: fetch the checkpoint first and give its folder",
        id="model",
    ),
    pytest.param(
        "--model .",
        "has no config.json, so it is no model folder; save a model there with transformers' "
        "save_pretrained()",
        id="no-config",
    ),
    pytest.param(
        "--device tpu",
        "`device` must be 'auto', 'cpu', 'cuda' or 'cuda:N', but got 'tpu'",
        id="device",
    ),
    pytest.param(
        "--dtype int4",
        "`dtype` must be one of auto, float32, bfloat16, float16, but got 'int4'",
        id="dtype",
    ),
    pytest.param(
        "--backend triton",
        "backend 'triton' is not part of this version of quals_fast; use backend='eager', or "
        "'auto' to take what there is",
        id="triton",
    ),
    pytest.param(
        "--backend onnx", "backend 'onnx' is not part of this version of quals_fast", id="onnx"
    ),
    pytest.param(
        "--backend fast",
        "`backend` must be 'auto', 'eager', 'triton' or 'onnx', but got 'fast'",
        id="backend",
    ),
    pytest.param(
        "--backend reference --dtype float16",
        "`--backend reference` runs one text at a time, in float32 on the CPU, but got --dtype "
        "float16; leave it out",
        id="reference-dtype",
    ),
    pytest.param(
        "--backend reference --max-batch-tokens 5",
        "but got --max-batch-tokens 5; leave it out",
        id="reference-batch",
    ),
    pytest.param(
        "--backend reference --device cuda", "but got --device cuda; leave it out", id="reference"
    ),
    pytest.param(
        "--encoding klingon",
        "`--encoding` must be one that Python knows, such as utf-8, utf-16, latin-1 or cp1252, but "
        "got 'klingon'",
        id="encoding",
    ),
    pytest.param("--format xml", "'xml' is not one of 'auto', 'jsonl', 'csv'", id="format"),
    pytest.param("--num-beams six", "'six' is not a valid integer", id="no-number"),
    pytest.param("--beams 6", "No such option '--beams'", id="unknown-option"),
]


@pytest.mark.parametrize("command", ["score", "explain", "evaluate"])
@pytest.mark.parametrize(("options", "message"), WRONG_USAGE)
def test_wrong_usage(model, tmp_path, monkeypatch, command, options, message):
    monkeypatch.chdir(tmp_path)
    write("in.jsonl", [one | {"label": 1} for one in GOOD])
    settings = ["--model", str(model), "--device", "cpu", *SMALL]
    result = CliRunner().invoke(app, [command, "in.jsonl", *settings, *options.split()])
    assert_usage_error(result, message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(run):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "--device", "cuda")
    assert result.exit_code == 0  # the last --device counts
    result = run("score", "in.jsonl", "--device", "cuda", small=False)
    message = "device 'cuda' was asked for, but torch sees no GPU; use device='cpu'"
    assert_usage_error(result, message)


@pytest.mark.parametrize(
    ("command", "name", "content", "message"),
    [
        ("score", "none.jsonl", None, "cannot read none.jsonl: No such file or directory"),
        ("explain", "none.csv", None, "cannot read none.csv: No such file or directory"),
        ("evaluate", "none.csv.gz", None, "cannot read none.csv.gz: No such file or directory"),
        ("score", ".", None, "cannot read .: Is a directory"),
        ("score", "in.jsonl", "{}".encode("utf-16"), "in.jsonl looks like UTF-16, not utf-8"),
        ("score", "in.csv", b"a,b\n", "in.csv has no column 'document', but 'a', 'b'; name the"),
        ("score", "in.csv", b"", "in.csv has no column 'document', but none; name the right ones"),
        ("explain", "in.jsonl.gz", b"{}", "in.jsonl.gz is not a whole gzip file: Not a gzipped"),
    ],
    ids=["score", "explain", "evaluate", "folder", "utf-16", "columns", "empty-csv", "gzip"],
)
def test_input_that_cannot_be_read(run, command, name, content, message):
    if content is not None:
        Path(name).write_bytes(content)
    # Without a model, too: the input is looked at first.
    assert_usage_error(run(command, name, "--model", "none", small=False), message)


def test_standard_input_that_breaks_off(run):
    stdin = (json.dumps(GOOD[0]) + "\n").encode("utf-16")[:-1]
    result = run("score", "-", "--encoding", "utf-16", stdin=stdin)
    assert_usage_error(result, "standard input is not utf-16: ")
    result = run("score", "-", "--format", "csv", stdin=b"a,b\n")
    assert_usage_error(result, "standard input has no column 'document'")


@pytest.mark.parametrize(
    ("command", "option"), [("score", "-o"), ("explain", "--html"), ("evaluate", "-o")]
)
def test_output_that_cannot_be_written_is_found_before_the_work(run, monkeypatch, command, option):
    write("in.jsonl", [one | {"label": 1} for one in GOOD])
    monkeypatch.setattr(QualsScorer, "score", None)
    result = run(command, "in.jsonl", option, "none/out")
    assert_usage_error(result, "cannot write none/out: No such file or directory")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
@pytest.mark.parametrize(("command", "option"), [("score", "-o"), ("explain", "--html")])
def test_full_disk(run, command, option):
    write("in.jsonl", GOOD)
    result = run(command, "in.jsonl", option, "/dev/full")
    assert_usage_error(result, "cannot write /dev/full: No space left on device")


@pytest.mark.parametrize(
    ("command", "option"), [("score", "-o"), ("explain", "--html"), ("evaluate", "-o")]
)
def test_output_must_not_be_the_input(run, command, option):
    write("in.jsonl", [one | {"label": 1} for one in GOOD])
    before = Path("in.jsonl").read_text()
    os.link("in.jsonl", "same.jsonl")
    for name in ("in.jsonl", "./in.jsonl", "same.jsonl"):
        result = run(command, "in.jsonl", option, name)
        message = f"the output must be another file than INPUT, but both are {name}; give a new"
        assert_usage_error(result, message)
        assert Path("in.jsonl").read_text() == before


def test_damaged_model(run, model, tmp_path):
    write("in.jsonl", GOOD)
    folder = shutil.copytree(model, tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    result = run("score", "in.jsonl", "--model", str(folder), small=False)
    assert_usage_error(result, f"{folder} has no weights: expected model.safetensors; save")


# explain


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
    assert "no generated question had its answer in the summary" in out
    assert "this row could not be scored: line 2: invalid JSON" in out
    assert result.stderr.startswith("8 rows: ")


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
    result = run("explain", "in.jsonl", "--html", "-", "--quiet")
    assert result.exit_code == 0
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
    message = f"has the id {missing}; a row without an id goes by its line number"
    result = run("explain", "in.jsonl", *options, "--html", "why.html")
    assert_usage_error(result, f"no row of in.jsonl {message}")
    assert not Path("why.html").exists()
    stdin = Path("in.jsonl").read_text()
    result = run("explain", "-", *options, stdin=stdin)
    assert result.exit_code == 2
    assert f"no row of standard input {message}" in result.stderr


def test_explain_top(run):
    write("in.jsonl", GOOD[:1])
    result = run("explain", "in.jsonl", "--top", "1", "--max-pairs", "all")
    assert result.exit_code == 0
    assert result.stdout.count(" -> ") == 1
    result = run("explain", "in.jsonl", "--top", "1", "--html", "why.html")
    assert_usage_error(result, "--top is for the terminal, but got --html; the page has all pairs")


# evaluate


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
    assert lines[0] == "n no score Pearson Spearman Kendall AUC".split()
    assert lines[1][:3] == ["QUALS", "5", "1"]
    assert lines[2][:4] == ["ROUGE-1", "precision", "6", "0"]
    assert result.stderr.splitlines()[1] == expected.signature


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


def test_evaluate_leaves_bad_rows_out(run):
    pytest.importorskip("scipy", reason="evaluate needs the extra")
    bad = ['{"document": 1', json.dumps(row("n", summary=None, label=1))]
    write("in.jsonl", [*LABELLED[:3], *bad, *LABELLED[3:]])
    result = run("evaluate", "in.jsonl", *FEW)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[:3] == ["QUALS", "5", "1"]
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
            1,
            "human",
            "line 1: no label 'human', but 'id', 'document', 'summary', 'label'; name it with "
            "--label",
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
    assert_usage_error(
        result, "agreement needs at least 3 rows with a score, but got 1 (1 more are"
    )


# Help, version, the program itself


@pytest.mark.parametrize("command", ["score", "explain", "evaluate"])
def test_help_mentions_every_option_and_its_default(command):
    result = CliRunner().invoke(app, [command, "--help"], prog_name="quals-fast")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for parameter in app.commands[command].params:
        if parameter.param_type_name == "argument":
            assert parameter.name == "input" and f"quals-fast {command} [OPTIONS] INPUT" in text
            continue
        assert re.search(rf"(?<!\S){re.escape(parameter.opts[-1])}(?!\S)", text), parameter.opts
        assert parameter.help, f"{parameter.opts} has no help"
    assert "[default: qagen-mini]" in text
    assert "[default: fairseq09]" in text


def test_help():
    for option in ("-h", "--help"):
        result = CliRunner().invoke(app, [option])
        assert result.exit_code == 0
        assert "  quals-fast score pairs.jsonl -o scores.jsonl  one line a row\n" in result.stdout
        assert all(name in result.stdout for name in ("score", "explain", "evaluate"))


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"quals-fast, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "Missing argument 'INPUT'"),
        (["scores", "in.jsonl"], "No such command 'scores'"),
        (["score", "a", "b"], "unexpected extra argument (b)"),
    ],
    ids=["no-input", "unknown-command", "two-inputs"],
)
def test_wrong_command_lines(arguments, message):
    assert_usage_error(CliRunner().invoke(app, arguments), message)


def program(*arguments, **options):
    code = "from quals_fast.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def test_help_of_the_program_does_not_import_torch():
    code = (
        "import sys, atexit; from quals_fast.cli import main\n"
        "heavy = {'torch', 'transformers', 'scipy', 'tokenizers'}\n"
        "atexit.register(lambda: print('imported', sorted(heavy & set(sys.modules))))\n"
        "sys.argv[1:] = ['score', '--help']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "Usage: quals-fast score" in done.stdout
    assert done.stdout.endswith("imported []\n")


def test_the_program_in_a_pipe(model, tmp_path):
    """With real streams, an ASCII terminal and a lone surrogate: bytes in, UTF-8 out."""
    stdin = "\n".join([*MIXED, json.dumps(row("é\ud800", summary=SUMMARIES["a"]))]).encode()
    settings = ["--model", str(model), *SMALL]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = program("score", "-", "-o", "-", *settings, input=stdin, env=environment, cwd=tmp_path)
    assert done.returncode == 1
    lines = json_lines(done.stdout.decode("utf-8"))
    assert [line["id"] for line in lines] == [*MIXED_IDS, "é\ud800"]
    assert [line["status"] for line in lines] == [*MIXED_STATUSES, "ok"]
    counts, signature = done.stderr.decode().splitlines()
    assert counts.startswith("9 rows: 4 ok, 3 error, 1 no_pairs, 1 empty_summary; errors at line 2")
    assert signature.startswith("quals|rule:fairseq09|")


def test_the_program_refuses_without_a_traceback(tmp_path):
    done = program("score", "none.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: cannot read none.jsonl: No such file or directory\n"
