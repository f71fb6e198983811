"""How fast is the engine from texts to scores, against the published pipeline and CTranslate2?

    python -m bench.end_to_end --quick
    python -m bench.end_to_end --data ../shared/data/docsum_pairs.jsonl.gz

Each arm runs in its own process, so that its peak memory can be measured. The arms take turns,
round by round, on the same rows; only one runs at a time. They warm up by loading and scoring a
separate row first; on a GPU the engine scores the rows twice, since it captures its graphs the
second time. Ratios are computed within a round. Rounds stop when the case's share of `--limit` is
spent; there is always at least one, and the result is written after each case. On a CPU it replaces
the figures of the models that were measured, and keeps those of others. `--quick`: 10 rows (two
published batches) of the bundled model, 5 of the others, 3 rounds, both workloads; on 2 cores, 9
minutes for the bundled model and 12 to 15 for BART-base.

The size of T5-base, for which CTranslate2 is left out, takes about 20 minutes:

    python -m bench.end_to_end --quick --models t5-base --limit 1800 --data FILE

Agreement: the engine's float32 scores are compared with the reference's on the timed rows, and
every other type of the engine with its float32 scores on more rows. On a GPU the reference computes
in float16, as published, so the engine in float16 is also compared with it; `dtypes` says which
types were compared. `identical_sequences` is the share of the kept pairs, as token ids, that both
kept. CTranslate2 does less work (see bench/shared/arms.py), but is compared with the engine's whole
job.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from bench.floor import achieved, rates, works_of
from bench.recipes.grow import folder_of
from bench.shared import common
from bench.shared.arms import CTranslate2Arm, EngineArm, Kept, ReferenceArm
from bench.shared.common import Pair, finish, is_gpu, machine, peak_mib, spread
from bench.shared.options import EVERY_MODEL, T5S, TINY, command_line, fill_in
from bench.shared.timing import ratios, rounds_within
from bench.shared.turns import Turn, Worker
from bench.shared.weights import Weights, weights_of
from bench.shared.workloads import WORKLOADS, describe, load_workload

WEIGHTS = {"qagen-mini": 1.0, "bart-base": 2.0, "bart-large": 8.0, "t5-small": 1.0, "t5-base": 4.0,
           TINY: 1.0}  # of the limit  # fmt: skip
ROWS = dict.fromkeys(WEIGHTS, 5) | {"qagen-mini": 10, TINY: 2}  # timed with --quick
REFERENCE, CTRANSLATE2, EXACT = "reference", "ctranslate2", "float32"


def start_workers(
    folder: Path, dtypes: Sequence[str], device: str, *, has_ctranslate2: bool
) -> tuple[dict[str, Worker], str]:
    """Start a process for each arm: the reference, the engine in each type, CTranslate2.

    Args:
        folder: of the model.
        dtypes: of the engine.
        device: by torch's name of it.
        has_ctranslate2: whether CTranslate2 is an arm.

    Returns:
        The arms, engines by the type that they run in, and the type that the last of `dtypes` is.
    """
    published = "float16" if is_gpu(device) else "float32"
    workers = {REFERENCE: Worker(ReferenceArm, folder, device=device, dtype_name=published)}
    chosen = EXACT
    for dtype in dtypes:
        worker = Worker(EngineArm, folder, dtype, device=device)
        chosen = str(worker.facts["dtype"])
        if chosen in workers:
            worker.close()  # "auto" is one of the others
        else:
            workers[chosen] = worker
    if has_ctranslate2:
        CTranslate2Arm(folder)  # converts here, so that the worker's peak memory is not that
        workers[CTRANSLATE2] = Worker(CTranslate2Arm, folder)
    return workers, chosen


def run_case(
    workers: dict[str, Worker], pairs: list[Pair], more: list[Pair], rounds: int, seconds: float
) -> dict[str, Any]:
    """Let the arms take turns on a workload's rows; report time, agreement and counted work.

    Args:
        workers: the arms; engines by their type.
        pairs: rows that all arms score.
        more: rows that the engines score for their agreement.
        rounds: at most.
        seconds: after which no round begins that would not end in time.
    """
    begin = time.perf_counter()
    engines = [name for name in workers if name not in (REFERENCE, CTRANSLATE2)]
    kept: Kept = []
    turns: dict[str, list[Turn]] = {name: [] for name in workers}
    for _ in rounds_within(seconds, rounds):
        for name, worker in workers.items():  # CTranslate2 last: it scores what an engine kept
            turns[name].append(worker.score(pairs, kept))
            if name in engines:
                kept = turns[name][-1].kept
    exact = EXACT if EXACT in engines else engines[0]
    works = workers[exact].ask(works_of, pairs)
    times = {name: [turn.seconds for turn in own] for name, own in turns.items()}
    left = seconds - (time.perf_counter() - begin)
    a_row = sum(min(times[name]) for name in engines) / len(pairs)
    more = more[: max(0, int(left / a_row))] if len(engines) > 1 else []
    last = {name: own[-1] for name, own in turns.items()}
    published = workers[REFERENCE].facts["dtype"]
    agreement: dict[str, dict[str, Any]] = {
        f"{name}_vs_{REFERENCE}": {"dtypes": [name, published]} | agree(last[name], last[REFERENCE])
        for name in engines
        if name in (exact, published)
    }
    for name in engines:
        if name != exact:
            one, other = (
                workers[n].score(more, []) if len(more) > len(pairs) else last[n]
                for n in (name, exact)
            )
            agreement[f"{name}_vs_{exact}"] = {"dtypes": [name, exact]} | agree(one, other)
    speedups = {
        f"speedup_vs_{base}": {name: ratios(times[base], times[name]) for name in engines}
        for base in (REFERENCE, CTRANSLATE2)
        if base in workers
    }
    return {
        "rows": len(pairs),
        "rounds": len(times[REFERENCE]),
        "sizes": describe(pairs),
        "kept_pairs": sum(map(len, last[exact].kept)) / len(pairs),
        "seconds_per_summary": {
            name: spread([t / len(pairs) for t in own]) for name, own in times.items()
        },
        **speedups,
        "agreement": agreement,
        "works": works,
    }


def agree(one: Turn, other: Turn) -> dict[str, float | int | None]:
    """Compare two arms' scores and kept pairs; Spearman is None where it means nothing."""
    both = [
        (a, b) for a, b in zip(one.scores, other.scores, strict=True) if a == a and b == b
    ]  # NaN has no pairs
    deltas = [abs(a - b) for a, b in both]
    shared = sum(len({*a} & {*b}) for a, b in zip(one.kept, other.kept, strict=True))
    most = sum(max(len({*a}), len({*b})) for a, b in zip(one.kept, other.kept, strict=True))
    spearman = None
    if len(both) >= 3 and all(len(set(values)) > 1 for values in zip(*both, strict=True)):
        spearman = float(spearmanr(*zip(*both, strict=True)).statistic)
    return {
        "identical_sequences": shared / most if most else 1.0,
        "identical_rows": sum(a == b for a, b in zip(one.kept, other.kept, strict=True)),
        "max_abs_delta": max(deltas, default=None),
        "mean_abs_delta": sum(deltas) / len(deltas) if deltas else None,
        "spearman": spearman,
        "rows": len(one.scores),
    }


