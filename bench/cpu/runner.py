"""Runs stages one after the other, and remembers which ones are done at which commit."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cpu.stages import Inputs, Stage
from bench.shared import common
from bench.shared.load import Watch, is_high, told
from bench.shared.modules import run_modules
from bench.shared.weights import MODEL, bundled

OK, FAILED, LATE, DONE, NOT_RUN = "ok", "failed", "over its limit", "done before", "not run"
TAIL, WIDTH = 15, 200  # lines of a log, and their length, shown where a stage did not end well
SLACK = 2.0  # times a stage's minutes, after which it is stopped
_LOOK_S = 1.0  # at the machine before a stage


class NoCommitError(RuntimeError):
    """There is no commit that results could name."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a stage ended.

    Attributes:
        name: of the stage.
        how: begins with one of `OK`, `FAILED`, `LATE`, `DONE` and `NOT_RUN`.
        seconds: that it took.
        load: what other processes took meanwhile, where it was much.
    """

    name: str
    how: str
    seconds: float = 0.0
    load: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the stage's results are there."""
        return self.how in (OK, DONE)

    @property
    def has_failed(self) -> bool:
        """Whether it began and did not end well, so that its log says why."""
        return self.how.startswith((FAILED, LATE))


class Runner:
    """Runs stages at one commit.

    A stage is done if its commands have ended well at that commit, with the model that is bundled,
    and its results are there. What one that was stopped has left is put aside, and the former
    results are back, unless its command goes on from there.

    Args:
        folder: for the state, logs and unfinished results.
        inputs: what the commands read.

    Raises:
        NoCommitError: the code has uncommitted changes, or the commit is unknown.
    """

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        self._folder, self._inputs = folder, inputs
        self._file = folder / "state.json"
        self._state: dict[str, Any] = {"commit": None, "stages": {}}
        if self._file.is_file():
            self._state = json.loads(self._file.read_text("utf-8"))
        self.commit = commit_of_run(self._state["commit"])
        for made in (folder / "logs", folder / "unfinished"):
            made.mkdir(parents=True, exist_ok=True)

    def seconds(self, name: str) -> float | None:
        """Return how long a stage took when it was last done, at whatever commit."""
        marker = self._state["stages"].get(name)
        return None if marker is None else float(marker["seconds"])

    def is_done(self, name: str, stage: Stage) -> bool:
        """Return whether a stage needs no other run."""
        marker = self._state["stages"].get(name)
        return (
            marker is not None
            and marker | {"seconds": 0} == self._marker(stage, 0)
            and all(self._problem(result) is None for result in stage.results)
        )

    def run(
        self, stages: Mapping[str, Stage], total_min: float | None = None, *, again: bool = False
    ) -> list[Outcome]:
        """Run those stages that are not done.

        Args:
            stages: by name, in this order.
            total_min: minutes for all; a stage that would not end in time is not begun.
            again: also run those that are done.
        """
        end = math.inf if total_min is None else time.monotonic() + 60 * total_min
        return [self._run_if_due(name, stage, end, again) for name, stage in stages.items()]

    def _run_if_due(self, name: str, stage: Stage, end: float, again: bool) -> Outcome:
        """Run a stage, if it is not done and nothing is against it."""
        if not again and self.is_done(name, stage):
            return Outcome(name, DONE)
        if missing := self._inputs.missing(stage):
            return Outcome(name, f"{NOT_RUN}: it needs {', '.join(missing)}")
        if changed := common.changed_since(self.commit):
            return Outcome(name, f"{NOT_RUN}: {changed[0]} has changed since {self.commit}")
        now = time.monotonic()
        if now + 60 * stage.minutes > end:
            return Outcome(name, f"{NOT_RUN}: it would not end in time")
        return self._run_stage(name, stage, min(now + SLACK * 60 * stage.minutes, end))

    def _run_stage(self, name: str, stage: Stage, deadline: float) -> Outcome:
        begin = time.monotonic()
        print(f"== {name} (at most {(deadline - begin) / 60:.0f} min)", flush=True)
        warn_of_load()
        log = self._folder / "logs" / f"{name}.log"
        former = {path: _content(path) for path in map(_result_path, stage.results)}
        how = ""
        try:
            how = self._run_commands(stage, log, deadline)
            wrong = [f"{n}.json {why}" for n in stage.results if (why := self._problem(n))]
            if how == OK and wrong:
                how = f"{FAILED}: {', '.join(wrong)}"
            loads = dict.fromkeys(map(_load_of, former))
        finally:  # also where this program is stopped
            if how != OK and not stage.goes_on:
                self._put_back(former)
        seconds = time.monotonic() - begin
        if how == OK:
            self._remember(name, self._marker(stage, seconds))
        else:
            lines = log.read_text("utf-8", "replace").splitlines()[-TAIL:]
            print("\n".join([f"!! {name} {how}; the end of {log}:", *(s[:WIDTH] for s in lines)]))
        return Outcome(name, how, seconds, "; ".join(filter(None, loads)))

    def _run_commands(self, stage: Stage, log: Path, deadline: float) -> str:
        """Run a stage's commands; one that fails does not keep the next from running."""
        commands = self._inputs.commands(stage)
        variables = {"BENCH_COMMIT": self.commit}
        if stage.is_at_once:
            # To each of them, the others are a part of the benchmark, not a load.
            variables |= {"OMP_NUM_THREADS": "1", "BENCH_PROCESS": str(os.getpid())}
        turns = [commands] if stage.is_at_once else [[command] for command in commands]
        failed = []
        with log.open("wb") as file:
            for turn in turns:
                file.write("".join(f"== {command}\n" for command in turn).encode())
                file.flush()
                codes = run_modules(deadline, turn, file, variables)
                if None in codes:
                    return LATE
                failed += [
                    f"{command.split()[0]} ended with {code}"
                    for command, code in zip(turn, codes, strict=True)
                    if code
                ]
        return f"{FAILED}: {', '.join(failed)}" if failed else OK

    def _put_back(self, former: Mapping[Path, bytes | None]) -> None:
        """Put what a stage has left aside, and its former results back."""
        for path, content in former.items():
            if _content(path) not in (None, content):
                path.replace(self._folder / "unfinished" / path.name)
                if content is not None:
                    path.write_bytes(content)

    def _marker(self, stage: Stage, seconds: float) -> dict[str, Any]:
        return {
            "commit": self.commit,
            "model": bundled(MODEL),
            "commands": self._inputs.commands(stage),
            "seconds": seconds,
        }

    def _problem(self, result: str) -> str | None:
        """Say why a result is not of this run; None if it is."""
        path = _result_path(result)
        if not path.is_file():
            return "is missing"
        machine = json.loads(path.read_text("utf-8"))["machine"]
        if machine["commit"] != self.commit:
            return f"is of commit {machine['commit']}"
        return "was measured with uncommitted changes" if machine["dirty"] else None

    def _remember(self, name: str, marker: dict[str, Any]) -> None:
        self._state["commit"] = self.commit
        self._state["stages"][name] = marker
        scratch = self._file.with_suffix(".part")
        scratch.write_text(json.dumps(self._state, indent=1) + "\n", "utf-8")
        scratch.replace(self._file)


