"""What other processes take of the machine while a benchmark runs, as /proc tells it.

A benchmark's own processes are its process and all that descend from it; where several run at once
on purpose, $BENCH_PROCESS is the one that started them. Others count with their time on a core
since the benchmark began; one that lives shorter than the interval may be missed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

QUIET = 0.1  # of a core; above it the machine is under load
_INTERVAL_S = 5.0  # a look takes milliseconds
_WINDOW_S = 60.0  # what takes less than a minute must not vanish in the mean of an hour
_NAMED = 3  # of the other processes
_KERNEL = 2  # parent of the kernel's threads, which mostly work for the benchmark
_KERNEL_NAME = "kthreadd"  # in a container, the number may be any process's
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """A process at one moment.

    Attributes:
        name: of its command, without arguments.
        parent: its id.
        born: when it started, which tells it from an earlier one of the same id.
        ticks: its time on a core so far.
    """

    name: str
    parent: int
    born: int
    ticks: int


def processes(proc: Path) -> dict[int, Process]:
    """Return all processes by their id."""
    found = {}
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "stat").read_text("utf-8", "replace")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            begin, _, rest = text.rpartition(") ")  # a name may contain a parenthesis
            parts = rest.split()
            ticks = int(parts[11]) + int(parts[12])
            name = begin.partition("(")[2]
            found[int(folder.name)] = Process(name, int(parts[1]), int(parts[19]), ticks)
    return found


class Watch:
    """Adds up the time that other processes take.

    Args:
        own: process whose tree is the benchmark's.
        proc: where the system tells of its processes.
    """

    def __init__(self, own: int | None = None, proc: Path = Path("/proc")) -> None:
        self._own, self._proc = own or os.getpid(), proc
        self._begin = self._window = time.monotonic()
        self._highest, self._ticks_before = 0.0, 0
        self._seconds = 0.0
        self._ticks: Counter[str] = Counter()
        self._last = processes(proc)
        self._ours: set[tuple[int, int]] = set()
        self._ours = self._descendants(self._last)
        self._lock = threading.Lock()

    def look(self) -> None:
        """Add what others took since the last look."""
        with self._lock:
            now = processes(self._proc)
            self._ours |= self._descendants(now)
            has_kernel = _KERNEL in now and now[_KERNEL].name == _KERNEL_NAME
            for number, one in now.items():
                if (number, one.born) in self._ours or (has_kernel and one.parent == _KERNEL):
                    continue
                before = self._last.get(number)
                earlier = before.ticks if before and before.born == one.born else 0
                self._ticks[one.name] += one.ticks - earlier
            self._last = now
            moment = time.monotonic()
            self._seconds = moment - self._begin
            if moment - self._window >= _WINDOW_S:
                ticks = self._ticks.total()
                cores = (ticks - self._ticks_before) / _TICKS_PER_S / (moment - self._window)
                self._highest = max(self._highest, cores)
                self._window, self._ticks_before = moment, ticks

    def load(self) -> dict[str, Any]:
        """Return what others took, in cores.

        Returns:
            The mean in `cores`, that of the worst minute in `highest`, the means of those that took
            most by the `names` of their commands, and for how many `seconds` they were watched.
        """
        scale = 1 / _TICKS_PER_S / max(self._seconds, 1e-9)
        mean = scale * self._ticks.total()
        names = {name: round(scale * n, 2) for name, n in self._ticks.most_common(_NAMED)}
        return {
            "cores": round(mean, 2),
            "highest": round(max(mean, self._highest), 2),
            "names": {name: share for name, share in names.items() if share},
            "seconds": round(self._seconds),
        }

    def _descendants(self, found: Mapping[int, Process]) -> set[tuple[int, int]]:
        """Return id and birth of our process and those that descend from it.

        What descended from us stays ours, with its own children, when its parent has ended.
        """
        ours = {self._own}
        ours |= {n for n, born in self._ours if n in found and found[n].born == born}
        while more := {n for n, one in found.items() if one.parent in ours} - ours:
            ours |= more
        return {(number, found[number].born) for number in ours if number in found}


_watch: Watch | None = None


def begin() -> None:
    """Watch the machine from now on; on systems without /proc nothing is watched."""
    global _watch
    if _watch is None and Path("/proc/self/stat").is_file():
        _watch = Watch(int(os.environ.get("BENCH_PROCESS") or os.getpid()))
        threading.Thread(target=_keep_looking, args=(_watch,), daemon=True).start()


def current() -> dict[str, Any] | None:
    """Return the load so far; None where nothing is watched."""
    if _watch is None:
        return None
    _watch.look()
    return _watch.load()


def is_high(load: Mapping[str, Any] | None) -> bool:
    """Return whether others took more than `QUIET` of a core in any minute."""
    return load is not None and load["highest"] > QUIET


def told(load: Mapping[str, Any]) -> str:
    """Say how many cores others took, and which."""
    names = ", ".join(f"{name} {share:.2f}" for name, share in load["names"].items())
    return (
        f"other processes took {load['cores']:.2f} cores, {load['highest']:.2f} in the worst "
        f"minute ({names or 'none of them much'})"
    )


def _keep_looking(watch: Watch) -> None:
    is_warned = False
    while True:
        time.sleep(_INTERVAL_S)
        watch.look()
        if not is_warned and is_high(load := watch.load()):
            is_warned = True
            print(f"warning: machine under load: {told(load)}", file=sys.stderr, flush=True)
