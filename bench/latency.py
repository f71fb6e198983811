"""How long does one pair take with each engine, scored alone, and what share of the floor is that?

    python -m bench.latency [--data FILE]

Each engine has a process of its own. All take turns on pairs that are new to them, so that a slower
or faster minute hits all alike. When the time left just suffices for it, the default engine goes on
alone until it has scored all pairs. Results are written every few pairs. For GPUs there is
`python -m bench.gpu.pair`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.end_to_end import agree
from bench.floor import Work, achieved, rates, works_of
from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm, Kept
from bench.shared.common import Pair, finish, spread
from bench.shared.options import command_line
from bench.shared.timing import percentiles_ms, ratios, rotated
from bench.shared.turns import Turn, Worker
from bench.shared.weights import weights_of
from bench.shared.workloads import WORKLOADS, describe, load_workload

DEFAULT = "PyTorch auto"
COUNTED = 25  # pairs of a workload whose least work is counted, which takes another search
WRITE_EVERY = 20


class Case(NamedTuple):
    """A workload and what was measured on it, engine by engine.

    Attributes:
        pairs: in the order in which they are scored.
        works: what the first pairs ask for.
        turns: by engine, one a pair; all engines begin with the first pair.
    """

    pairs: list[Pair]
    works: list[Work]
    turns: dict[str, list[Turn]]


def start(folder: Path) -> dict[str, Worker]:
    """Start a process for each engine."""
    return {
        DEFAULT: Worker(EngineArm, folder, "auto", "eager"),
        "PyTorch float32": Worker(EngineArm, folder, "float32", "eager"),
        "ONNX float32": Worker(EngineArm, exported(folder, "float32"), "auto", "onnx"),
        "ONNX int8": Worker(EngineArm, exported(folder, "int8"), "auto", "onnx"),
    }


def signature(arm: EngineArm) -> str:
    """Return the signature of an engine's scores."""
    return arm.scorer.signature


def counted(arm: EngineArm, pair: Pair, kept: Kept) -> Work:
    """Count what a pair asks for, whose kept pairs are known."""
    arm.kept = kept
    return works_of(arm, [pair])[0]


def joined(turns: Sequence[Turn]) -> Turn:
    """Return turns of one pair each as one turn."""
    return Turn(
        sum(turn.seconds for turn in turns),
        [score for turn in turns for score in turn.scores],
        [kept for turn in turns for kept in turn.kept],
        {},
    )


def agreement(turns: Sequence[Turn], others: Sequence[Turn]) -> dict[str, Any]:
    """Compare scores and kept pairs; `max_abs_delta_same_pairs` is of rows that kept the same."""
    both = list(zip(turns, others, strict=True))
    same = [(a, b) for a, b in both if {*a.kept[0]} == {*b.kept[0]}]
    of_same = agree(joined([a for a, _ in same]), joined([b for _, b in same]))
    compared = agree(joined(turns), joined(others))
    return compared | {
        "rows_same_pairs": len(same),
        "max_abs_delta_same_pairs": of_same["max_abs_delta"],
    }


def figures(
    case: Case, engine: str, dtype: str, folder: Path, measured: dict[str, float]
) -> dict[str, Any]:
    """Return one engine's figures on a workload."""
    turns = case.turns[engine]
    seconds = [turn.seconds for turn in turns]
    floors = [
        achieved(folder, [work], taken, dtype, measured)
        for work, taken in zip(case.works, seconds, strict=False)  # only the first are counted
    ]
    result = {
        "dtype": dtype,
        "one_pair_ms": percentiles_ms(seconds),
        "floor_ms": spread([1000 * floor["floor_seconds"] for floor in floors]),
        "share_of_floor": spread([floor["share"] for floor in floors]),
    }
    if engine == DEFAULT:
        return result
    others = case.turns[DEFAULT][: len(turns)]
    return result | {
        "times_as_long_as_default": ratios(seconds, [turn.seconds for turn in others]),
        "agreement_with_default": agreement(turns, others),
    }


def score(workers: dict[str, Worker], case: Case, index: int, engines: Sequence[str]) -> None:
    """Let engines score one of a workload's pairs."""
    pair = case.pairs[index]
    for name in engines:
        case.turns[name].append(workers[name].score([pair], []))
    if index < COUNTED:
        kept = case.turns[DEFAULT][index].kept
        case.works.append(workers[DEFAULT].ask(counted, pair, kept))


def seconds_for(cases: Sequence[Case], rows: int) -> float:
    """Estimate how long the default engine needs for so many pairs of each workload."""
    of_each = (case.turns[DEFAULT] for case in cases)
    return rows * sum(statistics.mean(turn.seconds for turn in turns) for turns in of_each)


def main() -> None:
    """Measure, and write bench/results/latency.json as it goes."""
    parser = command_line(__doc__, data=None, model="qagen-mini")
    parser.add_argument("--rows", type=int, default=200, help="different pairs of each workload")
    parser.add_argument("--limit", type=float, default=600, help="seconds for scoring")
    arguments = parser.parse_args()
    try:
        texts = {name: load_workload(name, arguments.data, arguments.rows) for name in WORKLOADS}
    except ValueError as error:
        parser.error(str(error))
    folder = folder_of(arguments.model)
    workers = start(folder)
    try:
        facts = {name: worker.facts for name, worker in workers.items()}
        dtypes = {name: one["dtype"] or "float32" for name, one in facts.items()}
        for worker in workers.values():  # the first call is slow
            worker.score([pairs[-1] for pairs in texts.values()], [])
        measured = rates("cpu", dtypes.values())
        cases = {name: Case(pairs, [], {n: [] for n in workers}) for name, pairs in texts.items()}
        result: dict[str, Any] = {
            "model": arguments.model,
            "data": arguments.data.name if arguments.data else "examples",
            "signatures": {name: worker.ask(signature) for name, worker in workers.items()},
            "rates_per_s": measured,
        }

        def write() -> None:
            result["workloads"] = {
                name: {
                    "sizes": describe(case.pairs),
                    "engines": {
                        engine: figures(case, engine, dtype, folder, measured)
                        for engine, dtype in dtypes.items()
                    },
                }
                for name, case in cases.items()
            }
            finish("latency", result, weights=weights_of(arguments.model))

        begin, is_alone = time.perf_counter(), False
        for index in range(arguments.rows):
            left = arguments.limit - (time.perf_counter() - begin)
            if index >= 2:  # the fewest that have percentiles
                rest = seconds_for([*cases.values()], arguments.rows - index)
                is_alone = is_alone or rest > left
                if left < 0:
                    break
            for case in cases.values():
                engines = [DEFAULT] if is_alone else rotated([*workers], index)
                score(workers, case, index, engines)
            if index % WRITE_EVERY == WRITE_EVERY - 1:
                write()
        write()
    finally:
        for worker in workers.values():
            worker.kill()


if __name__ == "__main__":
    main()
