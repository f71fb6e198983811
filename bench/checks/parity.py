"""Does the engine find the same token ids as the reference on real summaries, under both rules?

    python -m bench.parity --data ../shared/data/docsum_pairs.jsonl.gz --rows 300
    python -m bench.parity --data ../shared/data/docsum_pairs.jsonl.gz --rows 100 --model t5-small

Two correct float32 programs may differ in near ties: a summary may differ if, at the first step at
which the two searches differ, the reference decided with a margin under 2e-5. Near ties are counted
and must be at most 3 % of the summaries, or one; 10 % for a T5 that is made here, since with random
weights many words are about equally likely. If there are more, or the engine differs otherwise, the
exit code is 1. With `--dtype`, the engine's scores in another type are compared with its float32
scores, too.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from rich.progress import track

from bench.checks.near_ties import compare_search
from bench.checks.precision import agreement
from bench.recipes.grow import folder_of
from bench.shared.common import EXAMPLES, Pair, finish, load_pairs, texts_of
from bench.shared.options import T5S, TINY, command_line
from bench.shared.weights import weights_of
from quals_fast.config import DecodingConfig, Rule
from quals_fast.reference import quals
from quals_fast.reference.diverse_beam import Trace
from quals_fast.reference.model import ReferenceModel
from quals_fast.reference.tolerances import MAX_NEAR_TIES, NEAR_TIE, QUALS
from quals_fast.scorer import QualsScorer

# Share of summaries, as MAX_NEAR_TIES: 6 % were seen with t5-small. Without a bound, wrong scores
# could pass as near ties, since almost every such search has some.
MAX_NEAR_TIES_OF_RANDOM_WEIGHTS = 0.1


def compare(rule: Rule, pairs: list[Pair], model: str | Path, device: str) -> dict[str, Any]:
    """Score all pairs with both programs under one rule; the reference runs on the CPU."""
    config = DecodingConfig(rule=rule)
    reference = ReferenceModel(model)
    # The reference encodes a document once per pair; the same document gives the same states.
    encode = lru_cache(maxsize=2)(reference.encode)
    mock.patch.object(reference, "encode", lambda ids: encode(tuple(ids))).start()
    scorer = QualsScorer.from_pretrained(model, device=device, dtype="float32", decoding=config)
    result = scorer.score(*texts_of(pairs))
    names: dict[str, list[str]] = {"identical": [], "near_tie": [], "wrong": []}
    deltas: list[float] = []
    for pair, one in track(list(zip(pairs, result.flat(), strict=True)), description=rule):
        trace: Trace = []
        expected = quals.generate(reference, pair.summary, config, trace)
        outcome = compare_search(expected, trace, scorer, pair.summary)
        if outcome == "identical":
            score = quals.score_hypotheses(reference, pair.document, pair.summary, expected)
            deltas.append(abs(score.score - one.score) if one.status == "ok" else 0.0)
            if one.status != score.status or not deltas[-1] <= QUALS:
                # Alone it is equal: rounding in the batch took another decision, if one was near.
                smallest = min(d.margin for step in trace for d in step.values())
                outcome = "near_tie" if smallest < NEAR_TIE else "wrong"
        names[outcome].append(pair.id)
    return {
        "rows": len(pairs),
        "identical_sequences": len(names["identical"]) / len(pairs),
        "near_ties": names["near_tie"],
        "wrong": names["wrong"],
        "max_abs_delta": max(deltas, default=None),
        "mean_abs_delta": sum(deltas) / len(deltas) if deltas else None,
    }


def compare_dtype(
    dtype: str, rule: Rule, pairs: list[Pair], model: str | Path, device: str
) -> dict[str, Any]:
    """Compare the engine's scores in a type with its float32 scores."""
    texts = texts_of(pairs)
    expected, scored = (
        QualsScorer.from_pretrained(
            model, device=device, dtype=one, decoding=DecodingConfig(rule=rule)
        ).score(*texts)
        for one in ("float32", dtype)
    )
    return agreement(expected, scored)


def main() -> None:
    """Compare under both rules."""
    parser = command_line(__doc__, data=[EXAMPLES], rows=300)
    parser.add_argument(
        "--rules",
        nargs="+",
        choices=get_args(Rule),
        default=get_args(Rule),
        help="search rules; both by default",
    )
    parser.add_argument(
        "--model",
        default="qagen-mini",
        help=f"bundled model, folder, tiny, or one of {', '.join(T5S)}, which get results of "
        "their own",
    )
    parser.add_argument("--device", default="cpu", help="device of the engine")
    parser.add_argument("--dtype", help="also compare this type with float32")
    parser.add_argument("--dtype-rows", type=int, default=50, help="rows for --dtype")
    arguments = parser.parse_args()
    pairs = load_pairs(arguments.data, arguments.rows)
    is_made = arguments.model in (TINY, *T5S)
    model = folder_of(arguments.model) if is_made else arguments.model
    prefix = "parity_t5" if arguments.model in T5S else "parity"
    weights = weights_of(arguments.model)
    most = MAX_NEAR_TIES_OF_RANDOM_WEIGHTS if arguments.model in T5S else MAX_NEAR_TIES
    good = True
    for rule in arguments.rules:
        result = {"model": arguments.model, "data": [path.name for path in arguments.data]}
        result |= compare(rule, pairs, model, arguments.device)
        good &= not result["wrong"]
        good &= len(result["near_ties"]) <= max(1, most * len(pairs))
        finish(f"{prefix}_{rule}", result, arguments.device, weights=weights)
        if arguments.dtype is not None:
            more = load_pairs(arguments.data, arguments.dtype_rows)
            agreed = compare_dtype(arguments.dtype, rule, more, model, arguments.device)
            finish(
                f"{prefix}_{rule}",
                result | {f"{arguments.dtype}_vs_float32": agreed},
                arguments.device,
                weights=weights,
            )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
