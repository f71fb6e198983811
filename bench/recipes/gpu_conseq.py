"""Run the ConSeq experiment with 2,000 documents on a lent GPU, in calls of ten minutes.

    bench/gpu_conseq.sh                  start, or resume from the --run folder
    bench/gpu_conseq.sh -- --seeds 0     with other options of python -m bench.conseq_experiment
    bench/gpu_conseq.sh --dry-run        everything on a CPU, tiny, in a minute

Trains the summariser, samples, scores the samples, trains both arms, writes the held-out summaries
and measures them with QUALS. When the time is up, all texts and scores, and the model of the first
step as int8, go to $OUT in pieces. `python -m bench.pieces FOLDER -o runs` puts them together.
Carry them along, and the next call resumes from there. An arm whose summaries have not been written
is trained again. At the end, on a machine with spaCy:

    python -m bench.conseq_experiment --finish --run runs/conseq_gpu

This adds QAGS and ROUGE and writes bench/results/conseq_experiment_gpu.json and
examples/conseq_report_gpu.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from bench.recipes.gpu_jobs import require, results_folder, run_for
from bench.recipes.grow import folder_of
from bench.recipes.pieces import join, split
from bench.shared.common import EXAMPLES, ROOT, load_pairs
from bench.shared.options import TINY, command_line

DOCUMENTS = 2_000
# What a next call needs. Weights in float32 are too large to travel; int8 ones replace them.
_KEPT = ("written.json", "likelihood/likelihood.json", "likelihood/*_int8.safetensors",
         "conseq/*.json*", "conseq/seed*/training_*.json", "measures/*.jsonl")  # fmt: skip
_PACKING = 20.0  # seconds


def main() -> None:
    """Go on with the experiment; or show that all of it works."""
    arguments = _arguments()
    if not arguments.dry_run:
        return work(arguments)
    with tempfile.TemporaryDirectory() as folder:
        dry_run(arguments, Path(folder))


def work(a: argparse.Namespace) -> None:
    """Run what the time allows, and pack it.

    Raises:
        SystemExit: something is missing, or the experiment failed.
    """
    end = time.monotonic() + 60 * a.minutes
    out = results_folder(a.run)
    require(
        {
            f"{a.data}: documents with summaries; give the file with --data": a.data.is_file(),
            "rouge_score or what it needs; wheels can travel, see bench/README.md": _has_rouge(),
            "a GPU; without one, only --dry-run": a.dry_run or torch.cuda.is_available(),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "bench.conseq_experiment", "--write", "--device", a.device,
        "--frozen", "--data", str(a.data), "--run", str(a.run),
        "--documents", str(DOCUMENTS), *a.options,
    ]  # fmt: skip
    code = run_for(end - time.monotonic() - _PACKING, command, out / "conseq.log")
    split(a.run.parent, kept(a.run), out, a.run.name)
    if code:
        raise SystemExit(f"the experiment failed with exit code {code}; see {out / 'conseq.log'}")
    if code is None:
        print(f"time limit reached; carry {a.run} along and call again")
    else:
        print(f"done; now run python -m bench.conseq_experiment --finish --run {a.run}")


def _has_rouge() -> bool:
    try:
        import_module("rouge_score.rouge_scorer")
    except ModuleNotFoundError as error:
        print(error)
        return False
    return True


def kept(run: Path) -> Sequence[Path]:
    """Return the files of a run that a next call needs."""
    return [path for pattern in _KEPT for path in run.glob(pattern)]


def dry_run(a: argparse.Namespace, folder: Path) -> None:
    """Run all of it on a few short texts, then go on elsewhere from what came back of it."""
    a.data, a.device, a.minutes = folder / "texts.jsonl", "cpu", 3.0
    a.options = [
        "--documents", "6", "--held-out", "3", "--examples", "32", "--seeds", "0", "1",
        "--positive-fraction", "1", "--negative-fraction", "0.5", "--beams", "16",
        "--threads", "1", "--base", str(folder_of(TINY)),
    ]  # fmt: skip
    _write_texts(a.data)
    os.environ["OUT"] = str(folder / "out")
    a.run = folder / "here" / "conseq_gpu"
    work(a)
    join(folder / "out", folder / "there")
    a.run = folder / "there" / "conseq_gpu"
    (a.run / "written.json").unlink()
    work(a)
    if not (a.run / "written.json").is_file():
        raise SystemExit("the second call did not finish")
    print("the dry run covered every step of a run on a GPU")


def _write_texts(path: Path) -> None:
    """Write the beginnings of the examples, since the tiny model's tokens are characters."""
    texts = {
        " ".join(pair.document.split()[:60]): " ".join(pair.summary.split()[:8])
        for pair in load_pairs([EXAMPLES])
    }
    rows = [
        {"source": "entfa-xsum", "document": document, "summary": summary}
        if place % 4
        else {"source": "bbc-news-summary", "document": f"{summary}\n\n{document}", "summary": ""}
        for place, (document, summary) in enumerate(texts.items())
    ]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    data = ROOT / "runs" / "data" / "docsum_pairs.jsonl.gz"
    parser.add_argument(
        "--data", type=Path, default=data, help="JSON lines of news documents with summaries"
    )
    parser.add_argument(
        "--run",
        type=Path,
        default=ROOT / "runs" / "conseq_gpu",
        help="working folder (default: runs/conseq_gpu)",
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of the whole call")
    parser.add_argument("--dry-run", action="store_true", help="run everything on a CPU, tiny")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="-- OPTIONS",
        help="options of the experiment, in place of the defaults here",
    )
    arguments = parser.parse_args()
    arguments.device = "cuda"
    return arguments


if __name__ == "__main__":
    main()
