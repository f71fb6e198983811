"""Is it "55 times as fast" as QAGS? Times QAGS, published QUALS and the engine on the same rows.

    python -m bench.claim --data NEWS.jsonl         about half an hour of two idle cores
    python -m bench.claim --data NEWS.jsonl --plan  says how long it would take, and exits
    python -m bench.claim --add --models bart-base  more rounds for the last result
    python -m bench.claim --prepare ANSWERS.json    stores answer candidates, for machines
                                                    without spaCy (--candidates ANSWERS.json)
    python -m bench.claim --page                    rewrites the page from the last result

Each arm runs in its own process, and only one works at a time. It warms up by loading and scoring a
first row, whose FLOPs are counted. On a CPU, each round has its own rows, so that the spread
includes that of texts; on a GPU all rounds have the same rows, since graphs are captured for shapes
that recur. Sizes: the bundled models with their trained weights; the sizes of BART-base and
BERT-base (`bart-base`); on a GPU, those of the large models (`bart-large`). At these sizes QAGS has
random weights and replays what the bundled networks did on the same rows, and QUALS runs the
bundled model grown to the size (bench/recipes/grow.py).

Writes bench/results/claim.json after each round, and bench/CLAIM.md and bench/claim.svg at the end;
on a GPU, claim_gpu.json, CLAIM_GPU.md and claim_gpu.svg. If a run is killed or reaches its limit,
the same command at the same commit measures the rounds that are missing. The arms of bart-base
together have peaks of some 18 GiB.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench.shared.common import RESULTS, finish, is_gpu, machine, result_name
from bench.shared.options import EVERY_MODEL, command_line
from bench.shared.workloads import WORKLOADS, load_workload
from bench.studies.claim.agreement import agreement
from bench.studies.claim.arms import DESCRIPTIONS, NEEDED, TRAINED, arm_names, weights_of_arms
from bench.studies.claim.figures import add_cases, check_same_setup, summarise
from bench.studies.claim.measuring import run_sizes
from bench.studies.claim.page import page
from bench.studies.claim.plan import Cell, Plan
from bench.studies.claim.plot import plot
from bench.studies.claim.verdict import verdict
from quals_fast.qags import GivenAnswers, SpacyAnswers

# Texts a round on a CPU: as many as QUALS as published scores together, where that takes a minute.
ROWS = {TRAINED: 5}


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
    answers = extractor.extract(summaries)
    each = (time.perf_counter() - start) / len(summaries)
    candidates = dict(zip(summaries, answers, strict=True))
    GivenAnswers(candidates, name=extractor.name, seconds=each).save(arguments.prepare)
    print(json.dumps({"summaries": len(summaries), "spacy_seconds_per_summary": each}))


def write_page(result: dict[str, Any], name: str) -> None:
    """Write CLAIM.md and its plot, or CLAIM_GPU.md, beside the folder of results."""
    folder = RESULTS.parent
    (folder / f"{name.upper()}.md").write_text(page(result, agreement(), name), "utf-8")
    plot(result, folder / f"{name}.svg")


def lacking(arguments: argparse.Namespace, cases: dict[str, Any]) -> dict[Cell, int]:
    """Return how many rounds each size and workload lacks, of those that were asked for."""
    return {
        (size, workload): max(0, arguments.rounds - len(case["rounds"] if case else []))
        for size in arguments.models
        for workload in arguments.workloads
        for case in [cases.get(size, {}).get(workload)]
    }


def to_go_on_with(
    last: dict[str, Any], content: dict[str, Any], arguments: argparse.Namespace, arms: list[str]
) -> dict[str, Any]:
    """Return the cases that rounds are added to: of the last result, or none.

    Raises:
        ValueError: rounds are to be added, but the last result has another setup.
    """
    is_unfinished = last.get("commits") == content["commits"] and any(
        lacking(arguments, last["cases"]).values()
    )
    if not arguments.add and not is_unfinished:
        return {}
    try:
        check_same_setup(last, content, arguments.rows, arms)
    except ValueError:
        if arguments.add:
            raise
        return {}
    cases: dict[str, Any] = last["cases"]
    return cases


def main() -> None:
    """Measure, write, draw."""
    parser = command_line(__doc__, data=None, device="cpu")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=EVERY_MODEL,
        help="(default: qagen-mini and bart-base; on a GPU, bart-large)",
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS], help="both by default"
    )
    optional = [name for name in DESCRIPTIONS if name not in NEEDED]
    parser.add_argument(
        "--without", nargs="+", choices=optional, default=[], help="arms to leave out"
    )
    parser.add_argument(
        "--rows",
        type=int,
        help="rows a round (default: 5 for qagen-mini, as many as QUALS as published scores "
        "together, else 1; on a GPU, 50)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each size and workload")
    parser.add_argument(
        "--limit",
        type=float,
        default=2100.0,
        help="seconds; a round that would not end in time is not begun",
    )
    parser.add_argument("--add", action="store_true", help="add rounds to the last result")
    parser.add_argument("--plan", action="store_true", help="say how long it takes, and exit")
    parser.add_argument("--candidates", type=Path, help="answer candidates stored by --prepare")
    parser.add_argument(
        "--prepare", type=Path, metavar="FILE", help="store answer candidates, and exit"
    )
    parser.add_argument("--page", action="store_true", help="rewrite the page, and exit")
    arguments = parser.parse_args()
    if arguments.prepare:
        return prepare(arguments)
    on_gpu = is_gpu(arguments.device)
    name = result_name("claim", arguments.device)
    stored = RESULTS / f"{name}.json"
    if (arguments.page or arguments.add) and not stored.is_file():
        parser.error(f"--page and --add need {stored}, which does not exist; run without them")
    last = json.loads(stored.read_text("utf-8")) if stored.is_file() else {}
    if arguments.page:
        return write_page(last, name)
    models = arguments.models or [TRAINED, "bart-large" if on_gpu else "bart-base"]
    arguments.models = sorted(models, key=EVERY_MODEL.index)
    arguments.rows = {
        size: arguments.rows or (50 if on_gpu else ROWS.get(size, 1)) for size in models
    }
    arms = arm_names(arguments.device, arguments.without)
    about = machine()
    commit = about["commit"] + (" with uncommitted changes" if about["dirty"] else "")
    content: dict[str, Any] = {
        "data": arguments.data.name if arguments.data else "the project's examples",
        "device": about["gpu"] or f"{about['cpu']}, {about['threads']} threads",
        "versions": about["versions"],
        "weights": weights_of_arms(arguments.models),
        "commits": [commit],
    }
    try:
        before = to_go_on_with(last, content, arguments, arms)
    except ValueError as error:
        parser.error(str(error))
    rounds = lacking(arguments, {} if arguments.add else before)
    if before:
        content["weights"] = last["weights"] | content["weights"]
        content["commits"] = list(dict.fromkeys([*last["commits"], commit]))
    content["cases"] = before
    plan = Plan(last.get("cases", {}), arguments.rows, rounds, arms, arguments.limit)
    if arguments.plan:
        return print(plan)

    def result() -> dict[str, Any]:
        return {"verdict": verdict(content), **summarise(content["cases"]), **content}

    def save(cases: dict[str, Any]) -> None:
        content["cases"] = add_cases(before, cases)
        finish("claim", result(), arguments.device, weights=content["weights"])

    run_sizes(arguments, rounds, plan, before, save)
    if not content["cases"]:
        parser.error(f"no round ends within --limit {arguments.limit:.0f}; --plan says how long")
    write_page({**result(), "machine": about}, name)
    for (size, workload), number in lacking(arguments, content["cases"]).items():
        if number:
            print(
                f"{size}, {workload}: {number} of {arguments.rounds} rounds would not have ended "
                "in time; the same command measures them",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