def run_model(
    model: str, arguments: argparse.Namespace, save: Callable[[dict[str, Any]], None]
) -> None:
    """Run one model's workloads; `save` gets what was measured up to then after each of them."""
    share = arguments.limit * WEIGHTS[model] / sum(WEIGHTS[m] for m in arguments.models)
    folder = folder_of(model)
    begin = time.perf_counter()
    workers, chosen = start_workers(
        folder,
        arguments.dtypes,
        arguments.device,
        has_ctranslate2=not arguments.no_ctranslate2 and model not in T5S,
    )
    of_model: dict[str, Any] = {"arm": chosen, "workloads": {}}
    try:
        warm = load_workload("short", arguments.data, 1)
        of_model["warm_up_seconds"] = {
            name: worker.score(warm, []).seconds for name, worker in workers.items()
        }
        engines = [name for name in workers if name not in (REFERENCE, CTRANSLATE2)]
        measured = rates(arguments.device, engines)
        left = share - (time.perf_counter() - begin)
        for workload in arguments.workloads:
            timed_rows = arguments.rows or ROWS[model]
            rows = load_workload(
                workload, arguments.data, max(timed_rows, arguments.agreement_rows)
            )
            timed = rows[:timed_rows]
            seconds = max(0.0, left) / len(arguments.workloads)
            if is_gpu(arguments.device):
                for name in engines * 2:
                    workers[name].score(timed, [])
            case = run_case(workers, timed, rows, arguments.rounds, seconds)
            works, times = case.pop("works"), case["seconds_per_summary"]
            case["floor"] = {
                name: achieved(folder, works, times[name]["median"] * len(works), name, measured)
                for name in engines
            }
            of_model["workloads"][workload] = case
            of_model["facts"] = {
                name: worker.facts | {"peak_mib": worker.ask(peak_mib)}
                for name, worker in workers.items()
            }
            save(of_model)
    finally:
        for worker in workers.values():
            worker.kill()


