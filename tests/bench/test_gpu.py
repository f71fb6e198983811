"""The stages that run on a GPU: limits, failures, archive; and all of them dry, on a CPU."""

import hashlib
import json
import math
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from inspect import signature
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as command
from bench.gpu import settings
from bench.gpu.runner import ARCHIVE, FAILED, LATE, NOT_RUN, OK, Runner, wait_s
from bench.gpu.stages import STAGES, Setup, Stage
from bench.shared import common
from bench.studies.claim.page import page
from quals_fast.engine.gpu import GpuEngine
from quals_fast.models.precision import resolve_precision

ROOT = Path(__file__).parents[2]
DRY = Setup(device="cpu", is_dry=True)


def python(code):
    """A command that runs a line of Python."""
    return shlex.join(["timeit", "-n", "1", "-r", "1", code])


def stage(*codes, limit_s=60.0, **more):
    return Stage(
        limit_s=limit_s, purpose="a test", commands=lambda s: [*map(python, codes)], **more
    )


WRITES = "import os, json; json.dump({'n': 3}, open(os.environ['BENCH_RESULTS'] + '/n.json', 'w'))"
FIGURE = {"result": "n", "headline": lambda result: f"n is {result['n']}"}
GOOD, BAD = stage("print('fine')"), stage("1 / 0", "print('the next command')")
SLOW = stage(f"{WRITES}; import time; time.sleep(600)", limit_s=4.0, **FIGURE)


@pytest.fixture
def no_growing(monkeypatch):
    monkeypatch.setattr("bench.gpu.runner.GROW", GOOD)


def names_in(archive):
    with tarfile.open(archive) as tar:
        return set(tar.getnames())


def test_a_stage_that_fails_or_is_late_keeps_no_other_from_running(tmp_path, no_growing, capsys):
    stages = {"slow": SLOW, "good": GOOD, "bad": BAD, "last": stage(WRITES, **FIGURE)}
    archive = tmp_path / "out" / ARCHIVE
    outcomes = Runner(tmp_path / "run", DRY, archive).run(stages)
    assert [one.name for one in outcomes] == ["grow", *stages]
    assert [one.how for one in outcomes] == [OK, LATE, OK, f"{FAILED}: timeit ended with 1", OK]
    assert outcomes[1].seconds < 60
    # What it had is kept, in the table and in the archive.
    assert [one.figure for one in outcomes[1:]] == ["n is 3", "", "", "n is 3"]
    assert names_in(archive) == {f"logs/{one.name}.log" for one in outcomes} | {"results/n.json"}
    log = (tmp_path / "run" / "logs" / "bad.log").read_text()
    assert "ZeroDivisionError" in log and "the next command" in log
    printed = capsys.readouterr().out
    assert "!! bad failed" in printed and "ZeroDivisionError" in printed


def test_the_archive_is_there_after_the_first_stage(tmp_path, no_growing):
    archive = tmp_path / ARCHIVE
    stages = {"first": GOOD, "second": stage(f"open({str(archive)!r})")}
    outcomes = Runner(tmp_path / "run", DRY, archive).run(stages)
    assert [one.how for one in outcomes] == [OK] * 3


def test_an_earlier_result_is_not_taken_for_a_new_one(tmp_path, no_growing):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "n.json").write_text('{"n": 2}')
    (*_, outcome) = Runner(tmp_path, DRY).run({"bad": stage("1 / 0", **FIGURE)})
    assert outcome.figure == ""


def test_a_result_without_its_figure_does_no_harm(tmp_path, no_growing):
    broken = stage(WRITES, result="n", headline=lambda result: result["speed"])
    outcomes = Runner(tmp_path, DRY).run({"broken": broken, "next": GOOD})
    assert [one.how for one in outcomes] == [OK] * 3
    assert outcomes[1].figure == "n.json has no figure: KeyError('speed')"


def test_what_a_stopped_stage_had_started_is_stopped_too(tmp_path, no_growing):
    # The process that it starts would write a file a second later.
    late = f"import time; time.sleep(6); open({str(tmp_path / 'late')!r}, 'w')"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {late!r}])"
    outcomes = Runner(tmp_path / "run", DRY).run({"slow": stage(starts, limit_s=3.0)})
    assert outcomes[1].how == LATE
    time.sleep(5)
    assert not (tmp_path / "late").exists()


def test_without_the_model_only_stages_that_need_it_are_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.gpu.runner.GROW", BAD)
    stages = {"needs": GOOD, "other": stage("print('fine')", needs_large=False)}
    outcomes = Runner(tmp_path, Setup(device="cpu")).run(stages)
    assert [one.how for one in outcomes] == [f"{FAILED}: timeit ended with 1", NOT_RUN, OK]


