"""Bad rows, wrong usage, inputs that cannot be read and outputs that cannot be written."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from cli_helpers import (
    GOOD,
    MIXED,
    MIXED_IDS,
    MIXED_STATUSES,
    SMALL,
    assert_usage_error,
    json_lines,
    row,
    write,
)
from click.testing import CliRunner
from messages import says

from quals_fast import QualsScorer
from quals_fast.commands.app import app

# Bad rows


def test_bad_rows_get_a_status_and_the_others_are_scored(run, expected):
    write("in.jsonl", MIXED)
    result = run("score", "in.jsonl", "-o", "-")
    assert result.exit_code == 1
    lines = json_lines(result.stdout)
    assert [line["id"] for line in lines] == MIXED_IDS
    assert [line["status"] for line in lines] == MIXED_STATUSES
    good = [line["score"] for line in lines if line["status"] == "ok"]
    assert good == [one.score for one in expected if one.status == "ok"]
    messages = [line["message"] for line in lines if line["status"] == "error"]
    expected_messages = [
        'line 2: invalid JSON: … column 13 … {"document": "...", "summary": "..."}',
        "line 4: … 'document', but got 'id', 'summary' … --document-field … --summary-field",
        "line 7: `summary` must be a string, but got int",
    ]
    for message, parts in zip(messages, expected_messages, strict=True):
        assert re.match(says(parts), message), message


BAD_ROWS = [
    pytest.param('{"document": "d"', "line 7: invalid JSON: ", id="invalid-json"),
    pytest.param("", "line 7: the line is blank", id="blank"),
    pytest.param("\udce9", "line 7: expected utf-8, but got the byte 0xE9; ", id="latin-1"),
    pytest.param(
        row("n", summary="a\0b"), "line 7: `summary` must be text, but has a NUL", id="nul"
    ),
    pytest.param(
        row("\ud800", document="\udfff"),
        "line 7: `document` must be valid Unicode, but has the lone surrogate U+DFFF",
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
    assert message.split(":")[0] in result.stderr
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


# Wrong usage


WRONG_USAGE = [
    pytest.param(
        "--num-beams 6 --num-beam-groups 4",
        "`num_beam_groups` … `num_beams`, but got 4 … 6 … 1, 2, 3, 6",
        id="groups",
    ),
    pytest.param("--rule martian", "`rule` … 'fairseq09' … 'hamming' … 'martian'", id="rule"),
    pytest.param(
        "--max-pairs many",
        "`--max-pairs` … 'all', but got 'many'",
        id="max-pairs-word",
    ),
    pytest.param(
        "--max-pairs -1",
        "`--max-pairs` … 'all', but got '-1'",
        id="max-pairs-negative",
    ),
    pytest.param("--max-pairs 2.5", "`--max-pairs` … 'all', but got '2.5'", id="max-pairs-float"),
    pytest.param("--max-pairs 0", "`max_pairs` must be at least 1, but got 0", id="max-pairs-zero"),
    pytest.param(
        "--summary-logprob both",
        "`summary_logprob` … 'model' … 'search' … 'both'",
        id="summary-logprob",
    ),
    pytest.param(
        "--tokens question", "`tokens` must be 'all' or 'answer', but got 'question'", id="tokens"
    ),
    pytest.param(
        "--no-pairs-score nan", "`no_pairs_score` must be a finite number, but got nan", id="nan"
    ),
    pytest.param(
        "--diversity-penalty -1",
        "`diversity_penalty` … at least 0, but got -1.0",
        id="diversity-penalty",
    ),
    pytest.param("--num-beams 0", "`num_beams` must be at least 1, but got 0", id="no-beams"),
    pytest.param(
        "--min-length 13",
        "`max_length` … `min_length` … 12 … 13",
        id="lengths",
    ),
    pytest.param(
        "--max-length 64",
        "`max_length` … 64 positions, but got 64",
        id="positions",
    ),
    pytest.param(
        "--max-batch-tokens 0",
        "`max_batch_tokens` must be at least 1, but got 0",
        id="max-batch-tokens",
    ),
    pytest.param("--threads 0", "`threads` must be at least 1, but got 0", id="threads"),
    pytest.param(
        "--model bart-maxi",
        "'bart-maxi' … qagen-mini … local folder … Hugging Face hub; check the spelling",
        id="model",
    ),
    pytest.param(
        "--model .",
        "has no config.json … save_pretrained()",
        id="no-config",
    ),
    pytest.param(
        "--device tpu",
        "`device` … 'auto', 'cpu', 'cuda' or 'cuda:N', but got 'tpu'",
        id="device",
    ),
    pytest.param(
        "--dtype int4",
        "`dtype` … auto, float32, mixed, bfloat16, float16, but got 'int4'",
        id="dtype",
    ),
    pytest.param("--backend onnx", "has no quals_fast_onnx.json", id="onnx"),
    pytest.param(
        "--backend reference",
        "`backend` … 'auto', 'eager', 'triton' or 'onnx', but got 'reference'",
        id="backend",
    ),
    pytest.param(
        "--encoding klingon",
        "`--encoding` … utf-8 … but got 'klingon'",
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


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        pytest.param(
            "score",
            "--pairs",
            "--pairs … JSON lines, but got no -o … -o scores.jsonl",
            id="pairs-of-a-table",
        ),
        pytest.param(
            "score",
            "--pairs -o out.CSV",
            "--pairs … JSON lines, but got -o out.CSV … -o scores.jsonl",
            id="pairs-in-csv",
        ),
        pytest.param(
            "score",
            "--spans",
            "--spans … JSON lines, but got no -o … -o scores.jsonl",
            id="spans-of-a-table",
        ),
        pytest.param(
            "score",
            "--spans -o out.jsonl --metric qags",
            "--spans is for QUALS, but got --metric qags … leave --spans out",
            id="spans-of-qags",
        ),
        pytest.param(
            "score",
            "--rows 100 -o -",
            "--rows … table, but got -o - … leave one of them out",
            id="rows-without-a-table",
        ),
        pytest.param(
            "evaluate",
            "-o out.csv",
            "-o … JSON object, but got … out.csv … .json",
            id="evaluate-csv",
        ),
    ],
)
def test_options_that_do_not_go_together(run, command, options, message):
    assert_usage_error(run(command, "none.jsonl", *options.split()), message)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "command", "message"),
    [
        ("jinja2", "explain in.jsonl --html why.html", "--html needs Jinja: pip install jinja2"),
        ("rouge_score", "evaluate in.jsonl", "evaluate needs … [evaluate]"),
        ("torch", "score in.jsonl --metric qags", "--metric qags needs PyTorch … [qags]"),
        ("torch", "export qagen-mini out", "exporting needs PyTorch … [onnx]"),
        ("accelerate", "conseq in.jsonl --summariser m -o out", "conseq needs … [train]"),
    ],
)
def test_what_is_not_installed_is_named_before_the_work(
    tmp_path, monkeypatch, missing, command, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(QualsScorer, "from_pretrained", None)
    write("in.jsonl", GOOD)
    assert_usage_error(CliRunner().invoke(app, command.split()), message)
    assert [path.name for path in Path().iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError, TypeError])
@pytest.mark.parametrize(
    ("command", "option"), [("score", "-o"), ("explain", "--html"), ("evaluate", "-o")]
)
def test_an_error_while_scoring_is_not_wrong_usage(run, monkeypatch, command, option, error):
    def fail(*_, **__):
        raise error("a bug")

    monkeypatch.setattr(QualsScorer, "score", fail)
    write("in.jsonl", [one | {"label": 1} for one in GOOD])
    result = run(command, "in.jsonl", option, "out")
    assert type(result.exception) is error
    assert "Error:" not in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(run):
    write("in.jsonl", GOOD)
    result = run("score", "in.jsonl", "--device", "cuda")
    assert result.exit_code == 0  # the last --device counts
    result = run("score", "in.jsonl", "--device", "cuda", small=False)
    message = "'cuda' … 0 GPUs … device='cpu'"
    assert_usage_error(result, message)


# Inputs, outputs and models


@pytest.mark.parametrize(
    ("command", "name", "content", "message"),
    [
        ("score", "none.jsonl", None, "cannot read none.jsonl: No such file or directory"),
        ("explain", "none.csv", None, "cannot read none.csv: No such file or directory"),
        ("evaluate", "none.csv.gz", None, "cannot read none.csv.gz: No such file or directory"),
        ("score", ".", None, "cannot read .: Is a directory"),
        ("score", "in.jsonl", "{}".encode("utf-16"), "in.jsonl looks like UTF-16, not utf-8"),
        (
            "score",
            "in.csv",
            b"a,b\n",
            "in.csv must have a column 'document', but has 'a', 'b'",
        ),
        ("score", "in.csv", b"", "in.csv must have a column 'document', but has none; name"),
        ("explain", "in.jsonl.gz", b"{}", "in.jsonl.gz is not a complete gzip file: Not a gzipped"),
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
    assert_usage_error(result, "standard input must have a column 'document'")


@pytest.mark.parametrize(
    ("command", "option"), [("score", "-o"), ("explain", "--html"), ("evaluate", "-o")]
)
def test_output_that_cannot_be_written_is_found_before_the_work(run, monkeypatch, command, option):
    write("in.jsonl", [one | {"label": 1} for one in GOOD])
    monkeypatch.setattr(QualsScorer, "score", None)
    result = run(command, "in.jsonl", option, "none/out")
    assert_usage_error(result, "cannot write none/out: there is no folder none")


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
        message = f"INPUT, but both are {name}"
        assert_usage_error(result, message)
        assert Path("in.jsonl").read_text() == before


def test_damaged_model(run, model, tmp_path):
    write("in.jsonl", GOOD)
    folder = shutil.copytree(model, tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    result = run("score", "in.jsonl", "--model", str(folder), small=False)
    assert_usage_error(result, f"{folder} has no weights: expected model.safetensors … ; save")
