"""Do both programs reproduce the recorded end-to-end outputs of the original programs?

    python -m bench.golden --model ../shared/models/qagen-mini-v0 ../shared/golden/model_v0_*

The recordings contain news text and are not part of the project. The exit code is 1 if anything
differs.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

from bench.shared.common import finish
from bench.shared.options import command_line
from bench.shared.weights import weights_of
from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.reference.quals import ReferenceScorer, generate
from quals_fast.reference.tolerances import GOLDEN
from quals_fast.results import Hypothesis, SummaryScore
from quals_fast.scorer import QualsScorer

Numbers = Sequence[Sequence[float]]


def close(one: Numbers, other: Numbers) -> bool:
    """Return whether two ragged tables have one shape and agree within the tolerance."""
    return [len(row) for row in one] == [len(row) for row in other] and all(
        abs(a - b) <= GOLDEN
        for row, expected in zip(one, other, strict=True)
        for a, b in zip(row, expected, strict=True)
    )


def differences(
    record: dict[str, Any],
    hypotheses: Sequence[Hypothesis],
    by_model: SummaryScore,
    by_search: SummaryScore,
) -> list[str]:
    """Name what differs from the recording."""
    golden = record["hypotheses"]
    kept = [golden[i]["tokens"] for i in record["kept"]]
    documents = [pair.document_logprobs for pair in by_model.pairs]
    checks = {
        "hypotheses": [list(h.token_ids) for h in hypotheses] == [g["tokens"] for g in golden],
        "logprobs": close([h.logprobs for h in hypotheses], [g["logprobs"] for g in golden]),
        "score": close([[h.search_score for h in hypotheses]], [[g["score"] for g in golden]]),
        "kept": [list(pair.token_ids) for pair in by_model.pairs] == kept,
        "document_logprobs": close(documents, record["document_logprobs"]),
        "quals_model": close([[by_model.score]], [[record["quals_model"]]]),
        "quals_search": close([[by_search.score]], [[record["quals_search"]]]),
    }
    return [name for name, good in checks.items() if not good]


def main() -> None:
    """Check the reference and the engine against every record."""
    parser = command_line(__doc__)
    parser.add_argument("golden", type=Path, nargs="+", help="recordings to check against")
    parser.add_argument("--model", required=True, help="folder of the recorded model")
    arguments = parser.parse_args()
    records = [
        record
        for path in arguments.golden
        for record in json.loads(gzip.decompress(path.read_bytes()))
    ]
    wrong: dict[str, list[str]] = {}
    makers: dict[str, Callable[..., Any]] = {
        "reference": ReferenceScorer,
        "engine": partial(QualsScorer.from_pretrained, device="cpu", dtype="float32"),
    }
    for program, make in makers.items():
        scorers = {
            (rule, logprob): make(
                arguments.model,
                decoding=DecodingConfig(rule=rule),
                scoring=ScoringConfig(summary_logprob=logprob),
            )
            for rule in {record["rule"] for record in records}
            for logprob in ("model", "search")
        }
        for record in track(records, description=program):
            by_model, by_search = (scorers[record["rule"], p] for p in ("model", "search"))
            texts = [record["document"]], [record["summary"]]
            if isinstance(by_model, QualsScorer):
                (hypotheses,) = by_model.generate(texts[1])
            else:
                hypotheses = generate(by_model.model, texts[1][0], by_model.decoding)
            parts = differences(
                record, hypotheses, by_model.score(*texts)[0], by_search.score(*texts)[0]
            )
            if parts:
                wrong[f"{program} {record['rule']} {record['id']}"] = parts
    result = {"records": len(records), "tolerance": GOLDEN, "different": wrong}
    finish("golden", result, weights=weights_of(arguments.model))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
