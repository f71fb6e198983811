"""Two jobs at once: what a job counts, its environment, the command as a job, the page."""

import json
import os
import shutil
import sys
from threading import Barrier
from typing import ClassVar

import pytest

from bench import two_jobs
from bench.report.results import Reader
from bench.report.two_jobs import two_jobs as section
from bench.shared import common
from bench.shared.common import Pair
from bench.two_jobs import CALL, COMMAND, ONNX, Turn, environment, figures, run_command

PAIRS = [Pair(str(i), "queen anne won the game", "anne won", None) for i in range(2 * CALL)]


class Timer:
    """An arm that takes a second a pair, and the clock that shows it."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def perf_counter(self):
        return self.now

    def score(self, documents, summaries):
        self.calls.append(len(documents))
        self.now += len(documents)


class InProcess:
    """Takes the place of a worker; its arm scores nothing, but knows its environment."""

    made: ClassVar = []

    def __init__(self, make, folder, dtype, backend, *, threads):
        variables = {name: os.environ[name] for name in two_jobs.VARIABLES if name in os.environ}
        self.made.append((folder, backend, threads, variables))

    def score(self, pairs, kept):
        assert len(pairs) == CALL

    def ask(self, function, pairs, seconds):
        return 4.0

    def kill(self):
        pass


def test_a_job_counts_what_it_scored_until_the_time_is_up(monkeypatch):
    arm = Timer()
    monkeypatch.setattr(two_jobs, "time", arm)
    rate = two_jobs.pairs_per_second(arm, PAIRS[: CALL + 1], 3 * CALL)
    assert rate == pytest.approx(1.0)
    assert arm.calls == [CALL, 1, CALL, 1, CALL]  # the pairs over and over


def test_a_job_has_the_variables_of_its_program_only(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with environment({"GOMP_SPINCOUNT": "5"}):
        assert os.environ["GOMP_SPINCOUNT"] == "5" and "PATH" in os.environ
        assert not {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"} & os.environ.keys()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("active", "7")


def test_two_jobs_run_at_the_same_time():
    both = Barrier(2, timeout=10)
    calls = []

    def job():
        calls.append(None)
        if len(calls) > 1:
            both.wait()
        return 2.0

    assert two_jobs.turn([job, job]) == Turn(2.0, (2.0, 2.0))
    assert len(calls) == 3


def test_ratios_are_formed_within_a_round():
    found = figures([Turn(4.0, (1.0, 2.0)), Turn(2.0, (1.0, 1.0))])
    assert found["each"] == {"median": 1.0, "low": 1.0, "high": 2.0, "n": 2}
    assert found["slower_over_alone"]["low"] == 0.25
    assert found["both_over_alone"] == {"median": 0.875, "low": 0.75, "high": 1.0, "n": 2}


def test_the_command_is_a_job(tiny_folder):
    assert run_command(PAIRS[:3], tiny_folder, 1) > 0


def test_a_command_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match=r"scored 0 of 2 rows and ended with 1"):
        run_command(PAIRS[:2], tmp_path, 1)


def test_every_program_takes_part_and_stands_on_the_page(tmp_path, tiny_folder, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert section(Reader()).startswith("Not measured yet: `python -m bench.two_jobs`")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setattr(two_jobs, "Worker", InProcess)
    monkeypatch.setattr(two_jobs, "exported", lambda folder, dtype: tiny_folder / dtype)
    monkeypatch.setattr(two_jobs, "run_command", lambda pairs, model, threads: 3.0)
    options = ["two_jobs", "--rounds", "2", "--threads", "2", "1", "--rows", "4"]
    monkeypatch.setattr(sys, "argv", options)
    two_jobs.main()
    result = json.loads((tmp_path / "two_jobs.json").read_text())
    assert [*result["pairs_per_s"]] == [*two_jobs.PYTORCH, ONNX, COMMAND]
    assert result["pairs_per_s"][ONNX]["1"]["both"]["median"] == 8.0
    assert [variables for *_, variables in InProcess.made[:8:2]] == [
        *two_jobs.PYTORCH.values(), {},
    ]  # fmt: skip
    assert {threads for _, _, threads, _ in InProcess.made} == {1, 2}
    row = "| quals-fast score | 1 | 3.00 (3.00 to 3.00, n = 2) |"
    assert row in section(Reader())
