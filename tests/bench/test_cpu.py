"""The stages that run on a CPU: resuming, failures, commits, and that their commands are valid."""

import argparse
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.cpu import __main__ as command
from bench.cpu import runner
from bench.cpu.runner import DONE, FAILED, LATE, NOT_RUN, OK, NoCommitError, Runner, commit_of_run
from bench.cpu.stages import STAGES, Inputs, Stage
from bench.shared import common
from bench.shared.common import ROOT
from bench.shared.options import MODELS

COMMIT, SLEEP = "1a2b3c4", "import time; time.sleep(600)"


def python(*lines):
    """A command that runs lines of Python; they may hold braces."""
    return shlex.join(["timeit", "-n1", "-r1", *lines]).replace("{", "{{").replace("}", "}}")


def writes(name, commit=None, then="pass", dirty=False):
    """A command that writes a result as a benchmark does."""
    told = "os.environ['BENCH_COMMIT']" if commit is None else repr(commit)
    machine = f"{{'commit': {told}, 'dirty': {dirty}}}"
    path = f"os.environ['BENCH_RESULTS'] + '/{name}.json'"
    content = f"{{'machine': {machine}, 'pid': os.getpid()}}"
    return python(f"import json, os; json.dump({content}, open({path}, 'w')); {then}")


def stage(*commands, results=(), minutes=1.0, **more):
    return Stage(minutes=minutes, purpose="a test", commands=commands, results=results, **more)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """A folder of results, and a commit, of the test's own."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(common, "RESULTS", folder)
    monkeypatch.setenv("BENCH_RESULTS", str(folder))
    monkeypatch.setenv("BENCH_COMMIT", COMMIT)
    monkeypatch.setattr(common, "changed_since", lambda commit: [])
    monkeypatch.setattr(runner, "_LOOK_S", 0.0)
    return folder


@pytest.fixture
def start(tmp_path):
    """Make a runner anew, as another call would."""
    return lambda: Runner(tmp_path / "run", Inputs(shared=tmp_path))


def ended(outcomes):
    return [one.how for one in outcomes]


def test_what_is_done_is_not_run_again(start, results):
    stages = {"a": stage(writes("a"), results=("a",)), "b": stage(python("1 / 0"))}
    assert ended(start().run(stages)) == [OK, f"{FAILED}: timeit ended with 1"]
    first = (results / "a.json").read_text()
    outcomes = start().run(stages)
    assert ended(outcomes) == [DONE, f"{FAILED}: timeit ended with 1"]
    assert [one.is_good for one in outcomes] == [True, False]
    assert (results / "a.json").read_text() == first
    assert start().seconds("a") > 0 and start().seconds("b") is None
    assert ended(start().run({"a": stages["a"]}, again=True)) == [OK]
    assert (results / "a.json").read_text() != first


@pytest.mark.parametrize("what", ["commit", "model", "commands", "result", "results_commit"])
def test_what_is_of_something_else_is_run_again(start, results, monkeypatch, what):
    one = stage(writes("a"), results=("a",))
    start().run({"a": one})
    if what == "commit":
        monkeypatch.setenv("BENCH_COMMIT", "5d6e7f8")
        monkeypatch.setattr(common, "changed_since", lambda c: ["x.py"] * (c == COMMIT))
    elif what == "model":
        monkeypatch.setattr(runner, "bundled", lambda name: f"{name}@another")
    elif what == "commands":
        one = stage(writes("a", then="0"), results=("a",))
    elif what == "result":
        (results / "a.json").unlink()
    else:
        (results / "a.json").write_text('{"machine": {"commit": "5d6e7f8", "dirty": false}}')
    assert not start().is_done("a", one)
    assert ended(start().run({"a": one})) == [OK]
    assert start().is_done("a", one)


def test_a_stage_that_ends_badly_leaves_the_former_results(start, results, tmp_path, capsys):
    former = '{"machine": {"commit": "old"}}'
    (results / "a.json").write_text(former)
    stages = {
        "late": stage(writes("a", then=SLEEP), results=("a",), minutes=0.05),
        "new": stage(writes("b"), python("1 / 0"), results=("b",)),
        "other": stage(writes("c", "5d6e7f8"), results=("c",)),
        "dirty": stage(writes("d", dirty=True), results=("d",)),
        "none": stage(python("pass"), results=("e",)),
        "last": stage(writes("a"), results=("a",)),
    }
    outcomes = start().run(dict([*stages.items()][:-1]))
    assert ended(outcomes) == [
        LATE,
        f"{FAILED}: timeit ended with 1",
        f"{FAILED}: c.json is of commit 5d6e7f8",
        f"{FAILED}: d.json was measured with uncommitted changes",
        f"{FAILED}: e.json is missing",
    ]
    assert {path.name: path.read_text() for path in results.iterdir()} == {"a.json": former}
    unfinished = {path.name for path in (tmp_path / "run" / "unfinished").iterdir()}
    assert unfinished == {"a.json", "b.json", "c.json", "d.json"}
    printed = capsys.readouterr().out
    assert "!! new failed: timeit ended with 1; the end of" in printed
    assert "ZeroDivisionError" in printed
    assert ended(start().run(stages))[-1] == OK


def test_what_a_stopped_command_goes_on_from_stays(start, results):
    one = stage(writes("a"), python("1 / 0"), results=("a",), goes_on=True)
    assert ended(start().run({"a": one})) == [f"{FAILED}: timeit ended with 1"]
    assert (results / "a.json").is_file() and not start().is_done("a", one)


KILLED_RUN = """
import signal, sys
from pathlib import Path
from bench.cpu.runner import Runner
from bench.cpu.stages import Inputs, Stage
from bench.shared import common

