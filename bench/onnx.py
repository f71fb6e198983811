"""How do exported graphs compare with torch? Speed, agreement, start-up time and memory.

    python -m bench.onnx --quick
    python -m bench.onnx --data ../shared/data/docsum_pairs.jsonl.gz --rows 10 --rounds 5

First, the model is exported in every type into the benchmarks' cache. Then torch's eager float32,
the engine's own choice on this processor (`auto`) and the exports score the same rows in turn, each
in its own process. Ratios are computed within a round; agreement is measured against eager float32
on more rows. Start-up is the time from the launch of a process to the score of one short pair:
interpreter, imports, model. `--quick`: under 6 minutes on 2 cores, including the export.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.end_to_end import agree
from bench.recipes.grow import cached, folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import ROOT, finish, machine, spread
from bench.shared.options import MODELS, command_line, fill_in
from bench.shared.timing import ratios, rounds_within
from bench.shared.turns import Turn, Worker
from bench.shared.weights import weights_of
from bench.shared.workloads import WORKLOADS, describe, load_workload
from quals_fast.export.exporter import export
from quals_fast.exported.manifest import DTYPES
from quals_fast.exported.session import runtime

EAGER, ENGINE = "eager float32", "engine auto"
SLIM, FULL = "onnx int8", "torch"

_START = """
import sys
from quals_fast import QualsScorer
scorer = QualsScorer.from_pretrained(sys.argv[1], backend=sys.argv[2], dtype="auto", device="cpu")
scorer.score(["Queen Anne opened the bridge in 1962."], ["The bridge opened in 1962."])
imported = sorted({"torch", "transformers"} & set(sys.modules))
assert not imported or sys.argv[2] == "eager", imported
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""


def exported(folder: Path, dtype: str) -> Path:
    """Return the cached export of a model, made of the present code."""
    code = sorted((ROOT / "quals_fast" / "export").glob("*.py"))
    parts = [*code, folder / "config.json", folder / "model.safetensors"]

    def write(target: Path) -> None:
        export(folder, target, dtype=dtype)

    return cached(f"onnx_{dtype}", parts, write)


def start_up(folder: Path, backend: str) -> tuple[float, float]:
    """Score one short pair in a new process; return its seconds and peak resident memory, MiB."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", _START, str(folder), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"a process failed to start and score: {done.stderr}")
    # The process tells its own peak: rusage would begin with what this one held when it forked.
    return seconds, int(done.stdout) / 1024


def measure_starts(folders: dict[str, tuple[Path, str]], rounds: int) -> dict[str, Any]:
    """Start the processes in turn; the first round only warms the disk's cache."""
    starts: dict[str, list[tuple[float, float]]] = {name: [] for name in folders}
    for turn in range(rounds + 1):
        for name, (folder, backend) in folders.items():
            one = start_up(folder, backend)
            if turn:
                starts[name].append(one)
    ratios = [
        [a / b for a, b in zip(slim, full, strict=True)]
        for slim, full in zip(starts[SLIM], starts[FULL], strict=True)
    ]
    return {
        name: {
            "seconds": spread([seconds for seconds, _ in own]),
            "peak_mib": spread([peak for _, peak in own]),
        }
        for name, own in starts.items()
    } | {
        "slim_of_torch": {
            "seconds": spread([seconds for seconds, _ in ratios]),
            "peak_mib": spread([peak for _, peak in ratios]),
        }
    }


