"""Train and judge a question-answer generator on a lent GPU, in calls of ten minutes.

    bench/gpu_train.sh                             the recipe's first run, from runs/data/start
    bench/gpu_train.sh --go-on runs/first/models/seed0     its second run, from the first model
    bench/gpu_train.sh --times 1 --seeds 0 1       two seeds, half of the time each, and their mean
    bench/gpu_train.sh -- --batch-tokens 12000     with other options of quals-fast train-qagen
    bench/gpu_train.sh --dry-run                   everything on a CPU, tiny, in a minute

Follows the bundled model's recipe (docs/train-your-own.md) at --times its length, or as much of it
as fits in --minutes, with dropout and label smoothing. The learning rate reaches 0 in time. AdamW's
state is not kept: it remembers some 50 steps, and warm-up takes longer.

Reads from --data: qa_train.jsonl.gz, qa_dev.jsonl.gz, start (made by `--prepare ENCODER` on a
machine with the MiniLM encoder), and factcons_*.jsonl.gz to judge with: odd rows of QAGS, all of
FRANK. Writes to $OUT, or else to --run: models as int8 in pieces, best first by people's questions,
as many as fit (`python -m bench.pieces` puts them together), train.log, and training_gpu.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.recipes.average import average
from bench.recipes.bundle import store
from bench.recipes.gpu_jobs import KEPT_BYTES, require, results_folder, run_for
from bench.recipes.grow import folder_of
from bench.recipes.pieces import join, split
from bench.shared.common import EXAMPLES, ROOT, load_pairs, machine, result_name, texts_of
from bench.shared.options import TINY, command_line
from bench.shared.weights import describe
from bench.studies.choices import nats
from bench.studies.model.passes import load_rows
from bench.studies.model.quality import PARTS
from quals_fast import QualsScorer
from quals_fast.evaluation import agreement
from quals_fast.training.adapters.rows import score_each
from quals_fast.training.qagen import checkpoints
from quals_fast.training.qagen.corpus import Corpus, read_corpus
from quals_fast.training.qagen.warm_start import write_bart

NAME = "training"
TRAIN_QAGEN = [
    sys.executable,
    "-m",
    "quals_fast",
    "train-qagen",
]
DECODER_LAYERS = (1, 3, 5)  # of the encoder; the decoder's start from them
_TRAINING = 0.8  # share of the minutes; the rest is for saving and judging
_GRACE = 45.0  # seconds to save in, after which a run is stopped
_OF_RUN = ("questions", "counts", "examples", "texts", "steps", "steps_done", "evaluations")
_LEAST_ROWS = 3  # that a correlation needs
_STATISTICS = ("pearson", "spearman", "auc")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run of the bundled model's training.

    Attributes:
        examples: questions that it is shown.
        early_examples: of these at first, on short texts only.
        options: of `quals-fast train-qagen`.
    """

    examples: int
    early_examples: int
    options: str

    def arguments(self, times: float) -> list[str]:
        """Return the options of a run that is longer by a factor."""
        options = f"{_OF_BOTH} {self.options} --examples {round(times * self.examples)}"
        if self.early_examples:
            options += (
                f" --early-views window=0.8,passage=0.2 --early-examples {self.early_examples}"
            )
        return options.split()


_OF_BOTH = (
    "--together 16 --cap policyqa=3000 --passage-words 230 --batch-tokens 6000 --every 2000 "
    "--views window=0.45,passage=0.15,distractors=0.40"
)
FIRST = Recipe(
    320_000, 60_000, "--cap qamr=12000 --learning-rate 5e-4 --warmup-steps 300 --decay 0.75"
)
SECOND = Recipe(
    200_000,
    0,
    "--positions 1024 --prune --renamed 0.5 --learning-rate 2e-4 --warmup-steps 100 --decay 0.95",
)


def main() -> None:
    """Train, pack and judge; or show that all of it works."""
    arguments = _arguments()
    if arguments.prepare is not None:
        return prepare(arguments.prepare, arguments.data)
    if not arguments.dry_run:
        return work(arguments)
    with tempfile.TemporaryDirectory() as folder:
        dry_run(arguments, Path(folder))


def prepare(encoder: Path, data: Path) -> None:
    """Write ``start``, the BART that the first run starts from, as int8 so that it can travel."""
    with tempfile.TemporaryDirectory() as folder:
        write_bart(encoder, Path(folder) / "start", DECODER_LAYERS)
        store(Path(folder) / "start", data / "start")
    print(data / "start")


