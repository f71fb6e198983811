"""How far do QUALS and QAGS agree with people on the same summaries?

    python -m bench.claim.agreement --labels ../shared/data/factcons_qags_cnndm.jsonl.gz \
        ../shared/data/factcons_qags_xsum.jsonl.gz

Scores every row with both metrics and writes bench/results/claim_agreement.json; `python -m
bench.claim` puts it on its page. The published figures are those of the large models.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.progress import track

from bench.shared.common import RESULTS, Pair, finish, load_pairs
from bench.shared.options import command_line
from bench.shared.tables import interval, table
from bench.shared.weights import MODEL, listed, qags_weights, weights_of
from quals_fast import QualsScorer
from quals_fast.evaluation import agreement as agree
from quals_fast.qags import QagsScorer

RESULT = "claim_agreement"
ROWS_AT_ONCE = 16


def measure(pairs: list[Pair], title: str) -> dict[str, Any]:
    """Score labelled rows with both metrics and correlate all three."""
    quals, qags = QualsScorer.from_pretrained(), QagsScorer.from_pretrained()
    scores: dict[str, list[float]] = {"QUALS": [], "QAGS": []}
    questions = 0
    for first in track(range(0, len(pairs), ROWS_AT_ONCE), description=title):
        rows = pairs[first : first + ROWS_AT_ONCE]
        texts = [row.document for row in rows], [row.summary for row in rows]
        scores["QUALS"] += quals.score(*texts).scores
        judged = qags.score(*texts)
        scores["QAGS"] += judged.scores
        questions += sum(len(row.pairs) for row in judged)
    labels = [math.nan if pair.label is None else pair.label for pair in pairs]
    of_people = {name: agree(name, own, labels).to_dict() for name, own in scores.items()}
    both = [i for i, score in enumerate(scores["QAGS"]) if not math.isnan(score)]
    between = agree(
        "QUALS, QAGS", [scores["QUALS"][i] for i in both], [scores["QAGS"][i] for i in both]
    )
    return {
        "rows": len(pairs),
        "questions": questions / len(pairs),
        "with_people": of_people,
        "quals_with_qags": between.to_dict(),
        "signatures": [quals.signature, qags.signature],
    }


def agreement() -> str:
    """Return the section of the page, or a line that says what to run."""
    path = RESULTS / f"{RESULT}.json"
    if not path.is_file():
        return "Not measured yet: `python -m bench.claim.agreement`."
    result = json.loads(path.read_text("utf-8"))
    rows = []
    for name, of_set in result["sets"].items():
        pairs = {
            "QUALS with people": of_set["with_people"]["QUALS"],
            "QAGS with people": of_set["with_people"]["QAGS"],
            "QUALS with QAGS": of_set["quals_with_qags"],
        }
        for what, one in pairs.items():
            rows.append(
                {
                    "set": name,
                    "pair of scores": what,
                    "rows": str(one["n"]),
                    "Pearson": interval(one["pearson"], 3, 2),
                    "Spearman": interval(one["spearman"], 3, 2),
                }
            )
    questions = ", ".join(f"{one['questions']:.1f}" for one in result["sets"].values())
    return (
        f"{table(rows)}\n\n"
        f"With 95 % bootstrap intervals; QUALS and QAGS in {' and '.join(_types(result))}, with "
        f"{listed(result['weights'])}. QAGS asks {questions} questions a summary here. "
        "Published, with large models: QAGS 0.545 (CNN/DM) and 0.175 (XSum), Pearson with people."
    )


def _types(result: dict[str, Any]) -> list[str]:
    """Return the types of numbers by the signatures of QUALS and QAGS."""
    first = next(iter(result["sets"].values()))
    return [one.split("|dtype:")[1].split("|")[0] for one in first["signatures"]]


def main() -> None:
    """Measure each set."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--labels", type=Path, nargs="+", required=True, help="summaries with human judgements"
    )
    parser.add_argument("--rows", type=int, help="rows of each set, evenly spaced; all by default")
    arguments = parser.parse_args()
    sets = {
        path.name.split(".")[0]: measure(load_pairs([path], arguments.rows), path.name)
        for path in arguments.labels
    }
    finish(RESULT, {"sets": sets}, weights=weights_of(MODEL) | qags_weights())


if __name__ == "__main__":
    main()