def commit_of_run(before: str | None) -> str:
    """Return the commit that results name: that of the last run while its code is the same.

    So results may be committed between stages.

    Args:
        before: the last run's.

    Raises:
        NoCommitError: the code has uncommitted changes, or the commit is unknown.
    """
    if commit := os.environ.get("BENCH_COMMIT", common.head()):
        changed = [commit] if commit.endswith("-dirty") else common.changed_since("HEAD")
        if changed:
            raise NoCommitError(
                f"uncommitted changes ({', '.join(changed[:3])}): commit them first, since results "
                "name the commit that they were measured at"
            )
        return before if before and common.changed_since(before) == [] else commit
    raise NoCommitError("the commit is unknown: set BENCH_COMMIT to record it in the results")


def warn_of_load() -> None:
    """Warn where other processes are busy now."""
    watch = Watch()
    time.sleep(_LOOK_S)
    watch.look()
    if is_high(load := watch.load()):
        print(f"warning: machine under load: {told(load)}", flush=True)


def _result_path(name: str) -> Path:
    return common.RESULTS / f"{name}.json"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _load_of(path: Path) -> str:
    """Say what other processes took while a result was measured, where it was much."""
    if not path.is_file():
        return ""
    load = json.loads(path.read_text("utf-8"))["machine"].get("load")
    return told(load) if is_high(load) else ""
