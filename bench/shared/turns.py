"""An arm in a process of its own, which works when it is its turn and tells its peak memory."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

import torch

from bench.shared.arms import Arm, EngineArm, Kept
from bench.shared.common import Pair, peak_mib, texts_of

T = TypeVar("T")


class Turn(NamedTuple):
    """What an arm did with some rows.

    Attributes:
        seconds: from texts to scores, with what was done beforehand.
        scores: one a row.
        kept: token ids of each row's pairs.
        stages: seconds of each stage, where the arm tells them.
    """

    seconds: float
    scores: list[float]
    kept: Kept
    stages: dict[str, float]


class Worker:
    """A process that holds one arm.

    Args:
        make: the arm's class.
        arguments: for it.
        settings: for it; `dtype_name` becomes a torch type under ``dtype``.

    Attributes:
        facts: the arm's name, dtype and backend; waits until the arm is made, so that several
            can be made at the same time.

    Raises:
        RuntimeError: the arm failed; its own process printed how.
    """

    def __init__(self, make: Callable[..., Arm], *arguments: Any, **settings: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_work, args=(other, make, arguments, settings), daemon=True
        )
        self._process.start()
        other.close()

    @cached_property
    def facts(self) -> dict[str, Any]:  # noqa: D102
        first: dict[str, Any] = self._answer()
        return first

    def score(self, pairs: Sequence[Pair], kept: Kept) -> Turn:
        """Score rows; `kept` are the pairs that an arm without a search of its own scores."""
        return self.ask(_timed, list(pairs), kept)

    def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return ``function(arm, *arguments)``, called in the arm's process."""
        _ = self.facts  # the first thing that the process says
        self._pipe.send((function, arguments))
        answer: T = self._answer()
        return answer

    def close(self) -> dict[str, Any]:
        """End the process; return its facts, peak memory included."""
        _ = self.facts
        self._pipe.send(None)
        facts: dict[str, Any] = self._answer()
        self._process.join()
        return facts

    def kill(self) -> None:
        """End the process whatever it does."""
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("an arm's process ended early; see its error above") from None


def _work(
    pipe: Connection, make: Callable[..., Arm], arguments: Sequence[Any], settings: dict[str, Any]
) -> None:
    """Make the arm, then do what is asked for until None comes."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "dtype_name" in settings:
        settings = settings | {"dtype": getattr(torch, settings.pop("dtype_name"))}
    arm = make(*arguments, **settings)
    facts: dict[str, Any] = {
        "name": arm.name,
        "dtype": getattr(arm, "dtype", None),
        "backend": None,
    }
    if isinstance(arm, EngineArm):
        facts |= {what: arm.runs_as(what) for what in ("dtype", "backend")}
    pipe.send(facts)
    while (task := pipe.recv()) is not None:
        function, given = task
        pipe.send(function(arm, *given))
    pipe.send(facts | {"peak_mib": peak_mib()})


def _end_with_parent() -> None:
    """End this process when the benchmark is killed: an arm's work would slow the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _timed(arm: Arm, pairs: list[Pair], kept: Kept) -> Turn:
    documents, summaries = texts_of(pairs)
    arm.kept = kept or [[] for _ in pairs]
    start = time.perf_counter()
    scores = arm.score(documents, summaries)
    seconds = time.perf_counter() - start + getattr(arm, "added_seconds", 0.0)
    return Turn(seconds, scores, arm.kept, getattr(arm, "stages", {}))
