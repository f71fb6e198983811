"""Help, version and wrong command lines, and the program itself with real streams."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress

import pytest
from cli_helpers import (
    GOOD,
    MIXED,
    MIXED_IDS,
    MIXED_STATUSES,
    SMALL,
    STATUSES,
    SUMMARIES,
    assert_usage_error,
    json_lines,
    row,
    write,
)
from click.testing import CliRunner

from quals_fast import __version__
from quals_fast.commands.app import app
from quals_fast.processes import SPINS


@pytest.mark.parametrize("command", ["score", "explain", "evaluate", "compare", "serve", "conseq"])
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


@pytest.mark.parametrize("command", ["score", "evaluate", "compare"])
def test_help_lists_options_in_groups(command):
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    groups = ["Input", "Output", "Model", "Search", "QAGS", "Classifier", "Other"]
    if command == "score":
        groups.insert(-1, "Cluster")
    assert re.findall(r"^(\w+):$", text, re.MULTILINE) == groups
    parts = dict(zip(groups, re.split(r"^\w+:$", text, flags=re.MULTILINE)[1:], strict=True))
    for group, option in [
        ("Input", "--encoding"), ("Output", "--quiet"), ("Model", "--metric"),
        ("Search", "--num-beams"), ("QAGS", "--qags-models"), ("Other", "--help"),
    ]:  # fmt: skip
        assert re.search(rf"^ +(-\w, )?{option}", parts[group], re.MULTILINE)


def test_help():
    for option in ("-h", "--help"):
        result = CliRunner().invoke(app, [option])
        assert result.exit_code == 0
        # Each example has a line of its own.
        assert re.search(r"^ +quals-fast score pairs.jsonl -o scores", result.stdout, re.MULTILINE)
        assert all(name in result.stdout for name in ("score", "explain", "evaluate"))


def test_version():
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"quals-fast, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score"], "Missing argument 'INPUT...'"),
        (["scores", "in.jsonl"], "No such command 'scores'"),
        (["explain", "a", "b"], "unexpected extra argument (b)"),
    ],
    ids=["no-input", "unknown-command", "two-inputs"],
)
def test_wrong_command_lines(arguments, message):
    assert_usage_error(CliRunner().invoke(app, arguments), message)


# The program itself


def program(*arguments, **options):
    command = [sys.executable, "-m", "quals_fast", *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def test_help_of_the_program_does_not_import_torch():
    code = (
        "import sys, atexit; from quals_fast.commands.app import main\n"
        "heavy = {'torch', 'transformers', 'scipy', 'tokenizers'}\n"
        "atexit.register(lambda: print('imported', sorted(heavy & set(sys.modules))))\n"
        "import os; atexit.register(lambda: print('spins', os.environ['GOMP_SPINCOUNT']))\n"
        "sys.argv[1:] = ['score', '--help']; main()"
    )
    names = os.environ.keys() - {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={name: os.environ[name] for name in names},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert "Usage: quals-fast score" in done.stdout
    assert done.stdout.endswith(f"spins {SPINS}\nimported []\n")  # set before torch reads it


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
    (counts,) = done.stderr.decode().splitlines()
    assert counts.startswith("9 rows: 4 ok, 3 error, 1 no_pairs, 1 empty_summary; errors at line 2")


def test_results_go_to_standard_output_beside_a_progress_bar(model, tmp_path):
    """With a terminal as standard error, which shows the bar."""
    write(tmp_path / "in.jsonl", GOOD)
    arguments = ["score", "in.jsonl", "-o", "-", "--model", str(model), *SMALL]
    terminal, stderr = os.openpty()
    environment = os.environ | {"TERM": "xterm", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "out.jsonl").open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "quals_fast", *arguments],
            stdout=stdout,
            stderr=stderr,
            env=environment,
            cwd=tmp_path,
        )
        os.close(stderr)
        shown = b""
        with suppress(OSError):  # so Linux says that the other end is closed
            while some := os.read(terminal, 4096):
                shown += some
        os.close(terminal)
        assert process.wait(60) == 0
    lines = json_lines((tmp_path / "out.jsonl").read_text("utf-8"))
    assert [line["status"] for line in lines] == STATUSES
    assert b"scoring" in shown
    assert b'"status"' not in shown


def test_the_program_refuses_without_a_traceback(tmp_path):
    done = program("score", "none.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: cannot read none.jsonl: No such file or directory\n"


# Standard streams that are closed or full

NO_SPACE = b"Error: cannot write standard output: No space left on device\n"
CLOSED = b"Error: cannot write standard output: it is closed\n"


def shell(command, model, cwd):
    """Run a line of shell in which `quals-fast` is the program."""
    python = f"{shlex.quote(sys.executable)} -m quals_fast"
    settings = shlex.join(["--model", str(model), *SMALL])
    line = command.replace("quals-fast", python).replace("SMALL", settings)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, timeout=120, cwd=cwd, env=environment
    )


WITH_OUTPUT = [
    "--help",
    "score --help",
    "--version",
    "score in.jsonl SMALL --quiet",
    "score in.jsonl SMALL --quiet -o -",
    "explain in.jsonl SMALL --quiet",
    "explain in.jsonl SMALL --quiet --html -",
]
STREAMS = [("> /dev/full", NO_SPACE), (">&-", CLOSED)]
QUICK = {("--help", ">&-"), ("score --help", "> /dev/full"), (WITH_OUTPUT[3], "> /dev/full")}


@pytest.mark.parametrize(
    ("arguments", "stream", "message"),
    [
        pytest.param(a, s, m, marks=[] if (a, s) in QUICK else pytest.mark.slow, id=f"{a} {s}")
        for a in WITH_OUTPUT
        for s, m in STREAMS
    ],
)
def test_standard_output_that_takes_nothing(model, tmp_path, arguments, stream, message):
    write(tmp_path / "in.jsonl", GOOD[:1])
    done = shell(f"quals-fast {arguments} {stream}", model, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", message)


@pytest.mark.slow
def test_with_an_output_file_standard_output_may_be_closed(model, tmp_path):
    write(tmp_path / "in.jsonl", GOOD[:1])
    done = shell("quals-fast score in.jsonl SMALL -o out.jsonl >&-", model, tmp_path)
    assert done.returncode == 0
    assert len(json_lines((tmp_path / "out.jsonl").read_text("utf-8"))) == 1


@pytest.mark.parametrize("stream", ["2>&-", "2> /dev/full"])
def test_standard_error_that_takes_nothing_loses_no_result(model, tmp_path, stream):
    write(tmp_path / "in.jsonl", GOOD[:1])
    done = shell(f"quals-fast score in.jsonl SMALL -o - {stream}", model, tmp_path)
    assert done.returncode == 0
    assert len(json_lines(done.stdout.decode())) == 1
    assert shell(f"quals-fast score none.jsonl {stream}", model, tmp_path).returncode == 2


def test_closed_standard_input(model, tmp_path):
    done = shell("quals-fast score - SMALL <&-", model, tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"Error: cannot read standard input: it is closed\n"


@pytest.mark.slow
def test_a_reader_that_has_enough(model, tmp_path):
    write(tmp_path / "in.jsonl", GOOD)
    done = shell("quals-fast score in.jsonl SMALL -o - --quiet | true", model, tmp_path)
    assert done.stderr == b""


def test_rows_from_a_pipe_come_out_one_by_one(model, tmp_path):
    arguments = ["score", "-", "-o", "-", "--model", str(model), *SMALL]
    command = [sys.executable, "-m", "quals_fast", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as process:
        for one in GOOD[:2]:  # the second is written when the first is scored
            process.stdin.write(json.dumps(one).encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == one["id"]
        process.stdin.close()
        assert process.wait(60) == 0