def work(a: argparse.Namespace) -> None:
    """Train each seed, then judge all models and their mean."""
    end = time.monotonic() + 60 * a.minutes
    out = results_folder(a.run)
    start = a.go_on or a.data / "start"
    files = [a.data / name for name in ("qa_train.jsonl.gz", "qa_dev.jsonl.gz")]
    require(
        {f"{path}: questions; give their folder with --data": path.is_file() for path in files}
        | {
            f"{start}: a model's folder; --prepare makes the first one": start.is_dir(),
            "a GPU; without one, only --dry-run": a.dry_run or torch.cuda.is_available(),
            f"a new folder, but {a.run} is there; give another one with --run": not a.run.exists(),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    corpus = read_corpus([files[1]]).drawn(a.questions)
    labels = sorted(a.data.glob("factcons_*.jsonl.gz"))
    result: dict[str, Any] = {
        "start": start.name,
        "options": _options(a),
        "minutes": a.minutes,
        "judged_on": {"questions": len(corpus.questions), "labels": [p.name for p in labels]},
        "models": {},
    }
    with _written(out / f"{result_name(NAME, a.device)}.json", result):
        trained = []
        for place, seed in enumerate(a.seeds):
            folder = a.run / f"seed{seed}"
            own = (end - time.monotonic()) - (1 - _TRAINING) * 60 * a.minutes
            train(a, start, seed, own / (len(a.seeds) - place), out / "train.log")
            trained.append(_best_of(folder))
            _add(result, a.run, folder.name, trained[-1])
            run = json.loads((folder / "run.json").read_text("utf-8"))
            result["models"][folder.name] |= {key: run.get(key) for key in _OF_RUN}
            _pack(a.run, list(result["models"])[::-1], out)  # what follows may fail
        if len(trained) > 1:
            average(trained, a.run / "mean")
            _add(result, a.run, "mean", a.run / "mean")
        judge(result, a, corpus, labels, end, out)


def train(a: argparse.Namespace, start: Path, seed: int, seconds: float, log: Path) -> None:
    """Train one seed in some seconds.

    Raises:
        SystemExit: it failed; what it said is in the log.
    """
    command = [
        *TRAIN_QAGEN, "--train", str(a.data / "qa_train.jsonl.gz"),
        "--dev", str(a.data / "qa_dev.jsonl.gz"), "--init", str(start),
        "-o", str(a.run / f"seed{seed}"), "--seed", str(seed),
        "--workers", str(a.workers), "--minutes", str(seconds / 60), *_options(a),
    ]  # fmt: skip
    if a.device == "cpu":
        command.append("--cpu")
    code = run_for(seconds + _GRACE, command, log)
    if code is None:
        print(f"seed {seed} was stopped, since it did not end in time", flush=True)
    elif code:
        raise SystemExit(f"training with seed {seed} failed with exit code {code}; see {log}")


def _options(a: argparse.Namespace) -> list[str]:
    """Return the options of train-qagen that decide what is learnt; of several, the last counts."""
    recipe = FIRST if a.go_on is None else SECOND
    own = ["--dropout", str(a.dropout), "--label-smoothing", str(a.label_smoothing)]
    return [*recipe.arguments(a.times), *own, *a.options]


def _best_of(folder: Path) -> Path:
    """Return where a run's model is: in its folder, or the last checkpoint of one that was stopped.

    Raises:
        SystemExit: there is none.
    """
    if (folder / "model.safetensors").is_file():
        return folder
    checkpoint = checkpoints.last_whole(folder, print)
    if checkpoint is None:
        raise SystemExit(
            f"{folder} has no complete checkpoint; use more --minutes or fewer --seeds"
        )
    return checkpoint


def _add(result: dict[str, Any], run: Path, name: str, folder: Path) -> None:
    """Store a model as it will come back, and list it."""
    store(folder, run / "models" / name)
    result["models"][name] = {"from": folder.name}


def judge(
    result: dict[str, Any],
    a: argparse.Namespace,
    corpus: Corpus,
    labels: Sequence[Path],
    end: float,
    out: Path,
) -> None:
    """Order the models by people's questions, pack them, and compare their scores with people's."""
    scorers = {
        name: QualsScorer.from_pretrained(a.run / "models" / name, device=a.device)
        for name in result["models"]
    }
    result["weights"] = {name: describe(a.run / "models" / name) for name in scorers}
    sums: dict[str, float] = {}
    for name, scorer in scorers.items():
        by_text = result["models"][name]["nats"] = nats(scorer, corpus)
        sums[name] = sum(value for of_text in by_text.values() for value in of_text.values())
        print(f"{name}: {json.dumps(by_text)}", flush=True)
    order = sorted(sums, key=sums.__getitem__)
    result["order"], result["packed"] = order, _pack(a.run, order, out)
    result["not_judged"] = []
    for path in labels:
        for name in order:
            if time.monotonic() > end:
                result["not_judged"].append(f"{name} on {path.name}")
                continue
            agreed = with_people(scorers[name], path, a.rows)
            result["models"][name].setdefault("with_people", {})[path.name] = agreed
            print(f"{name} on {path.name}: {json.dumps(agreed)}", flush=True)


def with_people(scorer: QualsScorer, path: Path, limit: int | None) -> dict[str, Any]:
    """Return the agreement with a file's labels; of QAGS's only odd rows, which are for choosing.

    Args:
        scorer: of the model.
        path: labelled JSON lines.
        limit: of the rows; None takes all.

    Returns:
        Rows with and without a score; statistics where at least three have one.
    """
    rows = [row for row in load_rows(path, limit) if row.pair.label is not None]
    if "qags" in path.name:
        rows = [row for row in rows if row.number % 2 == PARTS["odd"]]
    pairs = [row.pair for row in rows]
    judged = score_each(scorer, *texts_of(pairs))
    scores = [row.score for row in judged]
    n_missing = sum(map(math.isnan, scores))
    if len(scores) - n_missing < _LEAST_ROWS:  # a model that has learnt too little asks nothing
        return {"n": len(scores) - n_missing, "n_missing": n_missing}
    agreed = agreement("QUALS", scores, [float(p.label or 0) for p in pairs]).to_dict()
    return {"n": agreed["n"], "n_missing": agreed["n_missing"]} | {
        s: agreed[s] for s in _STATISTICS
    }


def _pack(run: Path, names: Sequence[str], out: Path) -> list[str]:
    """Put the first models that fit into pieces; return their names."""
    packed: list[str] = []
    left = KEPT_BYTES
    for name in names:
        left -= sum(path.stat().st_size for path in (run / "models" / name).iterdir())
        if left < 0:
            break
        packed.append(name)
    split(run, [run / "models" / name for name in packed], out, "models")
    return packed


@contextmanager
def _written(path: Path, result: dict[str, Any]) -> Iterator[None]:
    """Write a result at the end, whatever happened on the way."""
    try:
        yield
    finally:
        content = {"benchmark": NAME, **result, "machine": machine()}
        path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        print(f"results: {path.parent}")


def dry_run(a: argparse.Namespace, folder: Path) -> None:
    """Do all that two calls do, with a few questions about the examples and a tiny model."""
    a.data, a.device, a.minutes, a.questions, a.rows = folder / "data", "cpu", 20.0, 8, 6
    few = ["--batch-tokens", "800", "--every", "2", "--threads", "1", "--examples"]
    a.options = [*few, "12", "--early-examples", "4"]
    a.workers, a.seeds = 1, [0, 1]
    _write_data(a.data)
    os.environ["OUT"] = str(folder / "out")
    a.run = folder / "first"
    work(a)
    join(folder / "out", folder / "back")
    a.go_on, a.run, a.seeds = folder / "back" / "models" / "mean", folder / "second", [2]
    a.options = [*few, "8"]
    work(a)
    print("the dry run covered every step of a run on a GPU")


def _write_data(folder: Path) -> None:
    """Write questions, labels and a model to start from."""
    folder.mkdir()
    pairs = load_pairs([EXAMPLES])
    questions = [
        {
            "source": "examples",
            "title": pair.id,
            "context": pair.document,
            "qas": [
                {"id": f"{pair.id}-{word}", "q": f"Which word begins with {word[:3]}?", "a": word,
                 "s": pair.document.index(word)}
                for word in sorted(set(pair.document.split()))[:4]
            ],
        }
        for pair in pairs[::2]
    ]  # fmt: skip
    labelled = [
        {"document": pair.document, "summary": pair.summary, "label": float(place % 3 == 0)}
        for place, pair in enumerate(pairs)
    ]
    for name, rows in (
        ("qa_train", questions[:-4]),
        ("qa_dev", questions[-4:]),
        ("factcons_qags_examples", labelled),
    ):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write("\n".join(map(json.dumps, rows)))
    shutil.copytree(folder_of(TINY), folder / "start")


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / "runs" / "data",
        help="folder of the data (default: runs/data)",
    )
    parser.add_argument(
        "--run",
        type=Path,
        default=ROOT / "runs" / "train",
        help="working folder (default: runs/train)",
    )
    parser.add_argument(
        "--go-on", type=Path, metavar="MODEL", help="model of the first run; do the second run"
    )
    parser.add_argument(
        "--times", type=float, default=3.0, help="maximum length, in multiples of the recipe's"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time limit of the whole call")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0],
        help="random seeds, trained one after the other (default: 0)",
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="as for train-qagen")
    parser.add_argument("--label-smoothing", type=float, default=0.1, help="as for train-qagen")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, (os.cpu_count() or 1) - 2),
        help="processes that prepare batches",
    )
    parser.add_argument("--questions", type=int, default=1_000, help="questions to judge with")
    parser.add_argument("--rows", type=int, help="rows of each labelled file; all by default")
    parser.add_argument("--dry-run", action="store_true", help="run everything on a CPU, tiny")
    parser.add_argument(
        "--prepare",
        type=Path,
        metavar="ENCODER",
        help="write the folder start from the encoder, and exit",
    )
    parser.add_argument(
        "options",
        nargs="*",
        metavar="-- OPTIONS",
        help="options of train-qagen, in place of the recipe's",
    )
    arguments = parser.parse_args()
    arguments.device = "cuda"
    return arguments


if __name__ == "__main__":
    main()
