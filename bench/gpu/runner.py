"""Runs stages in processes of their own, under their limits, and keeps an archive up to date.

A folder holds what a run leaves: ``results/``, ``logs/`` with what each stage printed, and the
claim's page. The archive holds the same; it is written anew after every stage, since a machine that
is lent may be taken back at any moment.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from threading import Lock

from bench.gpu.stages import GROW, Setup, Stage
from bench.shared.modules import run_modules

OK, FAILED, LATE, NOT_RUN = "ok", "failed", "over its limit", "not run: no model"
TAIL, WIDTH = 15, 200  # lines of a log, and their length, shown where a stage did not end well
ARCHIVE = "gpu.tar.gz"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended.

    Attributes:
        name: of the stage.
        how: one of `OK`, `FAILED`, `LATE` and `NOT_RUN`; a failure says which commands failed.
        seconds: that it took.
        figure: its headline, also of what a stage got done before it was stopped.
    """

    name: str
    how: str
    seconds: float
    figure: str = ""


class Runner:
    """Runs stages one after the other, or a few at a time.

    Args:
        folder: for results and logs.
        setup: what the commands depend on.
        archive: where the archive is written; None writes none.
    """

    def __init__(self, folder: Path, setup: Setup, archive: Path | None = None) -> None:
        self._folder, self._setup, self._archive = folder, setup, archive
        self._results, self._logs = folder / "results", folder / "logs"
        self._lock = Lock()
        for made in (self._results, self._logs):
            made.mkdir(parents=True, exist_ok=True)

    def run(self, stages: Mapping[str, Stage], jobs: int = 1, scale: float = 1.0) -> list[Outcome]:
        """Run stages; the large model is grown beside the first ones.

        What a stage leaves of its time, the later ones may use: each must end when the limits up
        to its own are over, and the time that all wait for the model (`wait_s`).

        Args:
            stages: by name, in this order.
            jobs: stages that run at the same time.
            scale: of their limits.

        Returns:
            An outcome for each, after that of growing where it was needed.
        """
        begin = time.monotonic()
        # In a dry run all stages need the tiny model, which takes a few seconds.
        waiting = {n for n, stage in stages.items() if stage.needs_large or self._setup.is_dry}
        first = begin + scale * wait_s(stages, self._setup)
        deadlines = accumulate((scale * one.limit_s for one in stages.values()), initial=first)
        next(deadlines)
        with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(jobs) as turns:
            grown = None
            if waiting:
                end = begin + scale * GROW.limit_s
                grown = beside.submit(self._run_stage, "grow", GROW, end)
            ended = [
                turns.submit(self._run_after, grown if n in waiting else None, n, stage, deadline)
                for (n, stage), deadline in zip(stages.items(), deadlines, strict=True)
            ]
            return [one.result() for one in ([grown] if grown else []) + ended]

    def _run_after(
        self, grown: Future[Outcome] | None, name: str, stage: Stage, deadline: float
    ) -> Outcome:
        """Run a stage when the model is there."""
        if grown is not None and grown.result().how != OK:
            return Outcome(name, NOT_RUN, 0.0)
        return self._run_stage(name, stage, deadline)

    def _run_stage(self, name: str, stage: Stage, deadline: float) -> Outcome:
        """Run a stage; `deadline` is of `time.monotonic`."""
        begin = time.monotonic()
        self._say(f"== {name} (at most {deadline - begin:.0f} s)")
        earlier = stage.result_file(self._results, self._setup.device)
        if earlier is not None:
            earlier.unlink(missing_ok=True)
        log = self._logs / f"{name}.log"
        how = self._run_commands(stage.commands(self._setup), log, deadline)
        figure = stage.figure(self._results, self._setup.device)
        outcome = Outcome(name, how, time.monotonic() - begin, figure)
        if how != OK:
            lines = log.read_text("utf-8", "replace").splitlines()[-TAIL:]
            shown = (line[:WIDTH] for line in lines)
            self._say("\n".join([f"!! {name} {how}; the end of {log}:", *shown]))
        self._write_archive()
        return outcome

    def _run_commands(self, commands: Sequence[str], log: Path, deadline: float) -> str:
        """Run commands until the deadline; one that fails does not keep the next from running."""
        failed = []
        with log.open("wb") as file:
            for command in commands:
                file.write(f"== {command}\n".encode())
                file.flush()
                results = {"BENCH_RESULTS": str(self._results)}
                (code,) = run_modules(deadline, [command], file, results)
                if code is None:
                    return LATE
                if code:
                    failed.append(f"{command.split()[0]} ended with {code}")
        return f"{FAILED}: {', '.join(failed)}" if failed else OK

    def _say(self, text: str) -> None:
        with self._lock:  # of two threads, each prints whole lines
            print(text, flush=True)

    def _write_archive(self) -> None:
        if self._archive is None:
            return
        with self._lock:
            self._archive.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._archive.with_name(f".{self._archive.name}")
            with tarfile.open(scratch, "w:gz") as tar:
                for path in sorted(self._folder.rglob("*")):
                    if path.is_file() and path.suffix != ".part":
                        tar.add(path, path.relative_to(self._folder))
            scratch.replace(self._archive)


def wait_s(stages: Mapping[str, Stage], setup: Setup) -> float:
    """Return for how long stages may have to wait for the large model, seconds.

    It is grown beside those before the first one that needs it, which may be none.
    """
    if setup.is_dry or not any(stage.needs_large for stage in stages.values()):
        return 0.0
    before = takewhile(lambda stage: not stage.needs_large, stages.values())
    return max(0.0, GROW.limit_s - sum(stage.limit_s for stage in before))
