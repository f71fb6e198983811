"""Is it "55 times as fast"? QAGS, QUALS as published and the engine, in turn on the same rows.

    python -m bench.claim --quick                   under 10 minutes on 2 cores
    python -m bench.claim --data NEWS.jsonl         as many rows and rounds as --limit allows
    python -m bench.claim --prepare ANSWERS.json    stores answer candidates, for machines
                                                    without spaCy (--candidates ANSWERS.json)
    python -m bench.claim --page                    writes the page anew from the last result

Each arm lives in a process of its own; only one works at a time, and loading and a first row, whose
FLOPs are counted, warm it up. Sizes: the bundled models with their trained weights; the sizes of
BART-base and BERT-base (`bart-base`), on a GPU those of the large ones (`bart-large`). There QAGS
has random weights and replays what the bundled networks did on the same rows, and QUALS runs the
bundled model grown to the size (bench/grow.py). Writes bench/results/claim.json, bench/CLAIM.md
and bench/claim.svg.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.claim.agreement import agreement
from bench.claim.arms import PublishedArm, QagsArm, StagedEngineArm, Texts
from bench.claim.page import page, plot, verdict
from bench.common import RESULTS, ROOT, Pair, fill_in, finish, machine, spread
from bench.end_to_end import agree
from bench.flops import count_flops
from bench.grow import MODELS, folder_of
from bench.onnx import exported
from bench.turns import Turn, Worker
from bench.workloads import WORKLOADS, describe, load_workload
from quals_fast.reference.qags import GivenAnswers, Replay, SpacyAnswers

WEIGHTS = {"qagen-mini": 1.0, "bart-base": 4.0, "bart-large": 8.0}  # of the time limit
GPU_TOKENS = 262_144  # that the engine holds at once there; QAGS takes 131,072 of its own
BASES = {  # what an arm's scores must agree with
    "qags_batched": "qags_as_shipped",
    "qags_batched_half": "qags_batched",
    "quals_once": "quals_published",
    "quals_fast_float32": "quals_published",
    "quals_fast": "quals_fast_float32",
    "quals_fast_eager": "quals_fast",
    "quals_fast_onnx": "quals_fast_float32",
    "quals_fast_onnx_int8": "quals_fast_float32",
}


def start_arms(
    size: str, arguments: argparse.Namespace, replays: Mapping[Texts, Replay] | None
) -> dict[str, Worker]:
    """Start a process for each arm, by its name."""
    device, folder = arguments.device, folder_of(size)
    is_gpu = device.startswith("cuda")
    given = {"device": device, "replays": replays, "candidates": arguments.candidates}
    engine = {"device": device} | ({"max_batch_tokens": GPU_TOKENS} if is_gpu else {})
    arms = {
        "qags_as_shipped": Worker(QagsArm, "as_shipped", size, **given),
        "qags_batched": Worker(QagsArm, "batched", size, **given),
    }
    if is_gpu or torch.cpu._is_avx512_bf16_supported():
        half = "float16" if is_gpu else "bfloat16"
        arms["qags_batched_half"] = Worker(QagsArm, "batched", size, half, **given)
    arms |= {
        "quals_published": Worker(PublishedArm, folder, device=device),
        "quals_once": Worker(PublishedArm, folder, device=device, encode_once=True),
        "quals_fast_float32": Worker(StagedEngineArm, folder, "float32", **engine),
        "quals_fast": Worker(StagedEngineArm, folder, "auto", **engine),
    }
    if is_gpu:
        arms["quals_fast_eager"] = Worker(StagedEngineArm, folder, "auto", "eager", **engine)
    elif size == "qagen-mini" or not arguments.quick:  # the export of a larger one takes minutes
        for name, dtype in (("quals_fast_onnx", "float32"), ("quals_fast_onnx_int8", "int8")):
            arms[name] = Worker(StagedEngineArm, exported(folder, dtype), "auto", "onnx")
    return arms


def run_case(
    arms: dict[str, Worker], pairs: list[Pair], rounds: int, seconds: float, *, trained: bool
) -> dict[str, Any]:
    """Let the arms take turns on some rows.

    Args:
        arms: by name.
        pairs: the rows.
        rounds: at most; one is always run.
        seconds: after which no round begins that would not end in time.
        trained: whether QAGS has trained weights.
    """
    begin = time.perf_counter()
    turns: dict[str, list[Turn]] = {name: [] for name in arms}
    rounds_done = 0
    while rounds_done < rounds:
        for name, arm in arms.items():
            turns[name].append(arm.score(pairs, []))
        rounds_done += 1
        if (time.perf_counter() - begin) * (1 + 1 / rounds_done) > seconds:
            break
    texts = [pair.document for pair in pairs], [pair.summary for pair in pairs]
    count = len(pairs)
    times = {name: [turn.seconds / count for turn in own] for name, own in turns.items()}
    found: dict[str, Any] = {}
    for name, own in turns.items():
        stages = own[-1].stages
        if not stages:
            stages = arms[name].ask(StagedEngineArm.time_stages, *texts, own[-1].seconds)
        total, median = sum(stages.values()), spread(times[name])["median"]
        base = BASES.get(name)
        says_something = base is not None and (trained or not name.startswith("qags"))
        found[name] = {
            "seconds": spread(times[name]),
            "speedup": _ratio(times["qags_as_shipped"], times[name]),
            "stages": {stage: median * value / total for stage, value in stages.items()},
            "base": base if says_something else None,
            "agreement": agree(own[-1], turns[base][-1]) if base and says_something else None,
        }
    strongest = "qags_batched_half" if "qags_batched_half" in times else "qags_batched"
    ratios = {
        "as_shipped": _ratio(times["qags_as_shipped"], times["quals_fast"]),
        "batched": _ratio(times[strongest], times["quals_fast"]),
        "published": _ratio(times["qags_as_shipped"], times["quals_published"]),
        "engine": _ratio(times["quals_published"], times["quals_fast"]),
    }
    replayed = arms["qags_batched"].ask(QagsArm.get_replayed).values()
    return {
        "rows": count,
        "rounds": rounds_done,
        "weights": "trained" if trained else "random",
        "sizes": describe(pairs),
        "questions": sum(len(one.questions) for one in replayed) / count,
        "kept_pairs": sum(map(len, turns["quals_fast"][-1].kept)) / count,
        "ratios": ratios,
        "arms": found,
    }


def warm_up(arms: dict[str, Worker], pair: Pair) -> dict[str, float | None]:
    """Let each arm score a row; return the TFLOPs that the float32 arms executed on it.

    The other arms do the same work, but not in operations that can be counted.
    """
    tflop: dict[str, float | None] = {}
    for name, arm in arms.items():
        if arm.facts["dtype"] == "float32" and not name.startswith("quals_fast_onnx"):
            tflop[name] = arm.ask(count_flops, [pair]) / 1e12
        else:
            arm.score([pair], [])
    return tflop


def flops_ratio(tflop: Mapping[str, float | None]) -> dict[str, float]:
    """Return how many times the FLOPs of the other arms QAGS as shipped executes."""
    shipped = tflop.get("qags_as_shipped")
    return {
        f"qags_as_shipped_over_{name}": shipped / other
        for name in ("qags_batched", "quals_published", "quals_fast_float32")
        if shipped and (other := tflop.get(name))
    }


def run_size(
    size: str,
    arguments: argparse.Namespace,
    rows: dict[str, list[Pair]],
    replays: Mapping[Texts, Replay] | None,
) -> tuple[dict[str, Any], dict[Texts, Replay]]:
    """Run one size's workloads; return what was measured, and what QAGS did on which texts."""
    share = arguments.limit * WEIGHTS[size] / sum(WEIGHTS[name] for name in arguments.models)
    begin = time.perf_counter()
    arms: dict[str, Worker] = {}
    trained = size == "qagen-mini"
    is_gpu = arguments.device.startswith("cuda")
    try:
        arms = start_arms(size, arguments, replays)
        cases: dict[str, Any] = {}
        did: dict[Texts, Replay] = {}
        warm_up_seconds = 0.0
        for index, workload in enumerate(arguments.workloads):
            pairs = rows[workload] if trained else rows[workload][: arguments.large_rows]
            started = time.perf_counter()
            tflop: dict[str, float | None] = {}
            if is_gpu:  # graphs are captured for shapes seen twice
                for name, arm in arms.items():
                    for _ in range(2 if name.startswith("quals_fast") else 1):
                        arm.score(pairs, [])
            elif trained or index == 0 or not arguments.quick:  # of a larger size it takes minutes
                tflop = warm_up(arms, pairs[0])
            warm_up_seconds += time.perf_counter() - started
            left = share - (time.perf_counter() - begin)
            seconds = max(0.0, left) / (len(arguments.workloads) - index)
            case = run_case(arms, pairs, arguments.rounds, seconds, trained=trained)
            for name, arm in case["arms"].items():
                arm["tflop"] = tflop.get(name)
            case["flops_ratio"] = flops_ratio(tflop)
            did |= arms["qags_batched"].ask(QagsArm.get_replayed)
            cases[workload] = case
        facts = {name: arm.close() for name, arm in arms.items()}
    finally:
        for arm in arms.values():
            arm.kill()
    for case in cases.values():
        for name, arm in case["arms"].items():
            arm |= {what: facts[name][what] for what in ("dtype", "peak_mib")}
    return {"warm_up_seconds": warm_up_seconds, "workloads": cases}, did


