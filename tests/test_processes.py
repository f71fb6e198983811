"""Cores that a process may use, threads by default, and scoring in forked processes."""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from quals_fast import processes
from quals_fast.processes import (
    ForkSafeLock,
    bound_spinning,
    cpu_limit,
    limit_threads,
    survive_fork,
    trim_heap,
)

# Which cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 cores with control groups as files."""
    monkeypatch.setattr(processes, "_GROUPS_OF_PROCESS", tmp_path / "own")
    monkeypatch.setattr(processes, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))

    def _machine(own, **quotas):
        (tmp_path / "own").write_text(own)
        for name, content in quotas.items():
            path = tmp_path / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return _machine


@pytest.mark.parametrize(
    ("own", "quotas", "expected"),
    [
        pytest.param("0::/\n", {}, None, id="none"),
        pytest.param("0::/\n", {"cpu_DOT_max": "max 100000\n"}, None, id="no-quota"),
        pytest.param("0::/\n", {"cpu_DOT_max": "200000 100000\n"}, 2, id="container"),
        pytest.param("0::/\n", {"cpu_DOT_max": "50000 100000\n"}, 1, id="half"),
        pytest.param("0::/\n", {"cpu_DOT_max": "150000 100000\n"}, 2, id="one-and-a-half"),
        pytest.param("0::/\n", {"cpu_DOT_max": "9900000 100000\n"}, None, id="more-than-there-are"),
        pytest.param(
            "0::/a/b\n",
            {"a__b__cpu_DOT_max": "max 100000", "a__cpu_DOT_max": "300000 100000"},
            3,
            id="of-a-parent",
        ),
        pytest.param(
            "0::/of/the/host\n", {"cpu_DOT_max": "400000 100000"}, 4, id="path-of-the-host"
        ),
        pytest.param(
            "4:cpu,cpuacct:/\n2:memory:/\n0::/\n",
            {
                "cpu,cpuacct__cpu.cfs_quota_us": "500000\n",
                "cpu,cpuacct__cpu.cfs_period_us": "100000\n",
            },
            5,
            id="version-1",
        ),
        pytest.param(
            "1:cpu:/a\n",
            {"cpu__a__cpu.cfs_quota_us": "-1\n", "cpu__a__cpu.cfs_period_us": "100000\n"},
            None,
            id="version-1-no-quota",
        ),
    ],
)
def test_quotas_of_containers(machine, own, quotas, expected):
    machine(own, **quotas)
    assert cpu_limit() == expected


def test_affinity(machine, monkeypatch):
    machine("0::/\n", cpu_DOT_max="800000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert cpu_limit() == 2


def test_other_systems_have_neither(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert cpu_limit() is None


# How many threads


@pytest.fixture
def threads(monkeypatch):
    """What PyTorch's threads were set to."""
    found = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: found[-1] if found else 16)
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(processes, "_state", {"has_loaded": False, "is_forked": False})
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize(
    ("limit", "given", "expected"),
    [(None, None, []), (None, 3, [3]), (2, None, [2]), (2, 3, [3]), (32, None, [16])],
)
def test_threads_by_default(threads, monkeypatch, limit, given, expected):
    monkeypatch.setattr(processes, "cpu_limit", lambda: limit)
    limit_threads(given)
    assert threads == expected


def test_threads_that_the_user_has_set_stay(threads, monkeypatch):
    monkeypatch.setattr(processes, "cpu_limit", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    limit_threads(None)
    assert threads == []


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {}])
def test_spinning_is_bounded_unless_the_user_says_otherwise(monkeypatch, given):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    bound_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == given.get(
        "GOMP_SPINCOUNT", None if given else processes.SPINS
    )
    os.environ.pop("GOMP_SPINCOUNT", None)


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, processes.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_a_scorer_bounds_spinning_and_leaves_the_environment(given, spins):
    code = (
        "import os; from quals_fast import QualsScorer; before = dict(os.environ)\n"
        "QualsScorer.from_pretrained('qagen-mini', device='cpu'); print(os.environ == before)"
    )
    names = os.environ.keys() - {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={name: os.environ[name] for name in names} | given | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "True\n", done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr  # as libgomp has read it


# Forked processes


def test_a_forked_process_has_one_thread_and_says_so(threads, monkeypatch, caplog):
    limit_threads(None)
    survive_fork("cpu")
    assert threads == []
    processes._after_fork()
    with caplog.at_level(logging.WARNING, "quals_fast"):
        survive_fork("cpu")
        survive_fork("cpu")
    assert threads == [1]
    assert len(caplog.records) == 1
    assert "was forked after a model was loaded, so it scores with one thread" in caplog.text


def test_a_fork_before_a_model_is_loaded_changes_nothing(threads):
    processes._after_fork()
    limit_threads(4)
    survive_fork("cpu")
    assert threads == [4]


def test_a_gpu_cannot_be_used_behind_a_fork(monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    survive_fork("cpu")
    with pytest.raises(RuntimeError, match=r"cannot score in a forked process; start .*'spawn'"):
        survive_fork("cuda")


def test_a_lock_that_another_thread_held_is_free_behind_a_fork():
    lock, held, done = ForkSafeLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(30)

    def take():
        with lock, lock:  # twice: a callback may score
            os._exit(7)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    process = multiprocessing.get_context("fork").Process(target=take)
    process.start()
    process.join(30)
    done.set()
    thread.join()
    assert process.exitcode == 7


FORKING = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from quals_fast import DecodingConfig, QualsScorer

D = "The council closed the old pool on Tuesday. Jane Ashworth said repairs would cost millions."
S = "The council closed the pool on Tuesday."
decoding = DecodingConfig(num_beams=12, num_beam_groups=12)
if sys.argv[1] == "reference":
    import torch
    from quals_fast.reference.quals import ReferenceScorer
    torch.set_num_threads(2)
    scorer = ReferenceScorer(decoding=decoding)
else:
    scorer = QualsScorer.from_pretrained(
        threads=2, device="cpu", dtype="float32", decoding=decoding
    )

def score(row):
    return {"score": scorer.score([D], [S]).scores[0]}

fork = multiprocessing.get_context("fork")
expected = score(None)
if sys.argv[1] in ("pool", "reference"):
    with fork.Pool(2) as pool:
        found = pool.map(score, range(2))
elif sys.argv[1] == "executor":
    with ProcessPoolExecutor(2, mp_context=fork) as pool:
        found = list(pool.map(score, range(2)))
else:
    from datasets import Dataset
    rows = Dataset.from_dict({"row": [0, 1]})
    found = list(rows.map(score, num_proc=2, remove_columns=["row"]))
difference = max(abs(one["score"] - expected["score"]) for one in found)
assert len(found) == 2 and difference < 1e-5, (found, expected)
print("scored")
"""


WAYS = ("executor", "datasets", "reference")


@pytest.mark.parametrize("way", ["pool", *(pytest.param(w, marks=pytest.mark.slow) for w in WAYS)])
def test_forked_processes_score(way, tmp_path):
    (tmp_path / "forking.py").write_text(FORKING)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "forking.py", way],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1:] == ["scored"], done.stderr
    assert "scores with one thread" in done.stderr


# Memory


def resident_mb():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1000


def test_trimming_returns_memory_below_what_is_in_use():
    blocks = [b"x" * (100_000 + i) for i in range(1000)]  # too small to be mapped by themselves
    last = blocks[-1]
    blocks.clear()
    before = resident_mb()
    trim_heap()
    assert resident_mb() < before - 50
    assert len(last) == 100_999


def test_other_systems_need_no_trimming(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(processes.ctypes, "CDLL", None)  # must not be called
    trim_heap()
