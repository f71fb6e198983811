"""The article's table for the systems of the ConSeq experiment, by one command of the program.

    python -m bench.conseq_experiment --data FILE --run runs/conseq
    python -m bench.evaluation_table --classifier runs/classifier/model --positive CORRECT

Runs `quals-fast compare` on the summaries that the experiment left in systems/ of its --run, with
every metric at once. The scores are kept beside them, in scores/, which must not exist.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.shared.common import QAGS_MODELS, ROOT, finish
from bench.shared.options import command_line
from bench.shared.weights import weights_in

NAME = "evaluation_table"
SYSTEMS = ("MLE", "ConSeq-ROUGE", "ConSeq-QUALS")  # the baseline first


def main() -> None:
    """Run the command, and write what it gives."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--run",
        type=Path,
        default=ROOT / "runs" / "conseq",
        help="working folder of bench.conseq_experiment (default: runs/conseq)",
    )
    parser.add_argument("--classifier", type=Path, help="folder of a classifier to score with too")
    parser.add_argument("--positive", help="the classifier's label for consistent text")
    parser.add_argument(
        "--factcc",
        action="store_true",
        help="the classifier is FactCC, whose conventions it follows",
    )
    parser.add_argument("--threads", type=int, help="CPU threads of QUALS")
    a = parser.parse_args()
    systems, scores = (a.run / name for name in ("systems", "scores"))
    if not systems.is_dir():
        raise SystemExit(f"there is no {systems}; write it with python -m bench.conseq_experiment")
    classifier = a.classifier and a.classifier.resolve()
    metric = "factcc" if a.factcc else "classifier"
    shown = command(classifier and "CLASSIFIER", a.positive, metric)
    asked = command(classifier and str(classifier), a.positive, metric)
    asked += ["--qags-models", str(QAGS_MODELS), "--save-scores", str(scores.resolve())]
    asked += [] if a.threads is None else ["--threads", str(a.threads)]
    done = subprocess.run(
        [sys.executable, "-m", "quals_fast", *asked, "-o", "-"],
        cwd=systems,
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"quals-fast compare ended with exit code {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    weights = weights_in(result["signatures"])
    finish(NAME, {"command": shlex.join(["quals-fast", *shown]), **result}, weights=weights)


def command(classifier: str | None, positive: str | None, metric: str = "classifier") -> list[str]:
    """Return the arguments that compare the systems by all metrics.

    Args:
        classifier: folder of a classifier; None leaves it out.
        positive: its label for consistent text.
        metric: whose conventions the classifier follows.
    """
    metrics = ["--metric", "quals", "--metric", "qags"]
    if classifier is not None:
        metrics += ["--metric", metric, "--classifier", classifier]
        metrics += [] if positive is None else ["--positive", positive]
    files = [f"{system}.jsonl" for system in SYSTEMS]
    return ["compare", *files, "--reference-field", "reference", *metrics]


if __name__ == "__main__":
    main()
