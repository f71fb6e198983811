"""Is the engine equal to the reference on real summaries? Both rules, identical token ids.

    python -m bench.parity --data ../shared/data/docsum_pairs.jsonl.gz --rows 100

"Identical" allows what two correct fp32 programs may do: a sentence may differ if, at the first
step at which the two searches part, the reference decided with a margin under 2e-5. Such sentences
are counted and must be at most 3 %. Ends with exit code 1 where the engine is not equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from rich.progress import track

from bench.common import EXAMPLES, Pair, finish, load_pairs
from quals_fast.batching import pad
from quals_fast.config import DecodingConfig, Rule
from quals_fast.decoding.diverse_beam import diverse_beam_search
from quals_fast.generation import vocabulary
from quals_fast.models.beams import BartBeams
from quals_fast.reference import quals
from quals_fast.reference.diverse_beam import Trace
from quals_fast.reference.generator import ReferenceGenerator
from quals_fast.scorer import QualsScorer

NEAR_TIE = 2e-5
MAX_NEAR_TIES = 0.03
MAX_DELTA = 1e-4


@torch.inference_mode()
def engine_trace(scorer: QualsScorer, summary: str) -> Trace:
    """Record the engine's decisions on one summary."""
    generator, config = scorer.generator, scorer.decoding
    (source,) = generator.tokenizer.encode([summary])
    ids, mask = pad([source.input_ids], generator.settings.pad_token_id, torch.device("cpu"))
    trace = Trace()

    def record(tokens: torch.Tensor, origins: torch.Tensor) -> None:
        trace.tokens.append(tokens[0].tolist())
        trace.origins.append(origins[0].tolist())

    beams = BartBeams(
        generator.bart, generator.bart.encode(ids, mask), config.num_beams, config.max_length + 1
    )
    diverse_beam_search(
        beams, vocabulary(generator), config, 1, torch.device("cpu"), on_step=record
    )
    return trace


def margin_where_they_part(expected: Trace, found: Trace) -> float:
    """Return the reference's smallest margin at the first step at which the searches differ."""
    steps = zip(
        expected.tokens,
        expected.origins,
        expected.margins,
        found.tokens,
        found.origins,
        strict=False,
    )
    for tokens, origins, margin, found_tokens, found_origins in steps:
        if (tokens, origins) != (found_tokens, found_origins):
            return margin
    return expected.margins[min(len(expected.margins), len(found.tokens)) - 1]


def compare(rule: Rule, pairs: list[Pair], model: str) -> dict[str, Any]:
    """Score all pairs with both programs under one rule."""
    config = DecodingConfig(rule=rule)
    reference = ReferenceGenerator(model)
    scorer = QualsScorer.from_pretrained(model, device="cpu", decoding=config)
    result = scorer.score([p.document for p in pairs], [p.summary for p in pairs])
    hypotheses = scorer.generate([p.summary for p in pairs])
    identical = 0
    near_ties: list[str] = []
    wrong: list[str] = []
    deltas: list[float] = []
    for pair, one, found in track(
        list(zip(pairs, result.flat(), hypotheses, strict=True)), description=rule
    ):
        trace = Trace()
        expected = quals.generate(reference, pair.summary, config, trace)
        if [h.token_ids for h in expected] == [h.token_ids for h in found]:
            identical += 1
            score = quals.score_hypotheses(reference, pair.document, pair.summary, expected)
            deltas.append(abs(score.score - one.score) if one.status == "ok" else 0.0)
            if one.status != score.status or not deltas[-1] <= MAX_DELTA:
                wrong.append(pair.id)
        elif margin_where_they_part(trace, engine_trace(scorer, pair.summary)) < NEAR_TIE:
            near_ties.append(pair.id)
        else:
            wrong.append(pair.id)
    return {
        "rows": len(pairs),
        "identical_sequences": identical / len(pairs),
        "near_ties": near_ties,
        "wrong": wrong,
        "max_abs_delta": max(deltas, default=None),
        "mean_abs_delta": sum(deltas) / len(deltas) if deltas else None,
    }


def main() -> None:
    """Compare under both rules."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", default=[EXAMPLES])
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--model", default="qagen-mini")
    arguments = parser.parse_args()
    pairs = load_pairs(arguments.data, arguments.rows)
    rules = {rule: compare(rule, pairs, arguments.model) for rule in get_args(Rule)}
    finish("parity", {"model": arguments.model, "data": [p.name for p in arguments.data], **rules})
    good = all(
        not one["wrong"] and len(one["near_ties"]) <= MAX_NEAR_TIES * one["rows"]
        for one in rules.values()
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
