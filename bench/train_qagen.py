"""How fast does `quals-fast train-qagen` train, and how many FLOP/s is that?

    python -m bench.train_qagen --train ../shared/data/qa_train.jsonl.gz --models t5-small
    python -m bench.train_qagen --train ... --models flan-t5-base bart-large --device cuda \
        --examples 20000

Every round is a run of its own: it shows `--examples` questions in the default views, in bfloat16
where the device has it. Its time is that of all steps and of the one checkpoint at the end; reading
and planning come before it. FLOPs are those that the command counts before it starts
(quals_fast/training/qagen/cost.py). Peak memory is the process's up to the model's last round.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench.recipes.grow import folder_of
from bench.shared.common import finish, is_gpu, peak_mib, spread
from bench.shared.options import EVERY_MODEL, FLANS, T5S, command_line
from bench.shared.weights import weights_of
from quals_fast.training.qagen.pipeline import train
from quals_fast.training.qagen.settings import TrainingSettings

NEVER = 10**9  # steps


def run(model: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train once; return the run's record."""
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(
            train=tuple(arguments.train),
            output=Path(folder) / "run",
            init=str(folder_of(model)),
            examples=arguments.examples,
            batch_tokens=arguments.batch_tokens,
            every=NEVER,
            seed=seed,
            cpu=not is_gpu(arguments.device),
        )
        return train(settings)


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one model's rounds."""
    first = runs[0]
    tokens = (first["source_tokens"], first["target_tokens"])
    return {
        "examples_per_s": spread([one["examples"] / one["seconds"] for one in runs]),
        "tflop_per_s": spread([one["flop"] / one["seconds"] / 1e12 for one in runs]),
        "tokens_of_example": [n / first["examples"] for n in tokens],
        "steps": first["steps"],
        "peak_mib": peak_mib(),
    }


def main() -> None:
    """Measure and write bench/results/train_qagen.json."""
    parser = command_line(__doc__, device="cpu", rounds=3)
    parser.add_argument(
        "--models", nargs="+", choices=(*EVERY_MODEL, *T5S, *FLANS), default=["t5-small"],
        help="models to start from; default: t5-small",
    )  # fmt: skip
    parser.add_argument(
        "--train", nargs="+", type=Path, required=True, metavar="FILE", help="training questions"
    )
    parser.add_argument("--examples", type=int, default=200, help="questions to show in a round")
    parser.add_argument(
        "--batch-tokens", type=int, default=6_000, help="as for quals-fast train-qagen"
    )
    arguments = parser.parse_args()
    cases: dict[str, Any] = {}
    for model in arguments.models:
        runs: list[dict[str, Any]] = []
        for seed in range(arguments.rounds):
            runs.append(run(model, arguments, seed))
            cases[model] = summarise(runs)
            finish(
                "train_qagen",
                {
                    "examples": arguments.examples,
                    "batch_tokens": arguments.batch_tokens,
                    "data": [path.name for path in arguments.train],
                    "cases": cases,
                },
                arguments.device,
                weights=weights_of(*cases),
            )


if __name__ == "__main__":
    main()
