"""Runs modules in processes of their own, until a deadline."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

from bench.shared.common import ROOT


def run_modules(
    deadline: float, commands: Sequence[str], log: BinaryIO, variables: Mapping[str, str]
) -> list[int | None]:
    """Run modules with their options at once; return the exit code of each, None if it was stopped.

    Args:
        deadline: of `time.monotonic`; what still runs then is stopped with whatever it has started.
        commands: as after ``python3 -m``.
        log: takes what they print.
        variables: of the environment, besides this process's own.
    """
    started: list[subprocess.Popen[bytes]] = []
    codes: list[int | None] = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", *shlex.split(command)],
                    cwd=ROOT,
                    env=os.environ | variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            )
        for process in started:
            try:
                codes.append(process.wait(max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                codes.append(None)
    finally:  # also where this program itself is interrupted
        for process in started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return codes