common.changed_since = lambda commit: []
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
folder = Path(sys.argv[1])
stages = {
    name: Stage(minutes=5, purpose="a test", commands=(command,), results=(name,))
    for name, command in zip("ab", sys.argv[2:])
}
Runner(folder / "run", Inputs(shared=folder)).run(stages)
"""


def test_a_run_that_is_killed_does_its_stage_again(tmp_path, results, start):
    """The runner gets a signal within the second stage, and stops what it had started."""
    script = tmp_path / "run.py"
    script.write_text(KILLED_RUN)
    commands = [writes("a"), writes("b", then=SLEEP)]
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), *commands],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
    )
    deadline = time.monotonic() + 300
    while not (results / "b.json").is_file() or not (results / "b.json").read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    pid = json.loads((results / "b.json").read_text())["pid"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not (results / "b.json").exists()  # there was none before
    ok = {name: stage(writes(name), results=(name,)) for name in "ab"}
    assert start().is_done("a", ok["a"]) and not start().is_done("b", ok["b"])
    assert ended(start().run(ok)) == [DONE, OK]


def test_commands_at_once_overlap_with_one_thread_each(start, tmp_path):
    """Each waits for the other one's file."""

    def waiting(mine, other):
        return python(
            "import os, time; from pathlib import Path",
            "assert os.environ['OMP_NUM_THREADS'] == '1'",
            "from bench.shared import load; load.begin()",
            f"assert load._watch._own == {os.getpid()}",
            f"Path({str(tmp_path / mine)!r}).touch()",
            f"while not Path({str(tmp_path / other)!r}).exists(): time.sleep(0.05)",
        )

    commands = [waiting("x", "y"), waiting("y", "x")]
    assert ended(start().run({"both": stage(*commands, is_at_once=True)})) == [OK]


def test_a_stage_that_would_not_end_in_time_is_not_begun(start):
    stages = {
        "long": stage(writes("a"), results=("a",), minutes=30),
        "short": stage(writes("b"), results=("b",)),
    }
    outcomes = start().run(stages, 10)
    assert ended(outcomes) == [f"{NOT_RUN}: it would not end in time", OK]
    assert [one.is_good for one in outcomes] == [False, True]
    assert not outcomes[0].has_failed  # so it has no log


def test_a_stage_without_its_inputs_is_not_run(tmp_path):
    inputs = Inputs(shared=tmp_path)
    reads = stage("bench.golden {shared}/golden --data {texts} --to runs/x")
    assert inputs.missing(reads) == [
        str(tmp_path / "golden"),
        str(tmp_path / "data" / "docsum_pairs.jsonl.gz"),
    ]
    (tmp_path / "golden").mkdir()
    (tmp_path / "my texts").touch()
    given = Inputs(shared=tmp_path, data=tmp_path / "my texts")
    assert given.missing(reads) == []
    outcomes = Runner(tmp_path / "run", inputs).run({"reads": reads})
    assert re.fullmatch(rf"{NOT_RUN}: it needs .*docsum_pairs\.jsonl\.gz", outcomes[0].how)
    assert "--choices" in inputs.missing(STAGES["choices"])


