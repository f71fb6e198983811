"""Lets the arms take turns on the same rows: one size of the models after the other."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import Pair, is_gpu, peak_mib, texts_of
from bench.shared.flops import count_flops
from bench.shared.options import EVERY_MODEL, TINY
from bench.shared.turns import Worker
from bench.shared.workloads import load_workload, token_count
from bench.studies.claim.arms import (
    TRAINED,
    PublishedArm,
    QagsArm,
    StagedEngineArm,
    Texts,
    describe_networks,
    replayed_flops,
)
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.qags import Replay
from quals_fast.qags.scorer import Arm

WEIGHTS = {"qagen-mini": 2.0, "bart-base": 3.0, "bart-large": 6.0, TINY: 1.0}  # of the time limit
# What the ratios do not need and `--without` leaves out.
OPTIONAL = (
    "qags_batched_half",
    "quals_once",
    "quals_fast_eager",
    "quals_fast_onnx",
    "quals_fast_onnx_int8",
)

Rounds = list[list[Pair]]  # the rows of each round


def start_arms(
    size: str, arguments: argparse.Namespace, replays: Mapping[Texts, Replay]
) -> dict[str, Worker]:
    """Start a process for each arm, by its name."""
    device, folder = arguments.device, folder_of(size)
    given = {"device": device, "replays": replays, "candidates": arguments.candidates}
    arms = {
        "qags_as_shipped": partial(Worker, QagsArm, "as_shipped", size, **given),
        "qags_batched": partial(Worker, QagsArm, "batched", size, **given),
    }
    if is_gpu(device) or torch.cpu._is_avx512_bf16_supported():
        half = "float16" if is_gpu(device) else "bfloat16"
        arms["qags_batched_half"] = partial(Worker, QagsArm, "batched", size, half, **given)
    arms |= {
        "quals_published": partial(Worker, PublishedArm, folder, device=device),
        "quals_once": partial(Worker, PublishedArm, folder, device=device, encode_once=True),
        "quals_fast_float32": partial(Worker, StagedEngineArm, folder, "float32", device=device),
        "quals_fast": partial(Worker, StagedEngineArm, folder, "auto", device=device),
    }
    if is_gpu(device):
        arms["quals_fast_eager"] = partial(
            Worker, StagedEngineArm, folder, "auto", "eager", device=device
        )
    elif size == TRAINED or not arguments.quick:  # the export of a larger one takes minutes
        for name, dtype in (("quals_fast_onnx", "float32"), ("quals_fast_onnx_int8", "int8")):
            if name not in arguments.without:
                export = exported(folder, dtype)
                arms[name] = partial(Worker, StagedEngineArm, export, "auto", "onnx")
    return {name: start() for name, start in arms.items() if name not in arguments.without}


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
        is_exported = name.startswith("quals_fast_onnx")
        is_counted = counts and arm.facts["dtype"] == "float32" and not is_exported
        is_random = name.startswith("qags") and size != TRAINED
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
    replayed = arms["qags_batched"].ask(QagsArm.get_replayed)
    texts = zip(documents, summaries, strict=True)
    measured["questions"] = [len(replayed[one].questions) for one in texts]
    return measured


def run_size(
    size: str,
    arguments: argparse.Namespace,
    rows: Mapping[str, Rounds],
    replays: Mapping[Texts, Replay],
    seconds: float,
    save: Callable[[dict[str, Any]], None],
) -> dict[Texts, Replay]:
    """Run one size's workloads.

    Args:
        size: of the models.
        arguments: of the command.
        rows: of each workload.
        replays: what QAGS's random weights replay.
        seconds: behind which no round but the first begins that would not end in time.
        save: gets what was measured up to then, by workload, after each round.

    Returns:
        What QAGS did with which texts.
    """
    begin = time.perf_counter()
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
        arms = start_arms(size, arguments, replays)
        for workload, rounds in rows.items():
            if is_gpu(arguments.device):
                capture(arms, rounds[0])
            else:
                cases[workload]["tflop"] = warm_up(
                    arms, size, rounds[0], replays, counts=not arguments.add
                )
        longest = dict.fromkeys(rows, 0.0)
        for number in range(max(map(len, rows.values()))):
            for workload, rounds in rows.items():
                started = time.perf_counter()
                late = started - begin + longest[workload] > seconds
                if number < len(rounds) and not (number and late):
                    measured = run_round(arms, rounds[number], times_stages=number == 0)
                    cases[workload]["rounds"].append(measured)
                    longest[workload] = max(longest[workload], time.perf_counter() - started)
                    facts = {
                        name: {"dtype": arm.facts["dtype"], "peak_mib": arm.ask(peak_mib)}
                        for name, arm in arms.items()
                    }
                    begun = {name: case for name, case in cases.items() if case["rounds"]}
                    save({name: case | {"facts": facts} for name, case in begun.items()})
        return arms["qags_batched"].ask(QagsArm.get_replayed)
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


def rows_of(arguments: argparse.Namespace, size: str, done: Mapping[str, Any]) -> dict[str, Rounds]:
    """Return the rows of each round and workload, behind those that were scored before.

    Args:
        arguments: of the command.
        size: of the models.
        done: cases that rounds are added to.
    """
    rows: dict[str, Rounds] = {}
    for workload in arguments.workloads:
        if is_gpu(arguments.device):
            rows[workload] = [load_workload(workload, arguments.data, arguments.rows)]
            rows[workload] *= arguments.rounds
            continue
        before = len(done.get(size, {}).get(workload, {}).get("rounds", []))
        ends = [arguments.rows * (before + number + 1) for number in range(arguments.rounds)]
        pairs = load_workload(workload, arguments.data, ends[-1])
        rows[workload] = [pairs[end - arguments.rows : end] for end in ends]
    return rows


def run_sizes(
    arguments: argparse.Namespace,
    done: Mapping[str, Any],
    save: Callable[[dict[str, Any]], None],
) -> None:
    """Run all sizes, the bundled one first, in the time that there is.

    Args:
        arguments: of the command.
        done: cases that rounds are added to.
        save: gets the new cases after each round.
    """
    begin = time.perf_counter()
    cases: dict[str, Any] = {}
    replays: dict[Texts, Replay] = {}
    waiting = sorted(arguments.models, key=EVERY_MODEL.index)
    while waiting:
        size = waiting[0]
        rows = rows_of(arguments, size, done)
        if size != TRAINED:
            pairs = [pair for rounds in rows.values() for one in rounds for pair in one]
            new = (p for p in pairs if (p.document, p.summary) not in replays)
            missing = list(dict.fromkeys(new))  # on a GPU all rounds have the same rows
            replays |= replay(missing, arguments) if missing else {}
        left = arguments.limit - (time.perf_counter() - begin)
        share = left * WEIGHTS[size] / sum(WEIGHTS[name] for name in waiting)

        def save_size(of_size: dict[str, Any], size: str = size) -> None:
            cases[size] = of_size
            save(cases)

        replays |= run_size(size, arguments, rows, replays, share, save_size)
        del waiting[0]
