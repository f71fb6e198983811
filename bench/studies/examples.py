"""For how many example documents does the faithful summary score above the altered one?

    python -m bench.examples

Scores the examples with the bundled model and writes bench/results/examples.json.
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from typing import Any

from rich.progress import Progress

from bench.shared.common import EXAMPLES, finish
from bench.shared.options import command_line
from bench.shared.weights import MODEL, weights_of
from quals_fast.scorer import QualsScorer


def count(scorer: QualsScorer) -> dict[str, Any]:
    """Score all examples; return how many documents there are and for how many it is so."""
    rows = [json.loads(line) for line in EXAMPLES.read_text("utf-8").splitlines()]
    with Progress() as progress:
        advance = partial(progress.advance, progress.add_task("scoring", total=len(rows)))
        documents, summaries = [r["document"] for r in rows], [r["summary"] for r in rows]
        scores = scorer.score(documents, summaries, on_progress=advance).scores
    by_document: defaultdict[str, dict[str, float]] = defaultdict(dict)
    change: dict[str, str] = {}
    for row, score in zip(rows, scores, strict=True):
        by_document[row["document"]][row["kind"]] = score
        if row["change"]:
            change[row["document"]] = row["change"].split(":")[0]
    by_change: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for document, one in by_document.items():
        by_change[change[document]][0] += one["faithful"] > one["altered"]
        by_change[change[document]][1] += 1
    higher = sum(n for n, _ in by_change.values())
    return {"documents": len(by_document), "faithful_higher": higher, "by_change": by_change}


def main() -> None:
    """Count with the bundled model."""
    command_line(__doc__).parse_args()
    scorer = QualsScorer.from_pretrained(MODEL, device="cpu")
    result = {"signature": scorer.signature, **count(scorer)}
    finish("examples", result, weights=weights_of(MODEL))


if __name__ == "__main__":
    main()