def test_code_that_changes_ends_the_measuring(start, monkeypatch):
    run = start()
    monkeypatch.setattr(common, "changed_since", lambda commit: ["bench/onnx.py"])
    outcomes = run.run({"a": stage(writes("a"), results=("a",))})
    assert ended(outcomes) == [f"{NOT_RUN}: bench/onnx.py has changed since {COMMIT}"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with code, a result and a page; returns how to change and commit."""
    monkeypatch.undo()
    monkeypatch.delenv("BENCH_COMMIT", raising=False)
    folder = tmp_path / "repository"
    (folder / "bench" / "results").mkdir(parents=True)
    monkeypatch.setattr(common, "ROOT", folder)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@test")

    def git(*arguments):
        subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)

    def change(*names, commit=True):
        for name in names:
            path = folder / name
            path.write_text((path.read_text() if path.is_file() else "") + "x")
        if commit:
            git("add", ".")
            git("commit", "-m", "a change")
        return common.head()

    git("init", "-q")
    return change


def test_results_and_pages_are_no_other_commit(repository):
    first = repository("code.py", "bench/results/a.json", "README.md", "bench/claim.svg")
    assert commit_of_run(None) == first
    second = repository("bench/results/a.json", "README.md", "bench/claim.svg")
    assert second != first
    assert commit_of_run(first) == first
    repository("bench/results/a.json", "README.md", commit=False)
    assert commit_of_run(first) == first
    assert common.machine()["dirty"] is False
    third = repository("code.py")
    assert commit_of_run(first) == third
    assert commit_of_run("0123456") == third  # no such commit


def test_uncommitted_code_and_no_commit_are_refused(repository, monkeypatch):
    repository("code.py")
    repository("code.py", commit=False)
    with pytest.raises(NoCommitError, match=r"uncommitted changes \(code\.py\): commit them first"):
        commit_of_run(None)
    assert common.machine()["dirty"] is True
    monkeypatch.setenv("BENCH_COMMIT", "1a2b3c4-dirty")
    with pytest.raises(NoCommitError, match=r"uncommitted changes \(1a2b3c4-dirty\)"):
        commit_of_run(None)
    monkeypatch.delenv("BENCH_COMMIT")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCommitError, match="the commit is unknown: set BENCH_COMMIT"):
        commit_of_run(None)


def test_chosen_stages_run_and_the_table_says_how_they_ended(tmp_path, monkeypatch, capsys):
    stages = {
        "good": stage(writes("a"), results=("a",)),
        "bad": stage(python("1 / 0")),
        "more": stage(python("pass"), is_extra=True),
    }
    monkeypatch.setattr(command, "STAGES", stages)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    folder = ["--folder", str(tmp_path / "run")]
    assert command.main(folder) == 1
    *_, good, bad, last = capsys.readouterr().out.splitlines()
    assert good.startswith("| good | ok |")
    assert bad.startswith(f"| bad | {FAILED}: timeit ended with 1 |") and "bad.log" in bad
    assert last.endswith(" minutes")
    assert command.main([*folder, "more", "good"]) == 0
    assert [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[-3:-1]] == [
        ["| good", OK],
        ["| more", OK],
    ]
    assert command.main([*folder, "--plan"]) == 0
    plan = capsys.readouterr().out
    assert "| more (extra) | 1 |" in plan and plan.endswith("2 minutes without the extra stages.\n")
    with (tmp_path / "run" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command.main([*folder, "good"]) == 2
    assert "another run uses" in capsys.readouterr().err


def test_uncommitted_changes_end_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "changed_since", lambda commit: ["bench/onnx.py"])
    assert command.main(["--folder", str(tmp_path / "run")]) == 2
    assert "uncommitted changes (bench/onnx.py)" in capsys.readouterr().err
    assert command.main(["--folder", str(tmp_path / "run"), "--plan"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "STAGE must be one of parity, precision, .*, but got 'speed'"),
        (["--total", "0"], "--total must be above 0 minutes, but got 0"),
        (["--data", "missing.jsonl"], "--data must be a file, but missing.jsonl does not exist"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.parse(arguments)
    assert re.search(message, capsys.readouterr().err)


def test_stages_take_under_two_hours_together():
    assert sum(one.minutes for one in STAGES.values() if not one.is_extra) < command.TOTAL_MIN


class ParsedError(Exception):
    """The command's options were read."""


@pytest.mark.parametrize("name", STAGES)
def test_every_command_has_these_options(name, monkeypatch, tmp_path):
    """A wrong option that shows after an hour is dear."""
    parse_known_args = argparse.ArgumentParser.parse_known_args
    depth = []

    def outermost(self, *arguments, **named):
        depth.append(self)
        try:
            found, unknown = parse_known_args(self, *arguments, **named)
        finally:
            depth.pop()
        if depth:  # of a subcommand
            return found, unknown
        raise ParsedError(found, unknown)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", outermost)
    inputs = Inputs(shared=tmp_path, choices=("base=a", "other=b"))
    for line in inputs.commands(STAGES[name]):
        module, *options = shlex.split(line)
        package = f"{module}.__main__"
        is_package = find_spec(module).submodule_search_locations is not None
        monkeypatch.setattr(sys, "argv", [module, *options])
        with pytest.raises(ParsedError) as parsed:
            import_module(package if is_package else module).main()
        found, unknown = parsed.value.args
        assert not unknown
        assert getattr(found, "models", None) is None or set(found.models) <= {
            *MODELS, "t5-base", *inputs.choices,
        }  # fmt: skip


def test_the_script_runs_from_anywhere(tmp_path):
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "bench" / "cpu.sh"), "--help"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: bench/cpu.sh" in done.stdout
