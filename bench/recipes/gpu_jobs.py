"""What the long jobs on a lent GPU share: they first report what is missing, and end in time."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.shared.common import ROOT

KEPT_BYTES = 62 * 2**20  # of models; 64 MiB come back in all


def results_folder(run: Path) -> Path:
    """Return where results go: ``$OUT``, which comes back from the machine, or ``run/out``."""
    return Path(os.environ.get("OUT") or run / "out")


def require(needed: Mapping[str, bool]) -> None:
    """End the program if something is missing.

    Args:
        needed: whether each thing is there, by a line that names it and says how to get it.

    Raises:
        SystemExit: with all lines that are not true.
    """
    missing = [line for line, is_there in needed.items() if not is_there]
    if missing:
        raise SystemExit("cannot start; missing:\n" + "\n".join(f"- {line}" for line in missing))


def run_for(seconds: float, command: Sequence[str], log: Path) -> int | None:
    """Run a command, print what it prints and add it to a log.

    Args:
        seconds: after which it is stopped, with all that it has started.
        command: program and arguments.
        log: file.

    Returns:
        The exit code; None if it was stopped.
    """
    stopped = threading.Event()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def stop() -> None:
        stopped.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(max(0.0, seconds), stop)
    timer.start()
    with log.open("a", encoding="utf-8") as file:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            file.write(line)
            file.flush()
    code = process.wait()
    timer.cancel()
    return None if stopped.is_set() else code
