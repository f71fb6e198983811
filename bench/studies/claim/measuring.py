"""Lets the arms take turns on the same rows: one size of the models after the other."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

from bench.recipes.grow import folder_of
from bench.shared.common import Pair, is_gpu, peak_mib, texts_of
from bench.shared.flops import count_flops
from bench.shared.turns import Worker
from bench.shared.workloads import load_workload, token_count
from bench.studies.claim.arms import (
    ONEDNN,
    TRAINED,
    QagsArm,
    StagedEngineArm,
    Texts,
    arm_names,
    describe_networks,
    replayed_flops,
    start_arm,
)
from bench.studies.claim.plan import Cell, Plan
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.qags import Replay
from quals_fast.qags.scorer import Arm

Rounds = list[list[Pair]]  # the rows of each round


def warm_up(
    arms: dict[str, Worker],
    size: str,
    pairs: list[Pair],
    replays: Mapping[Texts, Replay],
    *,
    counts: bool,
) -> dict[str, float]:
    """Let each arm score a row; return the TFLOPs of it in the float32 arms, where they count.

    The other arms do the same work, but not in operations that can be counted.
    """
    tflop: dict[str, float] = {}
    for name, arm in arms.items():
        is_random = name.startswith("qags") and size != TRAINED
        # QAGS with oneDNN does the work of QAGS as shipped.
        is_same = name.startswith("qags") and name.endswith(ONEDNN)
        is_counted = counts and arm.facts["dtype"] == "float32" and not is_same
        if is_random:
            arm.ask(QagsArm.ask_one, pairs[0])
        elif not is_counted:
            arm.score(pairs[:1], [])
        if is_counted:
            kind: Arm = "as_shipped" if name == "qags_as_shipped" else "batched"
            tflop[name] = (
                replayed_flops(kind, size, replays, pairs[:1])
                if is_random
                else arm.ask(count_flops, pairs[:1])
            ) / 1e12
    return tflop


def capture(arms: dict[str, Worker], pairs: list[Pair]) -> None:
    """Warm up on a GPU, where the engine captures graphs for shapes that come a second time."""
    for name, arm in arms.items():
        if name.startswith("quals_fast"):
            arm.score(pairs, [])
            arm.score(pairs, [])
        else:
            arm.score(pairs[:1], [])


def run_round(arms: dict[str, Worker], pairs: list[Pair], *, times_stages: bool) -> dict[str, Any]:
    """Let the arms score rows in turn.

    Args:
        arms: by name.
        pairs: the rows.
        times_stages: whether the arms that keep no clock of their stages score again for it.
    """
    documents, summaries = texts_of(pairs)
    measured: dict[str, Any] = {
        "seconds": {},
        "scores": {},
        "stages": {},
        "document_tokens": token_count(documents),
        "summary_words": [len(summary.split()) for summary in summaries],
    }
    for name, arm in arms.items():
        turn = arm.score(pairs, [])
        measured["seconds"][name] = turn.seconds / len(pairs)
        measured["scores"][name] = [None if score != score else score for score in turn.scores]
        if name == "quals_fast":
            measured["kept_pairs"] = [len(kept) for kept in turn.kept]
        if turn.stages:
            measured["stages"][name] = turn.stages
        elif times_stages:
            measured["stages"][name] = arm.ask(StagedEngineArm.time_stages, documents, summaries)
    replayed = arms["qags_as_shipped"].ask(QagsArm.get_replayed)
    texts = zip(documents, summaries, strict=True)
    measured["questions"] = [len(replayed[one].questions) for one in texts]
    return measured


def run_size(
    size: str,
    arguments: argparse.Namespace,
    rows: Mapping[str, Rounds],
    replays: Mapping[Texts, Replay],
    plan: Plan,
    done: Mapping[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> dict[Texts, Replay]:
    """Run one size's workloads.

    Args:
        size: of the models.
        arguments: of the command.
        rows: of each workload's rounds.
        replays: what QAGS's random weights replay.
        plan: tells which rounds end in time.
        done: cases of this size that rounds are added to, whose FLOPs are known.
        save: gets what was measured up to then, by workload, after each round.

    Returns:
        What QAGS did with which texts.
    """
    arms: dict[str, Worker] = {}
    cases: dict[str, Any] = {
        workload: {
            "weights": "trained" if size == TRAINED else "random",
            "networks": describe_networks(size),
            "source_tokens": read_checkpoint(folder_of(size))[1].max_source_tokens,
            "tflop": {},
            "rounds": [],
        }
        for workload in rows
    }
    try:
        names = arm_names(arguments.device, arguments.without)
        arms = {name: start_arm(name, size, arguments, replays) for name in names}
        for workload, rounds in rows.items():
            if is_gpu(arguments.device):
                capture(arms, rounds[0])
            else:
                counts = workload not in done
                tflop = warm_up(arms, size, rounds[0], replays, counts=counts)
                cases[workload]["tflop"] = tflop
        for number in range(max(map(len, rows.values()))):
            for workload, rounds in rows.items():
                if number >= len(rounds) or not plan.fits((size, workload)):
                    continue
                started = time.perf_counter()
                measured = run_round(arms, rounds[number], times_stages=number == 0)
                plan.took((size, workload), time.perf_counter() - started)
                cases[workload]["rounds"].append(measured)
                facts = {
                    name: {"dtype": arm.facts["dtype"], "peak_mib": arm.ask(peak_mib)}
                    for name, arm in arms.items()
                }
                begun = {name: case for name, case in cases.items() if case["rounds"]}
                save({name: case | {"facts": facts} for name, case in begun.items()})
        return arms["qags_as_shipped"].ask(QagsArm.get_replayed)
    finally:
        for arm in arms.values():
            arm.kill()


def replay(pairs: list[Pair], arguments: argparse.Namespace) -> dict[Texts, Replay]:
    """Return what the bundled networks of QAGS do with rows."""
    arm = Worker(QagsArm, "batched", device=arguments.device, candidates=arguments.candidates)
    try:
        arm.score(pairs, [])
        return arm.ask(QagsArm.get_replayed)
    finally:
        arm.kill()


def rows_of(
    arguments: argparse.Namespace, size: str, rounds: Mapping[Cell, int], done: Mapping[str, Any]
) -> dict[str, Rounds]:
    """Return the rows of each round and workload, behind those that were scored before.

    Args:
        arguments: of the command.
        size: of the models.
        rounds: to measure.
        done: cases that rounds are added to.
    """
    count = arguments.rows[size]
    rows: dict[str, Rounds] = {}
    for workload in arguments.workloads:
        number = rounds[size, workload]
        if is_gpu(arguments.device):
            rows[workload] = [load_workload(workload, arguments.data, count)] * number
        else:
            before = len(done.get(size, {}).get(workload, {}).get("rounds", []))
            ends = [count * (before + i + 1) for i in range(number)]
            pairs = load_workload(workload, arguments.data, ends[-1]) if ends else []
            rows[workload] = [pairs[end - count : end] for end in ends]
    return {workload: of_rounds for workload, of_rounds in rows.items() if of_rounds}


def run_sizes(
    arguments: argparse.Namespace,
    rounds: Mapping[Cell, int],
    plan: Plan,
    done: Mapping[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Run all sizes, the bundled one first, in the time that there is.

    Args:
        arguments: of the command.
        rounds: to measure.
        plan: tells which of them end in time.
        done: cases that rounds are added to.
        save: gets the new cases after each round.
    """
    cases: dict[str, Any] = {}
    replays: dict[Texts, Replay] = {}
    for size in arguments.models:
        rows = rows_of(arguments, size, rounds, done)
        if not any(plan.fits((size, workload), started=False) for workload in rows):
            continue
        if size != TRAINED:
            pairs = [pair for of_rounds in rows.values() for one in of_rounds for pair in one]
            new = (p for p in pairs if (p.document, p.summary) not in replays)
            missing = list(dict.fromkeys(new))  # on a GPU all rounds have the same rows
            replays |= replay(missing, arguments) if missing else {}

        def save_size(of_size: dict[str, Any], size: str = size) -> None:
            cases[size] = of_size
            save(cases)

        of_size = done.get(size, {})
        replays |= run_size(size, arguments, rows, replays, plan, of_size, save_size)
