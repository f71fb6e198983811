"""Where the engine's search and the reference's part, and whether rounding may explain it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from bench.shared.engines import torch_engine
from quals_fast.batching import pad
from quals_fast.ops import GroupChoice
from quals_fast.reference.diverse_beam import Trace
from quals_fast.reference.tolerances import NEAR_TIE
from quals_fast.results import Hypothesis
from quals_fast.scorer import QualsScorer


def compare_search(
    expected: Sequence[Hypothesis], trace: Trace, scorer: QualsScorer, summary: str
) -> Literal["identical", "near_tie", "wrong"]:
    """Compare the engine's search of one summary with what the reference found and decided."""
    sequences, choices = _search(scorer, summary)
    if sequences == [hypothesis.token_ids for hypothesis in expected]:
        return "identical"
    margin = margin_where_they_part(trace, choices)
    return "wrong" if margin is None or margin >= NEAR_TIE else "near_tie"


def margin_where_they_part(expected: Trace, choices: Sequence[GroupChoice]) -> float | None:
    """Return the reference's margin at the first decision that another search takes differently.

    What a group has to choose from follows from all earlier decisions, so this decision alone parts
    the two. None if all decisions are equal.

    Args:
        expected: the reference's trace of one summary.
        choices: the other search's at each step; the first row of the batch counts.
    """
    for decisions, choice in zip(expected, choices, strict=False):
        token_ids, beam_idx = choice.token_ids[0].T.tolist(), choice.beam_idx[0].T.tolist()
        for group, decision in decisions.items():
            # What has no probability may stand in any order.
            chosen = [c for c in decision.choices if c.score > -float("inf")]
            pairs = list(zip(token_ids[group], beam_idx[group], strict=True))[: len(chosen)]
            if pairs != [(c.token_id, c.slot) for c in chosen]:
                return decision.margin
    return None


@torch.inference_mode()
def _search(scorer: QualsScorer, summary: str) -> tuple[list[tuple[int, ...]], list[GroupChoice]]:
    """Return the engine's sequences for one summary, and what its groups chose at each step."""
    engine = torch_engine(scorer)
    model = engine.model
    (source,) = model.tokenizer.encode([summary])
    ids, mask = pad([source.input_ids], model.conventions.pad_token_id, model.device)
    choices: list[GroupChoice] = []
    memory = model.network.encode(ids, mask)
    (hypotheses,) = engine.search_encoded(memory, scorer.decoding, choices.append)
    return [hypothesis.token_ids for hypothesis in hypotheses], choices