def test_limits_are_under_nine_minutes_together():
    setup = Setup(device="cuda")
    together = [(name, one) for name, one in STAGES.items() if not one.is_alone]
    alone = [(name, one) for name, one in STAGES.items() if one.is_alone]
    assert [name for name, _ in alone] == ["claim"]
    # The model is grown while the stages that do not need it run, so it adds nothing.
    assert wait_s(dict(together), setup) == 0
    # Without these stages it does, and still the limit holds.
    chosen = [dict(together[first:]) for first in range(len(together))] + [dict(alone)]
    for stages in chosen:
        assert wait_s(stages, setup) + sum(one.limit_s for one in stages.values()) < 540


def test_a_stage_that_waits_for_the_model_has_its_own_time_besides(tmp_path, monkeypatch, capsys):
    setup = Setup(device="cuda")
    monkeypatch.setattr("bench.gpu.runner.GROW", stage("pass", limit_s=50.0))
    needs, other = stage("pass", limit_s=30.0), stage("pass", limit_s=20.0, needs_large=False)
    assert wait_s({"needs": needs}, setup) == 50
    assert wait_s({"other": other, "needs": needs}, setup) == 30
    assert wait_s({"other": other}, setup) == wait_s({"needs": needs}, DRY) == 0
    (_, outcome) = Runner(tmp_path, setup).run({"needs": needs})
    assert outcome.how == OK
    assert 50 < int(re.search(r"== needs \(at most (\d+) s\)", capsys.readouterr().out)[1]) <= 80


