"""What this process may use: CPU cores, threads after a fork, CUDA graphs in a thread, memory."""

from __future__ import annotations

import ctypes
import logging
import math
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import ClassVar

_LOG = logging.getLogger("quals_fast")
_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")

SPINS = "1000"  # chosen by measurement, see ARCHITECTURE.md

_state = {"has_loaded": False, "is_forked": False}


class _Thread(threading.local):
    """What a thread may do.

    Attributes:
        captures_graphs: whether it may capture CUDA graphs. During a capture, random numbers on
            that GPU are an error in all other threads, so a thread beside a training may not.
    """

    captures_graphs = True


this_thread = _Thread()


class ForkSafeLock:
    """A reentrant lock that is free in a forked process, where its holder does not exist."""

    _all: ClassVar[weakref.WeakSet[ForkSafeLock]] = weakref.WeakSet()

    def __init__(self) -> None:
        self.renew()
        self._all.add(self)

    def renew(self) -> None:
        """Replace the lock by a free one."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _after_fork() -> None:
    _state["is_forked"] = _state["is_forked"] or _state["has_loaded"]
    for lock in ForkSafeLock._all:
        lock.renew()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


def bound_spinning() -> None:
    """Limit how long OpenMP's idle threads spin. Call this before OpenMP is loaded.

    For programs only: a library must not change its host's environment.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def limit_threads(threads: int | None) -> None:
    """Set PyTorch's threads when a model is loaded.

    Args:
        threads: how many; None leaves PyTorch's own number, but at most `cpu_limit`, unless
            OMP_NUM_THREADS or MKL_NUM_THREADS is set.
    """
    import torch

    limit = cpu_limit()
    if threads is not None:
        torch.set_num_threads(threads)
    elif limit is not None and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        torch.set_num_threads(min(limit, torch.get_num_threads()))
    survive_fork("cpu")
    _state["has_loaded"] = True


def survive_fork(device: str) -> None:
    """In a process that was forked after a model was loaded, compute in one thread.

    OpenMP's threads do not exist in such a process, and it would wait for them forever.

    Args:
        device: of the model, ``"cpu"`` or ``"cuda"``.

    Raises:
        RuntimeError: a GPU that was used before the fork cannot be used after it.
    """
    import torch

    if device == "cuda" and torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            "a scorer on a GPU cannot score in a forked process; start the process with 'spawn', "
            "as with multiprocessing.get_context('spawn'), and load the scorer there"
        )
    if _state["is_forked"] and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _LOG.warning(
            "process %d was forked after a model was loaded, so it scores with one thread; for "
            "more threads, start processes with 'spawn' or 'forkserver'",
            os.getpid(),
        )


def cpu_limit() -> int | None:
    """Return the number of cores that this process may use; None if it is all of the machine's.

    CPU affinity counts, and the container's CPU quota (cgroups v1 and v2), rounded up.
    """
    all_cores = os.cpu_count() or 1
    limits = [all_cores]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    limits += [max(1, math.ceil(quota)) for quota in _quotas()]
    return min(limits) if min(limits) < all_cores else None


def _quotas() -> list[float]:
    """Return the CPU quotas of this process' control groups, in cores."""
    try:
        lines = _GROUPS_OF_PROCESS.read_text("ascii").splitlines()
    except OSError:  # not Linux
        return []
    quotas: list[float | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_quota(group, "cpu.max") for group in _parents(_CGROUPS, path)]
        elif "cpu" in controllers.split(","):
            quotas += [
                _quota(group, "cpu.cfs_quota_us", "cpu.cfs_period_us")
                for name in (controllers, "cpu")
                for group in _parents(_CGROUPS / name, path)
            ]
    return [quota for quota in quotas if quota is not None]


def _parents(root: Path, path: str) -> list[Path]:
    """Return a group and its parents; in a container the path may be the host's."""
    own = root / path.lstrip("/")
    return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]


def _quota(group: Path, *names: str) -> float | None:
    try:
        quota, period = " ".join((group / name).read_text("ascii") for name in names).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or "max"
        return None


def trim_heap() -> None:
    """Give free memory back to the system, also from the middle of the heap.

    By itself, glibc gives back only the end. Texts of many lengths leave holes before it, which a
    process that scores for days would keep.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # other C libraries have none
        trim(0)
