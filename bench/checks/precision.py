"""What does each number type cost in agreement and gain in speed? The basis of dtype="auto".

    python -m bench.precision --data ../shared/data/docsum_pairs.jsonl.gz --rows 100

All types score the same rows in turn with the bundled model, and are compared with float32. `auto`
must be the fastest type with a rank correlation of at least 0.99.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from bench.shared.common import EXAMPLES, finish, load_pairs, texts_of
from bench.shared.engines import torch_model
from bench.shared.options import command_line
from bench.shared.timing import in_turn, ratios
from bench.shared.weights import MODEL, weights_of
from quals_fast import QualsResult, QualsScorer

DTYPES = ("float32", "mixed")  # that a CPU takes


def agreement(expected: QualsResult, scored: QualsResult) -> dict[str, Any]:
    """Compare scores and kept pairs; rows without a score in both are left out."""
    rows = [
        (a, b)
        for a, b in zip(expected.flat(), scored.flat(), strict=True)
        if a.status == b.status == "ok"
    ]
    scores = np.array([(a.score, b.score) for a, b in rows])
    kept = [({p.token_ids for p in a.pairs}, {p.token_ids for p in b.pairs}) for a, b in rows]
    deltas = np.abs(scores[:, 0] - scores[:, 1])
    return {
        "rows": len(rows),
        "mean_abs_delta": float(deltas.mean()),
        "max_abs_delta": float(deltas.max()),
        "spearman": float(spearmanr(scores[:, 0], scores[:, 1]).statistic),
        "identical": float(np.mean([a == b for a, b in kept])),
        "shared_pairs": float(np.mean([len(a & b) / len(a | b) for a, b in kept])),
    }


def main() -> None:
    """Score the rows in every type, round by round."""
    parser = command_line(__doc__, data=[EXAMPLES], rows=100)
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds on a tenth of the rows, to measure speed"
    )
    arguments = parser.parse_args()
    pairs = load_pairs(arguments.data, arguments.rows)
    texts = texts_of(pairs)
    few = tuple(column[: max(4, len(pairs) // 10)] for column in texts)
    scorers = {d: QualsScorer.from_pretrained(device="cpu", dtype=d) for d in DTYPES}
    results = {d: scorer.score(*texts) for d, scorer in scorers.items()}
    runs = {d: partial(scorer.score, *few) for d, scorer in scorers.items()}
    seconds = in_turn(runs, arguments.rounds)
    dtypes = {
        d: agreement(results["float32"], results[d])
        | {"speedup_vs_float32": ratios(seconds["float32"], seconds[d])}
        for d in DTYPES
    }
    auto = torch_model(QualsScorer.from_pretrained(device="cpu")).precision.name
    result = {"data": [p.name for p in arguments.data], "auto": auto, "dtypes": dtypes}
    finish("precision", result, weights=weights_of(MODEL))


if __name__ == "__main__":
    main()
