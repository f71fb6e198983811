"""Is it "55 times as fast"? QAGS, QUALS as published and the engine, in turn on the same rows.

    python -m bench.claim --quick                   under 10 minutes on 2 cores
    python -m bench.claim --data NEWS.jsonl         as many rounds as --limit allows
    python -m bench.claim --quick --add --models bart-base      more rounds for the last result
    python -m bench.claim --prepare ANSWERS.json    stores answer candidates, for machines
                                                    without spaCy (--candidates ANSWERS.json)
    python -m bench.claim --page                    writes the page anew from the last result

Each arm lives in a process of its own; only one works at a time, and loading and a first row, whose
FLOPs are counted, warm it up. On a CPU each round takes rows of its own, so that the spread is that
of texts too; on a GPU the same, since graphs are captured for shapes that come again. Sizes: the
bundled models with their trained weights; the sizes of BART-base and BERT-base (`bart-base`), on a
GPU those of the large ones (`bart-large`). There QAGS has random weights and replays what the
bundled networks did on the same rows, and QUALS runs the bundled model grown to the size
(bench/recipes/grow.py). Writes bench/results/claim.json after each round, bench/CLAIM.md and
bench/claim.svg; on a GPU claim_gpu.json, CLAIM_GPU.md and claim_gpu.svg.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.onnx import exported
from bench.recipes.grow import folder_of
from bench.shared.common import (
    RESULTS,
    Pair,
    finish,
    is_gpu,
    machine,
    peak_mib,
    result_name,
    texts_of,
)
from bench.shared.flops import count_flops
from bench.shared.options import EVERY_MODEL, TINY, command_line, fill_in
from bench.shared.turns import Worker
from bench.shared.workloads import WORKLOADS, load_workload, token_count
from bench.studies.claim.agreement import agreement
from bench.studies.claim.arms import (
    TRAINED,
    PublishedArm,
    QagsArm,
    StagedEngineArm,
    Texts,
    describe_networks,
    replayed_flops,
)
from bench.studies.claim.figures import add_cases, check_same_setup, summarise
from bench.studies.claim.page import page, plot, verdict
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.qags import GivenAnswers, Replay, SpacyAnswers
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
    found: dict[str, Any] = {
        "seconds": {},
        "scores": {},
        "stages": {},
        "document_tokens": token_count(documents),
        "summary_words": [len(summary.split()) for summary in summaries],
    }
    for name, arm in arms.items():
        turn = arm.score(pairs, [])
        found["seconds"][name] = turn.seconds / len(pairs)
        found["scores"][name] = [None if score != score else score for score in turn.scores]
        if name == "quals_fast":
            found["kept_pairs"] = [len(kept) for kept in turn.kept]
        if turn.stages:
            found["stages"][name] = turn.stages
        elif times_stages:
            found["stages"][name] = arm.ask(StagedEngineArm.time_stages, documents, summaries)
    replayed = arms["qags_batched"].ask(QagsArm.get_replayed)
    texts = zip(documents, summaries, strict=True)
    found["questions"] = [len(replayed[one].questions) for one in texts]
    return found


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
                    found = run_round(arms, rounds[number], times_stages=number == 0)
                    cases[workload]["rounds"].append(found)
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

        def save_size(found: dict[str, Any], size: str = size) -> None:
            cases[size] = found
            save(cases)

        replays |= run_size(size, arguments, rows, replays, share, save_size)
        del waiting[0]


def prepare(arguments: argparse.Namespace) -> None:
    """Store the answer candidates of the workloads' summaries, and how long spaCy took."""
    pairs = [
        pair
        for name in arguments.workloads
        for pair in load_workload(name, arguments.data, arguments.rows or 100)
    ]
    summaries = list(dict.fromkeys(pair.summary for pair in pairs))
    extractor = SpacyAnswers()
    extractor.extract(summaries[:1])
    start = time.perf_counter()
    found = extractor.extract(summaries)
    each = (time.perf_counter() - start) / len(summaries)
    candidates = dict(zip(summaries, found, strict=True))
    GivenAnswers(candidates, name=extractor.name, seconds=each).save(arguments.prepare)
    print(json.dumps({"summaries": len(summaries), "spacy_seconds_per_summary": each}))


def write_page(result: dict[str, Any], name: str) -> None:
    """Write CLAIM.md and its plot, or CLAIM_GPU.md, beside the folder of results."""
    folder = RESULTS.parent
    (folder / f"{name.upper()}.md").write_text(page(result, agreement(), name), "utf-8")
    plot(result, folder / f"{name}.svg")


def main() -> None:
    """Measure, write, draw."""
    parser = command_line(__doc__, data=None, device="cpu")
    parser.add_argument("--quick", action="store_true", help="under 10 minutes on 2 cores")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=EVERY_MODEL,
        help="(GPU: qagen-mini bart-large, else bart-base)",
    )
    parser.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS])
    parser.add_argument(
        "--without", nargs="+", choices=OPTIONAL, default=[], help="arms that are left out"
    )
    parser.add_argument("--rows", type=int, help="of a round (1; GPU: 50)")
    parser.add_argument("--rounds", type=int, help="at most (quick: 3, else 10)")
    parser.add_argument(
        "--limit",
        type=float,
        help="seconds, behind which only first rounds begin (quick: 540, else 3600)",
    )
    parser.add_argument("--add", action="store_true", help="add rounds to the last result")
    parser.add_argument("--candidates", type=Path, help="what --prepare has stored")
    parser.add_argument("--prepare", type=Path, metavar="FILE", help="store candidates, and end")
    parser.add_argument("--page", action="store_true", help="write the page, and end")
    arguments = parser.parse_args()
    if arguments.prepare:
        return prepare(arguments)
    on_gpu = is_gpu(arguments.device)
    name = result_name("claim", arguments.device)
    stored = RESULTS / f"{name}.json"
    if (arguments.page or arguments.add) and not stored.is_file():
        parser.error(f"there is no {stored} yet: run without --page and --add")
    last = json.loads(stored.read_text("utf-8")) if stored.is_file() else {}
    if arguments.page:
        return write_page(last, name)
    defaults: dict[str, Any] = {"rows": 50 if on_gpu else 1, "rounds": 10, "limit": 3600.0}
    defaults["models"] = [TRAINED, "bart-large" if on_gpu else "bart-base"]
    if arguments.quick:
        defaults |= {"rounds": 3, "limit": 540.0}
    fill_in(arguments, defaults)
    about = machine()
    found = {
        "data": arguments.data.name if arguments.data else "the project's examples",
        "rows_a_round": arguments.rows,
        "device": about["gpu"] or f"{about['cpu']}, {about['threads']} threads",
        "versions": about["versions"],
        "cases": last["cases"] if arguments.add else {},
        "commits": last["commits"] if arguments.add else [],
    }
    if arguments.add:
        try:
            check_same_setup(last, found)
        except ValueError as error:
            parser.error(str(error))
    commit = about["commit"] + (" with uncommitted changes" if about["dirty"] else "")
    found["commits"] = list(dict.fromkeys([*found["commits"], commit]))
    before = found["cases"]

    def result() -> dict[str, Any]:
        return {"verdict": verdict(found), **summarise(found["cases"]), **found}

    def save(cases: dict[str, Any]) -> None:
        found["cases"] = add_cases(before, cases)
        finish("claim", result(), arguments.device)

    run_sizes(arguments, before, save)
    write_page({**result(), "machine": about}, name)


if __name__ == "__main__":
    main()