def _ratio(base: list[float], other: list[float]) -> dict[str, float]:
    return spread([a / b for a, b in zip(base, other, strict=True)])


def summarise(cases: dict[str, Any]) -> dict[str, Any]:
    """Put the figures that the claim is about first, keyed by size and workload."""
    names = {
        "speedup_vs_qags_as_shipped": "as_shipped",
        "speedup_vs_qags_batched": "batched",
        "speedup_vs_quals_published": "engine",
        "published_vs_qags_as_shipped": "published",
    }
    figures: dict[str, Any] = {
        name: {
            size: {workload: case["ratios"][ratio] for workload, case in of["workloads"].items()}
            for size, of in cases.items()
        }
        for name, ratio in names.items()
    }
    figures["flops_ratio"] = {
        size: {workload: case["flops_ratio"] for workload, case in of["workloads"].items()}
        for size, of in cases.items()
    }
    return figures


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
    """Write bench/CLAIM.md and its plot; on a GPU bench/CLAIM_GPU.md."""
    (ROOT / "bench" / f"{name.upper()}.md").write_text(page(result, agreement(), name), "utf-8")
    plot(result, ROOT / "bench" / f"{name}.svg")


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 10 minutes on 2 cores")
    parser.add_argument("--data", type=Path, help="JSON lines; the project's examples without")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, help="(GPU: qagen-mini bart-large, else bart-base)"
    )
    parser.add_argument("--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS])
    parser.add_argument("--rows", type=int, help="of each case (quick: 2, else 5; GPU: 50)")
    parser.add_argument(
        "--large-rows", type=int, help="at the larger sizes (quick: 1, else as many)"
    )
    parser.add_argument("--rounds", type=int, help="at most (quick: 3, else 5)")
    parser.add_argument(
        "--limit", type=float, help="seconds after which no round begins (quick: 330, else 3600)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--candidates", type=Path, help="what --prepare has stored")
    parser.add_argument("--prepare", type=Path, metavar="FILE", help="store candidates, and end")
    parser.add_argument("--page", action="store_true", help="write the page, and end")
    arguments = parser.parse_args()
    if arguments.prepare:
        return prepare(arguments)
    is_gpu = arguments.device.startswith("cuda")
    name = "claim_gpu" if is_gpu else "claim"
    if arguments.page:
        return write_page(json.loads((RESULTS / f"{name}.json").read_text("utf-8")), name)
    models = ["qagen-mini", "bart-large" if is_gpu else "bart-base"]
    defaults = {"rows": 50 if is_gpu else 5, "rounds": 5, "limit": 3600, "models": models}
    if arguments.quick:
        defaults |= {"rows": 50 if is_gpu else 2, "rounds": 3, "limit": 330}
        defaults |= {} if is_gpu else {"large_rows": 1}
    fill_in(arguments, defaults)
    if "qagen-mini" not in arguments.models:
        parser.error("--models must hold qagen-mini, whose run the larger sizes replay")
    rows = {
        name: load_workload(name, arguments.data, arguments.rows) for name in arguments.workloads
    }
    cases: dict[str, Any] = {}
    replays: dict[Texts, Replay] | None = None
    for size in sorted(arguments.models, key=MODELS.index):
        cases[size], did = run_size(size, arguments, rows, replays)
        replays = replays or did
    about = machine()
    found = {
        **summarise(cases),
        "data": arguments.data.name if arguments.data else "the project's examples",
        "quick": arguments.quick,
        "device": about["gpu"] or f"{about['cpu']}, {about['threads']} threads",
        "versions": about["versions"],
        "cases": cases,
    }
    result = {"verdict": verdict(found), **found}
    finish(name, result)
    write_page({**result, "machine": about}, name)


if __name__ == "__main__":
    main()