def run_model(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one model's workloads and start-ups."""
    folder = folder_of(model)
    exports = {dtype: exported(folder, dtype) for dtype in DTYPES}
    begin = time.perf_counter()
    workers = {
        EAGER: Worker(EngineArm, folder, "float32", "eager"),
        ENGINE: Worker(EngineArm, folder, "auto", "eager"),
        **{f"onnx {dtype}": Worker(EngineArm, exports[dtype], "auto", "onnx") for dtype in DTYPES},
    }
    cases: dict[str, Any] = {}
    try:
        warm = load_workload("short", arguments.data, 1)
        for worker in workers.values():
            worker.score(warm, [])
        share = arguments.limit / len(arguments.models) - (time.perf_counter() - begin)
        for workload in arguments.workloads:
            rows = load_workload(workload, arguments.data, arguments.agreement_rows)
            seconds = max(0.0, share) / len(arguments.workloads)
            cases[workload] = run_case(workers, rows, arguments, seconds)
        facts = {name: worker.close() for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.kill()
    processes = {FULL: (folder, "eager"), SLIM: (exports["int8"], "onnx")}
    return {
        "facts": facts,
        "workloads": cases,
        "start_up": measure_starts(processes, arguments.rounds),
        "exported_mib": {
            dtype: sum(path.stat().st_size for path in exports[dtype].iterdir()) / 2**20
            for dtype in DTYPES
        },
    }


def run_case(
    workers: dict[str, Worker], rows: list[Any], arguments: argparse.Namespace, limit: float
) -> dict[str, Any]:
    """Let the arms take turns on the timed rows, then compare them on as many as time allows."""
    begin = time.perf_counter()
    timed = rows[: arguments.rows]
    turns: dict[str, list[Turn]] = {name: [] for name in workers}
    for _ in rounds_within(limit, arguments.rounds):
        for name, worker in workers.items():
            turns[name].append(worker.score(timed, []))
    times = {name: [turn.seconds for turn in own] for name, own in turns.items()}
    a_row = sum(min(own) for own in times.values()) / len(timed)
    count = int((limit - (time.perf_counter() - begin)) / a_row)
    more = rows[: max(len(timed), count)]
    last = {
        name: own[-1] if len(more) == len(timed) else workers[name].score(more, [])
        for name, own in turns.items()
    }
    return {
        "rows": len(timed),
        "sizes": describe(timed),
        "seconds_per_summary": {
            name: spread([seconds / len(timed) for seconds in own]) for name, own in times.items()
        },
        "speedup_vs_eager_float32": {
            name: ratios(times[EAGER], own) for name, own in times.items()
        },
        "agreement": {name: agree(turn, last[EAGER]) for name, turn in last.items()},
    }


def summarise(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the figures first that the aims are about, keyed by model and workload."""
    figures: dict[str, Any] = {}
    for model, measured in models.items():
        for workload, case in measured["workloads"].items():
            speedups = figures.setdefault("speedup_vs_eager_float32", {}).setdefault(model, {})
            speedups[workload] = case["speedup_vs_eager_float32"]
            for figure in ("spearman", "mean_abs_delta", "max_abs_delta", "identical_rows"):
                of_model = figures.setdefault(figure, {}).setdefault(model, {})
                of_model[workload] = {name: a[figure] for name, a in case["agreement"].items()}
        figures.setdefault("slim_of_torch", {})[model] = measured["start_up"]["slim_of_torch"]
    return figures


def main() -> None:
    """Run all cases."""
    parser = command_line(__doc__, data=None)
    parser.add_argument("--quick", action="store_true", help="under 6 minutes on 2 cores")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["qagen-mini"], help="default: qagen-mini"
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS], help="both by default"
    )
    parser.add_argument("--rows", type=int, help="rows to time (quick: 5, else 10)")
    parser.add_argument("--rounds", type=int, help="maximum number of rounds (quick: 3, else 5)")
    parser.add_argument(
        "--agreement-rows", type=int, help="rows to compare on (quick: 40, else 100)"
    )
    parser.add_argument(
        "--limit", type=float, help="time for scoring in seconds (quick: 200, else 3600)"
    )
    arguments = parser.parse_args()
    defaults = {"rows": 10, "rounds": 5, "agreement_rows": 100, "limit": 3600.0}
    if arguments.quick:
        defaults = {"rows": 5, "rounds": 3, "agreement_rows": 40, "limit": 200.0}
    fill_in(arguments, defaults)
    arguments.agreement_rows = max(arguments.agreement_rows, arguments.rows)
    models = {model: run_model(model, arguments) for model in arguments.models}
    finish(
        "onnx",
        {
            **summarise(models),
            "data": arguments.data.name if arguments.data else "examples",
            "quick": arguments.quick,
            "versions": machine()["versions"] | {"onnxruntime": runtime().__version__},
            "cases": models,
        },
        weights=weights_of(*models),
    )


if __name__ == "__main__":
    main()