def summarise(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the figures of the chosen engine arm first, keyed by model and workload."""
    figures: dict[str, Any] = {}
    for model, measured in models.items():
        for workload, case in measured["workloads"].items():
            for figure in (f"speedup_vs_{REFERENCE}", f"speedup_vs_{CTRANSLATE2}"):
                if figure in case:
                    of_model = figures.setdefault(figure, {}).setdefault(model, {})
                    of_model[workload] = case[figure][measured["arm"]]
            for figure in ("identical_sequences", "max_abs_delta", "mean_abs_delta", "spearman"):
                of_model = figures.setdefault(figure, {}).setdefault(model, {})
                of_model[workload] = {n: a[figure] for n, a in case["agreement"].items()}
            figures.setdefault("rows", {}).setdefault(model, {})[workload] = case["rows"]
        facts = measured["facts"]
        figures.setdefault("peak_mib", {})[model] = {n: f["peak_mib"] for n, f in facts.items()}
        for what in ("dtype", "backend"):
            figures.setdefault(what, {})[model] = facts[measured["arm"]][what]
    return figures


def measured_before(path: Path) -> tuple[dict[str, Any], Weights]:
    """Return the models of a result that is there already, and their weights."""
    if not path.is_file():
        return {}, {}
    result = json.loads(path.read_text("utf-8"))
    shared = {name: result[name] for name in ("data", "quick", "machine")}
    models = {model: shared | of_model for model, of_model in result["cases"].items()}
    return models, {model: result["weights"][model] for model in models}


def main() -> None:
    """Run all cases."""
    parser = command_line(__doc__, data=None, device="cpu")
    parser.add_argument("--quick", action="store_true", help="under 9 minutes on 2 cores")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=(*EVERY_MODEL, *T5S),
        default=["qagen-mini", "bart-base"],
        help="default: qagen-mini bart-base",
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS], help="both by default"
    )
    parser.add_argument("--rows", type=int, help="rows to time (quick: 10 or 5, else 10)")
    parser.add_argument("--rounds", type=int, help="maximum number of rounds (quick: 3, else 5)")
    parser.add_argument(
        "--agreement-rows", type=int, help="rows to compare scores on (quick: 10, else 100)"
    )
    parser.add_argument("--limit", type=float, help="seconds, at most (quick: 3000, else 5400)")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        default=["float32", "auto"],
        help="types of the engine (default: float32 auto)",
    )
    parser.add_argument(
        "--no-ctranslate2", action="store_true", help="leave out CTranslate2, as always on a GPU"
    )
    arguments = parser.parse_args()
    defaults = {"rows": 10, "rounds": 5, "agreement_rows": 100, "limit": 5400}
    if arguments.quick:
        defaults = {"rounds": 3, "agreement_rows": 10, "limit": 3000}
    fill_in(arguments, defaults)
    arguments.no_ctranslate2 |= is_gpu(arguments.device)
    others = {} if arguments.no_ctranslate2 else {"ctranslate2": version("ctranslate2")}
    models: dict[str, dict[str, Any]] = {}
    weights: Weights = {}
    if not is_gpu(arguments.device):  # a GPU's page is of one model
        models, weights = measured_before(common.RESULTS / "end_to_end.json")
    data = arguments.data.name if arguments.data else "examples"

    def save(model: str, case: dict[str, Any]) -> None:
        run = {"data": data, "quick": arguments.quick, "machine": machine()}
        models[model] = run | case
        weights.update(weights_of(model))
        finish(
            "end_to_end",
            {
                **summarise(models),
                "data": data,
                "quick": arguments.quick,
                "versions": machine()["versions"] | others,
                "cases": models,
            },
            arguments.device,
            weights=weights,
        )

    for model in arguments.models:
        run_model(model, arguments, partial(save, model))


if __name__ == "__main__":
    main()
