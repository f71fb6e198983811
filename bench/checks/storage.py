r"""What does storing the bundled model as int8 cost in score?

    python -m bench.storage --original runs/qagen-mini \
        --data ../shared/data/factcons_*

Scores the same human-judged pairs with the stored and the original weights, both in float32.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from scipy.stats import pearsonr, spearmanr

from bench.shared.common import finish, load_pairs, texts_of
from bench.shared.options import command_line
from bench.shared.weights import MODEL, ORIGINAL, bundled, describe, weights_of
from quals_fast.results import QualsResult
from quals_fast.scorer import QualsScorer


def main() -> None:
    """Score with both, compare."""
    parser = command_line(__doc__, rows=120)
    parser.add_argument("--original", required=True, help="folder with the original weights")
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="JSON lines with human labels"
    )
    arguments = parser.parse_args()
    pairs = load_pairs(arguments.data, arguments.rows)
    documents, summaries = texts_of(pairs)
    results: dict[str, QualsResult] = {}
    with Progress() as progress:
        for name, model in (("original", arguments.original), ("stored", MODEL)):
            advance = partial(progress.advance, progress.add_task(name, total=len(pairs)))
            scorer = QualsScorer.from_pretrained(model, device="cpu", dtype="float32")
            results[name] = scorer.score(documents, summaries, on_progress=advance)
    scores = {name: np.array(result.scores) for name, result in results.items()}
    have_both = np.isfinite(scores["original"]) & np.isfinite(scores["stored"])
    x, y = scores["original"][have_both], scores["stored"][have_both]
    shared = [
        len({p.token_ids for p in a.pairs} & {p.token_ids for p in b.pairs}) / len(a.pairs)
        for a, b in zip(results["original"].flat(), results["stored"].flat(), strict=True)
        if a.pairs
    ]
    result: dict[str, Any] = {
        "rows": int(have_both.sum()),
        "data": [path.name for path in arguments.data],
        "mean_abs_delta": float(np.abs(x - y).mean()),
        "max_abs_delta": float(np.abs(x - y).max()),
        "mean_delta": float((y - x).mean()),
        "score_std": float(x.std()),
        "spearman": float(spearmanr(x, y).statistic),
        "shared_pairs": float(np.mean(shared)),
    }
    sets = np.array([pair.id.split("-")[0] for pair in pairs])[have_both]
    labels = np.array([pair.label for pair in pairs], dtype=float)[have_both]
    result["pearson_with_labels"] = {
        str(name): {
            "original": float(pearsonr(x[sets == name], labels[sets == name]).statistic),
            "stored": float(pearsonr(y[sets == name], labels[sets == name]).statistic),
            "n": int((sets == name).sum()),
        }
        for name in np.unique(sets)
    }
    original = describe(arguments.original) | {"recipe": ORIGINAL, "from": bundled(MODEL)}
    finish("storage", result, weights={**weights_of(MODEL), "original": original})


if __name__ == "__main__":
    main()
