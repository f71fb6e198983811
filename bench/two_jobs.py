"""How fast are two jobs at once on one machine? Threads that spin while they wait slow both down.

    python -m bench.two_jobs --data ../shared/data/docsum_pairs.jsonl.gz

A job scores texts of the `long` workload, alone or beside a second job that does the same, with one
thread per core or for every two cores. The library (`from_pretrained` and `score`) is measured in
an environment that says nothing about threads, and with each of the variables that limit spinning:
GOMP_SPINCOUNT and OMP_WAIT_POLICY. The ONNX export and the command `quals-fast score` are measured
as they are. Such variables are ignored if they are set when the benchmark starts.

Each job has its own process. The programs take turns, round by round. Start-up is left out: jobs of
the library are loaded before, and of a command, the rows after the first one count. Results are
written after each round. Under 10 minutes on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple
from unittest import mock

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import Pair, finish, spread, texts_of
from bench.shared.options import command_line
from bench.shared.timing import ratios, rounds_within
from bench.shared.turns import Worker
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload
from quals_fast.processes import SPINS, cpu_limit

#: Read by OpenMP when it is loaded.
VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
PYTORCH = {
    "PyTorch": {},
    f"PyTorch, GOMP_SPINCOUNT={SPINS}": {"GOMP_SPINCOUNT": SPINS},
    "PyTorch, OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
ONNX, COMMAND = "ONNX int8", "quals-fast score"
CALL = 4  # pairs per call: when one of two jobs ends, the other is alone for one call at most
COMMAND_ROWS = 8  # the command scores the first one alone

Job = Callable[[], float]  # scores, and returns pairs per second


class Turn(NamedTuple):
    """Pairs per second of one job alone, and of each of two at once."""

    alone: float
    both: tuple[float, float]


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Set these variables, and unset the others of `VARIABLES`, for processes started within."""
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    with mock.patch.dict(os.environ, others | variables, clear=True):
        yield


def pairs_per_second(arm: EngineArm, pairs: Sequence[Pair], seconds: float) -> float:
    """Score the pairs in small calls, over and over, until the time is up."""
    begin, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - begin) < seconds:
        first = done % len(pairs)
        done += len(batch := pairs[first : first + CALL])
        arm.score(*texts_of(batch))
    return done / spent


def run_command(pairs: Sequence[Pair], model: Path, threads: int) -> float:
    """Score the pairs with `quals-fast score`; return its rate from the first score to the last.

    Raises:
        RuntimeError: it failed, or did not score all rows.
    """
    command = [sys.executable, "-m", "quals_fast", "score", "-", "-o", "-", "--quiet"]
    options = ["--model", str(model), "--threads", str(threads), "--device", "cpu"]
    with TemporaryFile("w+", encoding="utf-8") as rows, environment({}):
        for pair in pairs:
            rows.write(json.dumps({"document": pair.document, "summary": pair.summary}) + "\n")
        rows.seek(0)
        process = subprocess.Popen(
            [*command, *options], stdin=rows, stdout=subprocess.PIPE, text=True
        )
    with process:
        assert process.stdout is not None
        times = [time.perf_counter() for _ in process.stdout]
    if process.returncode or len(times) != len(pairs):
        raise RuntimeError(
            f"{' '.join(command)} scored {len(times)} of {len(pairs)} rows and ended with "
            f"{process.returncode}; see its error above"
        )
    return (len(times) - 1) / (times[-1] - times[0])


def turn(jobs: Sequence[Job]) -> Turn:
    """Run the first job alone, then both at once."""
    alone = jobs[0]()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda job: job(), jobs)
    return Turn(alone, (first, second))


def figures(turns: Sequence[Turn]) -> dict[str, dict[str, float]]:
    """Return pairs per second, and their ratios to one job alone, formed within each round."""
    alone = [one.alone for one in turns]
    slower, both = [min(one.both) for one in turns], [sum(one.both) for one in turns]
    return {
        "alone": spread(alone),
        "each": spread([rate for one in turns for rate in one.both]) | {"n": len(turns)},
        "both": spread(both),
        "slower_over_alone": ratios(slower, alone),
        "both_over_alone": ratios(both, alone),
    }


def start(
    stack: ExitStack, model: Path, pairs: Sequence[Pair], threads: int, seconds: float
) -> dict[str, list[Job]]:
    """Start and warm up two processes for each way to use the library; return all programs' jobs.

    Args:
        stack: ends the processes.
        model: folder of the model.
        pairs: to score.
        threads: of each job.
        seconds: for which a job of the library scores.
    """
    arms: dict[str, tuple[dict[str, str], Path, str]] = {
        name: (variables, model, "eager") for name, variables in PYTORCH.items()
    }
    arms[ONNX] = {}, exported(model, "int8"), "onnx"
    jobs: dict[str, list[Job]] = {}
    for name, (variables, folder, backend) in arms.items():
        with environment(variables):
            workers = [
                Worker(EngineArm, folder, "auto", backend, threads=threads) for _ in range(2)
            ]
        for worker in workers:
            stack.callback(worker.kill)
            worker.score(pairs[:CALL], [])
        jobs[name] = [partial(worker.ask, pairs_per_second, pairs, seconds) for worker in workers]
    jobs[COMMAND] = [partial(run_command, pairs[:COMMAND_ROWS], model, threads)] * 2
    return jobs


def main() -> None:
    """Measure, and write bench/results/two_jobs.json after each round."""
    cores = cpu_limit() or os.cpu_count() or 1
    parser = command_line(__doc__, data=None, model="qagen-mini", rows=24, rounds=3)
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({cores, max(1, cores // 2)}, reverse=True),
        help="threads of each job (default: one per core, and half as many)",
    )
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="for which a job of the library scores"
    )
    parser.add_argument("--limit", type=float, default=400, help="seconds for all rounds")
    arguments = parser.parse_args()
    folder = folder_of(arguments.model)
    pairs = load_workload("long", arguments.data, arguments.rows)
    programs: dict[str, dict[str, Any]] = {}
    result = {
        "model": arguments.model,
        "data": arguments.data.name if arguments.data else "examples",
        "cores": cores,
        "pairs_per_s": programs,
    }
    for threads in arguments.threads:
        with ExitStack() as stack:
            jobs = start(stack, folder, pairs, threads, arguments.seconds)
            turns: dict[str, list[Turn]] = {name: [] for name in jobs}
            for _ in rounds_within(arguments.limit / len(arguments.threads), arguments.rounds):
                for name, own in jobs.items():
                    turns[name].append(turn(own))
                    programs.setdefault(name, {})[str(threads)] = figures(turns[name])
                finish("two_jobs", result, weights=weights_of(arguments.model))


if __name__ == "__main__":
    main()
