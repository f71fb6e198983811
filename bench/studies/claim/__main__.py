"""Is it "55 times as fast" as QAGS? Times QAGS, published QUALS and the engine on the same rows.

    python -m bench.claim --quick                   under 10 minutes on 2 cores
    python -m bench.claim --data NEWS.jsonl         as many rounds as --limit allows
    python -m bench.claim --quick --add --models bart-base      more rounds for the last result
    python -m bench.claim --prepare ANSWERS.json    stores answer candidates, for machines
                                                    without spaCy (--candidates ANSWERS.json)
    python -m bench.claim --page                    rewrites the page from the last result

Each arm runs in its own process, and only one works at a time. It warms up by loading and scoring a
first row, whose FLOPs are counted. On a CPU, each round has its own rows, so that the spread
includes that of texts; on a GPU all rounds have the same rows, since graphs are captured for shapes
that recur. Sizes: the bundled models with their trained weights; the sizes of BART-base and
BERT-base (`bart-base`); on a GPU, those of the large models (`bart-large`). At these sizes QAGS has
random weights and replays what the bundled networks did on the same rows, and QUALS runs the
bundled model grown to the size (bench/recipes/grow.py). Writes bench/results/claim.json after each
round, bench/CLAIM.md and bench/claim.svg; on a GPU, claim_gpu.json, CLAIM_GPU.md and claim_gpu.svg.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.shared.common import RESULTS, finish, is_gpu, machine, result_name
from bench.shared.options import EVERY_MODEL, command_line, fill_in
from bench.shared.workloads import WORKLOADS, load_workload
from bench.studies.claim.agreement import agreement
from bench.studies.claim.arms import TRAINED, weights_of_arms
from bench.studies.claim.figures import add_cases, check_same_setup, summarise
from bench.studies.claim.measuring import OPTIONAL, run_sizes
from bench.studies.claim.page import page, plot, verdict
from quals_fast.qags import GivenAnswers, SpacyAnswers


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


def main() -> None:
    """Measure, write, draw."""
    parser = command_line(__doc__, data=None, device="cpu")
    parser.add_argument("--quick", action="store_true", help="under 10 minutes on 2 cores")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=EVERY_MODEL,
        help="(default: qagen-mini and bart-base; on a GPU, bart-large)",
    )
    parser.add_argument(
        "--workloads", nargs="+", choices=[*WORKLOADS], default=[*WORKLOADS], help="both by default"
    )
    parser.add_argument(
        "--without", nargs="+", choices=OPTIONAL, default=[], help="arms to leave out"
    )
    parser.add_argument("--rows", type=int, help="rows per round (default: 1; on a GPU, 50)")
    parser.add_argument("--rounds", type=int, help="maximum number of rounds (quick: 3, else 10)")
    parser.add_argument(
        "--limit",
        type=float,
        help="seconds after which only first rounds are started (quick: 540, else 3600)",
    )
    parser.add_argument("--add", action="store_true", help="add rounds to the last result")
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
    defaults: dict[str, Any] = {"rows": 50 if on_gpu else 1, "rounds": 10, "limit": 3600.0}
    defaults["models"] = [TRAINED, "bart-large" if on_gpu else "bart-base"]
    if arguments.quick:
        defaults |= {"rounds": 3, "limit": 540.0}
    fill_in(arguments, defaults)
    about = machine()
    content = {
        "data": arguments.data.name if arguments.data else "the project's examples",
        "rows_a_round": arguments.rows,
        "device": about["gpu"] or f"{about['cpu']}, {about['threads']} threads",
        "versions": about["versions"],
        "weights": weights_of_arms([*(last["cases"] if arguments.add else {}), *arguments.models]),
        "cases": last["cases"] if arguments.add else {},
        "commits": last["commits"] if arguments.add else [],
    }
    if arguments.add:
        try:
            check_same_setup(last, content)
        except ValueError as error:
            parser.error(str(error))
    commit = about["commit"] + (" with uncommitted changes" if about["dirty"] else "")
    content["commits"] = list(dict.fromkeys([*content["commits"], commit]))
    before = content["cases"]

    def result() -> dict[str, Any]:
        return {"verdict": verdict(content), **summarise(content["cases"]), **content}

    def save(cases: dict[str, Any]) -> None:
        content["cases"] = add_cases(before, cases)
        finish("claim", result(), arguments.device, weights=content["weights"])

    run_sizes(arguments, before, save)
    write_page({**result(), "machine": about}, name)


if __name__ == "__main__":
    main()
