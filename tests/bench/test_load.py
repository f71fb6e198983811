"""What other processes take of the machine while a benchmark runs."""

import subprocess
import sys

import pytest

from bench.shared import common, load
from bench.shared.load import Watch, is_high, processes, told

BENCH, SHELL, OTHER = 10, 9, 20


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    now = [0.0]
    monkeypatch.setattr(load.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def put(tmp_path):
    """Write what the system tells of a process, with its seconds on a core so far."""

    def write(number, name="python", parent=1, born=100, seconds=0.0):
        ticks = round(seconds * load._TICKS_PER_S)
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        fields = ["S", parent, *["0"] * 9, ticks, "0", *["0"] * 6, born]
        (folder / "stat").write_text(f"{number} ({name}) {' '.join(map(str, fields))} 0 0")

    (tmp_path / "meminfo").write_text("")
    write(SHELL, "bash")
    write(BENCH, parent=SHELL)
    return write


def test_a_name_may_hold_a_parenthesis(put, tmp_path):
    put(OTHER, "a) S (b", parent=7, born=300, seconds=2)
    assert processes(tmp_path)[OTHER] == ("a) S (b", 7, 300, 2 * load._TICKS_PER_S)


def test_others_count_and_the_own_tree_does_not(put, tmp_path, clock):
    put(11, parent=BENCH, seconds=5)
    put(OTHER, "pytest", seconds=50)
    put(load._KERNEL, "kthreadd", parent=0)
    put(30, "kworker", parent=load._KERNEL)
    watch = Watch(BENCH, tmp_path)
    clock[0] = 10.0
    for number, parent in ((BENCH, SHELL), (11, BENCH), (12, 11)):
        put(number, parent=parent, seconds=15)
    put(OTHER, "pytest", seconds=54)
    put(30, "kworker", parent=load._KERNEL, seconds=9)
    put(40, "mypy", seconds=1)  # new, so all of its time is of this while
    watch.look()
    assert watch.load() == {
        "cores": 0.5,
        "highest": 0.5,
        "names": {"pytest": 0.4, "mypy": 0.1},
        "seconds": 10,
    }
    assert told(watch.load()) == (
        "other processes took 0.50 cores, 0.50 in the worst minute (pytest 0.40, mypy 0.10)"
    )


def test_what_the_benchmark_started_stays_its_own(put, tmp_path, clock):
    put(11, parent=BENCH)
    watch = Watch(BENCH, tmp_path)
    clock[0] = 10.0
    put(11, parent=1, seconds=8)  # whoever started it has ended
    put(12, parent=11, seconds=8)
    watch.look()
    assert not is_high(watch.load())
    put(11, parent=1, born=900, seconds=8)  # another process that got its number
    watch.look()
    assert is_high(watch.load())


def test_in_a_container_the_second_process_is_no_kernel(put, tmp_path, clock):
    put(load._KERNEL, "sh")
    put(OTHER, "pytest", parent=load._KERNEL)
    watch = Watch(BENCH, tmp_path)
    clock[0] = 10.0
    put(OTHER, "pytest", parent=load._KERNEL, seconds=5)
    watch.look()
    assert watch.load()["names"] == {"pytest": 0.5}


def test_a_busy_minute_counts_in_a_quiet_hour(put, tmp_path, clock):
    put(OTHER, "cron")
    watch = Watch(BENCH, tmp_path)
    for minute in range(1, 61):
        clock[0] = 60.0 * minute
        put(OTHER, "cron", seconds=0 if minute < 30 else 30)
        watch.look()
    assert watch.load()["cores"] == 0.01
    assert watch.load()["highest"] == 0.5
    assert is_high(watch.load())


@pytest.mark.parametrize(("cores", "is_busy"), [(0.1, False), (0.11, True)])
def test_a_tenth_of_a_core_is_quiet(cores, is_busy):
    assert is_high({"cores": 0.0, "highest": cores, "names": {}, "seconds": 60}) == is_busy


def test_a_busy_process_is_seen():
    """Two real processes: the one that is watched sleeps, the other one does not."""
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = Watch(own.pid)
        load.time.sleep(1)
        watch.look()
        assert watch.load()["cores"] > 0
        assert watch.load()["seconds"] >= 1
    finally:
        for one in (own, other):
            one.kill()
            one.wait()


def test_a_command_watches_and_says_so(tmp_path):
    """A result names its load; a test, which is no benchmark, watches nothing."""
    code = (
        "import sys; sys.modules['__main__'].__spec__.name = 'bench.memory'\n"
        "from bench.shared import load; load._INTERVAL_S = 0.2\n"
        "import bench.shared.options as options; options.command_line('a test')\n"
        "import time; time.sleep(1.5)\n"
        "from bench.shared.common import machine; print(machine()['load'])"
    )
    (tmp_path / "command.py").write_text(code)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "command"],
            cwd=tmp_path,
            env=common.os.environ | {"PYTHONPATH": ":".join([str(common.ROOT), *sys.path[1:]])},
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        busy.kill()
        busy.wait()
    assert "warning: machine under load: other processes took" in done.stderr
    assert done.stdout.startswith("{'cores': ")
    assert common.machine()["load"] is None
