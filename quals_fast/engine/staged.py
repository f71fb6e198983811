"""Scoring in stages: generate for all summaries, filter each, then rescore for all documents.

PyTorch on a CPU and ONNX Runtime score this way. Each stage makes its own batches of texts of
similar length, and may read any value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from quals_fast.batching import run_batches
from quals_fast.config import DecodingConfig
from quals_fast.engine.filtering import KeptPair, keep_pairs
from quals_fast.engine.protocol import Engine, Scored, TextPair
from quals_fast.models.tokenizer import Source
from quals_fast.results import Hypothesis


def score_in_stages(
    engine: Engine,
    pairs: Sequence[TextPair],
    decoding: DecodingConfig,
    max_pairs: int | None,
    on_progress: Callable[[int], None],
) -> list[Scored]:
    """Score by an engine's `search` and `rescore`; other arguments as for `Engine.score`."""
    model = engine.model
    kept: dict[int, tuple[list[KeptPair], int]] = {}
    for i, hypotheses in engine.search([pair.summary for pair in pairs], decoding):
        about = keep_pairs(
            hypotheses, pairs[i].summary, model.tokenizer, model.conventions, max_pairs
        )
        kept[i] = about, len(hypotheses)
        on_progress(1)
    in_order = [kept[i] for i in range(len(pairs))]
    targets = [[one.hypothesis.token_ids for one in about] for about, _ in in_order]
    logprobs = engine.rescore([pair.document for pair in pairs], targets)
    return [Scored(*one, of_kept) for one, of_kept in zip(in_order, logprobs, strict=True)]


def search_in_batches(
    summaries: Sequence[Source],
    decoding: DecodingConfig,
    max_batch_tokens: int,
    search: Callable[[list[list[int]]], Iterable[list[Hypothesis]]],
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Search as `Engine.search`, batch by batch.

    Args:
        summaries: as there.
        decoding: as there.
        max_batch_tokens: a summary counts as its source and all that its beams may decode.
        search: searches the hypotheses of a batch, given the input ids of its sources.
    """
    sources = [summary.input_ids for summary in summaries]
    of_beams = decoding.num_beams * (decoding.max_length + 1)
    return run_batches(
        [len(ids) + of_beams for ids in sources],
        max_batch_tokens,
        lambda batch: search([sources[i] for i in batch]),
    )