def test_chosen_stages_run_and_the_table_says_how_they_ended(
    tmp_path, monkeypatch, no_growing, capsys
):
    monkeypatch.setattr(command, "STAGES", {"good": GOOD, "bad": BAD, "other": SLOW})
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    chosen = ["--dry-run", "--folder", str(tmp_path / "run"), "bad", "good"]
    assert command.main(chosen) == 1
    *_, bad, good, last = capsys.readouterr().out.splitlines()
    assert bad.startswith("| bad | failed: timeit ended with 1 |")
    assert good.startswith("| good | ok |")
    assert last.endswith(str(tmp_path / "out" / ARCHIVE))
    monkeypatch.delenv("OUT")
    assert command.main([*chosen[:3], "good"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(str(tmp_path / "run"))


def test_the_time_for_some_stages_can_be_set(tmp_path, monkeypatch, no_growing, capsys):
    monkeypatch.setattr(command, "STAGES", {"a": GOOD, "b": stage("pass", limit_s=30.0)})
    command.main(["--dry-run", "--folder", str(tmp_path), "--total", "45"])
    printed = capsys.readouterr().out
    assert "== a (at most 30 s)" in printed
    # What the first one leaves is the second one's too.
    assert 15 < int(re.search(r"== b \(at most (\d+) s\)", printed)[1]) <= 45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ops", "speed"], "STAGE must be one of tests, ops, pair, .*, but got 'speed'"),
        (["--total", "0"], "--total must be above 0 seconds, but got 0"),
        (["--data", "missing.jsonl"], "--data must be a file, but missing.jsonl does not exist"),
        (["--candidates", "no.json"], "--candidates must be a file, but no.json does not exist"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.parse(arguments)
    assert re.search(message, capsys.readouterr().err)


def test_without_a_gpu_nothing_is_run(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main(["tests"]) == 2
    assert "this machine has no GPU; use --dry-run" in capsys.readouterr().err


def test_help_lists_the_stages_with_their_limits(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.parse(["--help"])
    printed = capsys.readouterr().out
    for name, one in STAGES.items():
        assert f"  {name:<12}{one.limit_s:>4.0f} s  {one.purpose}" in printed


def test_only_files_with_gpu_tests_are_collected():
    (tests, _) = STAGES["tests"].commands(Setup(device="cuda"))
    files = [part for part in tests.split() if part.endswith(".py")]
    assert "tests/engine/test_fused.py" in files
    assert "tests/training/adapters/test_reward.py" not in files
    assert all((ROOT / one).is_file() for one in files)


def test_a_gpus_result_replaces_no_cpus(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "new" / "results")
    common.finish("speed", {"n": 1}, weights={})
    common.finish("speed", {"n": 2}, "cuda:0", weights={})
    found = {path.name: json.loads(path.read_text()) for path in common.RESULTS.iterdir()}
    assert {name: one["n"] for name, one in found.items()} == {"speed.json": 1, "speed_gpu.json": 2}
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found["speed_gpu.json"]


@pytest.mark.parametrize(
    ("told", "commit", "dirty"),
    [("1a2b3c4", "1a2b3c4", False), ("1a2b3c4-dirty", "1a2b3c4", True), (None, "unknown", None)],
)
def test_the_commit_without_git(monkeypatch, told, commit, dirty):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BENCH_COMMIT", raising=False)
    if told is not None:
        monkeypatch.setenv("BENCH_COMMIT", told)
    about = common.machine()
    assert (about["commit"], about["dirty"]) == (commit, dirty)


def test_the_commit_outside_of_a_work_tree(monkeypatch, tmp_path):
    monkeypatch.setattr(common, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("BENCH_COMMIT", raising=False)
    assert common.machine()["commit"] == "unknown"


@pytest.mark.parametrize("name", settings.CONSTANTS)
def test_every_patched_constant_exists_and_is_put_back(name):
    before = pkgutil.resolve_name(name)
    assert settings.Arm(name, before + 1).run(lambda: pkgutil.resolve_name(name)) == before + 1
    assert pkgutil.resolve_name(name) == before
    # One of the values is the default, which the others are compared with.
    assert before in settings.CONSTANTS[name]


def test_every_setting_is_an_argument_of_the_engine():
    assert settings.ARGUMENTS.keys() <= signature(GpuEngine).parameters.keys()


def test_turns_are_paired_and_differences_told():
    order = []

    def scoring(name, scores):
        def score():
            order.append(name)
            return scores

        return score

    found = settings.compare(
        scoring("default", [1.0, math.nan, 2.0]), scoring("arm", [1.5, 0.0, 2.0]), rounds=2
    )
    assert order == ["arm"] * settings.WARM_UPS + ["default", "arm"] * 2
    assert found["speedup_vs_default"]["n"] == 2
    assert (found["max_abs_difference"], found["rows_with_pairs_in_one_only"]) == (0.5, 1)


def test_the_claims_page_of_a_gpu():
    names = ["qags_as_shipped", "qags_batched", "qags_batched_half", "quals_published"]
    names += ["quals_once", "quals_fast_float32", "quals_fast", "quals_fast_eager"]
    one = {
        "seconds": {name: 8.0 - i for i, name in enumerate(names)},
        "scores": {name: [0.5] for name in names},
        "stages": {name: {"all_in_one": 1.0} for name in names},
        "questions": [12],
        "kept_pairs": [10],
        "document_tokens": [700],
        "summary_words": [50],
    }
    case = {
        "weights": "random",
        "networks": "QAGS has large networks",
        "facts": {name: {"dtype": "float16", "peak_mib": 1000.0} for name in names},
        "tflop": {},
        "rounds": [one, one],
    }
    machine = common.machine() | {"gpu": "some GPU"}
    result = {
        "cases": {"bart-large": {"long": case}},
        "data": "the examples",
        "device": "some GPU",
        "commits": ["abc"],
        "weights": {},
        "machine": machine,
    }
    text = page(result, "agreement", "claim_gpu")
    assert "| `quals_fast_eager` to `quals_fast` | its kernels and graphs | 0.50 |" in text


def digest_of_bench():
    folder = ROOT / "bench"
    files = [*(folder / "results").iterdir(), *folder.glob("CLAIM*"), *folder.glob("*.svg")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    "stages",
    [
        ("pair", "profile", "end_to_end"),
        pytest.param(tuple(STAGES), marks=pytest.mark.slow, id="all"),
    ],
    ids=" ".join,
)
def test_dry_run_of_the_stages(stages, tmp_path):
    """The script itself, on a CPU, without git."""
    before = digest_of_bench()
    only = tmp_path / "bin"
    only.mkdir()
    (only / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (only / "python3").chmod(0o755)
    (only / "dirname").symlink_to(shutil.which("dirname"))
    out, run = tmp_path / "out", tmp_path / "run"
    ended = subprocess.run(
        ["/bin/bash", str(ROOT / "bench" / "gpu.sh"), "--dry-run", "--folder", str(run), *stages],
        env={k: v for k, v in os.environ.items() if k not in ("BENCH_COMMIT", "BENCH_RESULTS")}
        | {"PATH": str(only), "OUT": str(out)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [line for line in ended.stdout.splitlines() if line.startswith("| ")][2:]
    assert [row.split(" | ")[:2] for row in rows] == [[f"| {n}", OK] for n in ["grow", *stages]]
    assert "BENCH_COMMIT" in ended.stderr  # since the results cannot tell the commit
    results = {Path(name).stem for name in names_in(out / ARCHIVE) if name.startswith("results/")}
    assert results == {STAGES[name].result.split(".")[0] for name in stages}
    # The tiny model asks: rows without pairs would leave half of the work out.
    (case,) = json.loads((run / "results" / "end_to_end.json").read_text())["cases"].values()
    assert case["workloads"]["short"]["kept_pairs"] > 0
    fast = resolve_precision("auto", torch.device("cpu")).name
    assert case["workloads"]["short"]["floor"].keys() == {"float32", fast}
    assert "share_of_floor" in json.loads((run / "results" / "latency.json").read_text())
    assert digest_of_bench() == before
