"""What does Ray cost on one machine? Rows a second of `quals-fast score`, plain and with Ray.

    python -m bench.scale                        about 10 minutes on two cores
    python -m bench.scale --rows 8 --rounds 1    a dry run

Every job is a process of its own, as users start it. A job of one row tells what a start takes; the
rate is that of the other rows. In each round, all jobs take their turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.progress import track

from bench.shared.common import Pair, finish, spread
from bench.shared.options import command_line, fill_in
from bench.shared.weights import MODEL, weights_of
from bench.shared.workloads import load_workload

JOB_SECONDS = 600  # at most: a cluster that does not start must not hold up the benchmark
N_FILES = 4  # of input, so that two workers have a share each
ARMS: dict[str, list[str]] = {
    "plain, 1 thread": ["--threads", "1"],
    "plain, 2 threads": ["--threads", "2"],
    "Ray, 1 worker of 1 thread": ["--runner", "ray", "--workers", "1"],
    "Ray, 2 workers of 1 thread": ["--runner", "ray", "--workers", "2"],
}


def write_rows(pairs: list[Pair], folder: Path) -> list[str]:
    """Write rows to as many files as there are rows for, up to `N_FILES`; return their names."""
    folder.mkdir()
    names = []
    for n in range(min(N_FILES, len(pairs))):
        part = pairs[n * len(pairs) // N_FILES : (n + 1) * len(pairs) // N_FILES] or pairs[:1]
        lines = [json.dumps({"document": one.document, "summary": one.summary}) for one in part]
        (folder / f"{n}.jsonl").write_text("\n".join(lines), "utf-8")
        names.append(str(folder / f"{n}.jsonl"))
    return names


def run(arm: str, inputs: list[str], settings: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Run a job; return its seconds and its rows.

    Raises:
        RuntimeError: it failed.
        TimeoutExpired: it took too long.
    """
    with tempfile.TemporaryDirectory(prefix="qf") as folder:
        target = Path(folder) / ("out" if "--runner" in ARMS[arm] else "out.jsonl")
        command = [sys.executable, "-m", "quals_fast", "score", *inputs, "-o", str(target)]
        # A cluster of its own, with a core for each worker, whatever else runs here.
        environment = os.environ | {"RAY_ADDRESS": "local", "RAY_TMPDIR": folder}
        start = time.perf_counter()
        done = subprocess.run(
            [*command, *ARMS[arm], *settings],
            capture_output=True,
            text=True,
            env=environment,
            timeout=JOB_SECONDS,
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"{arm}: {done.stderr}")
        files = sorted(target.glob("part-*")) if target.is_dir() else [target]
        lines = [line for one in files for line in one.read_text("utf-8").splitlines()]
    return seconds, [json.loads(line) for line in lines]


def compare(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, float]:
    """Compare the rows of two runners.

    Returns:
        The number of rows, how many have the same score to the last bit, and the largest
        difference of a score.

    Raises:
        RuntimeError: a row has another place, status or message.
    """
    differences = []
    for one, other in zip(rows, others, strict=True):
        for name in ("file", "id", "status", "message", "n_pairs"):
            if one.get(name) != other.get(name):
                raise RuntimeError(f"{name} differs: {one} and {other}")
        if one["score"] is not None:
            differences.append(abs(one["score"] - other["score"]))
    return {
        "rows": len(rows),
        "same_bits": len(rows) - sum(difference > 0 for difference in differences),
        "max_difference": max(differences, default=0.0),
    }


def main() -> None:
    """Measure all arms in turn."""
    parser = command_line(__doc__, data=None, rows=None, rounds=None)
    parser.add_argument("--model", default=MODEL, help="bundled model or folder")
    arguments, settings = parser.parse_known_args()
    fill_in(arguments, {"rows": 48, "rounds": 3})
    settings = ["--model", arguments.model, "--dtype", "float32", "--quiet", *settings]
    pairs = load_workload("short", arguments.data, arguments.rows)
    starts: dict[str, list[float]] = {arm: [] for arm in ARMS}
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    agreement: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        all_rows = write_rows(pairs, Path(folder) / "all")
        one_row = write_rows(pairs[:1], Path(folder) / "one")
        for _ in track(range(arguments.rounds)):
            scored = {}
            for arm in ARMS:
                start, _ = run(arm, one_row, settings)
                seconds, scored[arm] = run(arm, all_rows, settings)
                if seconds <= start:
                    raise RuntimeError(
                        f"{arm}: {len(pairs)} rows took {seconds:.0f} s, but one row "
                        f"{start:.0f} s; wait until the machine is idle, or take more rows"
                    )
                starts[arm].append(start)
                rates[arm].append((len(pairs) - 1) / (seconds - start))
            first, *others = ARMS
            agreement = {arm: compare(scored[first], scored[arm]) for arm in others}
    result = {
        "rows": len(pairs),
        "settings": settings,
        "start_s": {arm: spread(values) for arm, values in starts.items()},
        "rows_per_s": {arm: spread(values) for arm, values in rates.items()},
        "agreement": agreement,
    }
    finish("scale", result, weights=weights_of(arguments.model))


if __name__ == "__main__":
    main()
