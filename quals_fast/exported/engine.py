"""`generation.generate` and `rescoring.rescore` by exported graphs, without torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from quals_fast.batching import padded, run_batches
from quals_fast.config import DecodingConfig
from quals_fast.exported.beams import OnnxBeams
from quals_fast.exported.loading import OnnxGenerator
from quals_fast.exported.search import host_search
from quals_fast.results import Hypothesis, TokenLogprobs

_TOKENS = 1024  # rescored at once: their logits are V numbers each


def generate(
    generator: OnnxGenerator,
    sources: Sequence[Sequence[int]],
    config: DecodingConfig,
    max_batch_tokens: int,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield the index of each source with its hypotheses, in the rule's order, batch by batch.

    Args:
        generator: the loaded export.
        sources: input ids of each summary, special tokens included.
        config: settings of the search.
        max_batch_tokens: a summary counts as its source and all that its beams may decode.
    """

    def run(batch: list[int]) -> list[list[Hypothesis]]:
        ids, mask = padded([sources[i] for i in batch], generator.settings.pad_token_id)
        memory = generator.graphs["encoder"].run({"input_ids": ids, "attention_mask": mask})
        beams = OnnxBeams(generator, memory, mask, config.num_beams)
        return host_search(beams, generator.settings, config, len(batch))

    costs = [len(ids) + config.num_beams * (config.max_length + 1) for ids in sources]
    return run_batches(costs, max_batch_tokens, run)


def rescore(
    generator: OnnxGenerator,
    documents: Sequence[Sequence[int]],
    targets: Sequence[Sequence[Sequence[int]]],
    max_batch_tokens: int,
) -> list[list[TokenLogprobs]]:
    """Return the log-probability of every token of every target, nats, by teacher forcing.

    Args:
        generator: the loaded export.
        documents: input ids of each document; equal ones are encoded once, one at a time.
        targets: for each document the token ids of its targets, any number of them.
        max_batch_tokens: target tokens at once, at most.
    """
    rows: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, ids in enumerate(documents):
        if targets[row]:
            rows[tuple(ids)].append(row)
    found: list[list[TokenLogprobs]] = [[] for _ in documents]
    for document, mine in rows.items():
        joined = [ids for row in mine for ids in targets[row]]
        remaining = iter(_rescore_one(generator, document, joined, min(max_batch_tokens, _TOKENS)))
        for row in mine:
            found[row] = [next(remaining) for _ in targets[row]]
    return found


def _rescore_one(
    generator: OnnxGenerator,
    document: Sequence[int],
    targets: Sequence[Sequence[int]],
    budget: int,
) -> Iterator[TokenLogprobs]:
    """Encode a document and yield its targets' log-probabilities, in slices of the budget."""
    settings, graphs = generator.settings, generator.graphs
    ids, source_mask = padded([document], settings.pad_token_id)
    memory = graphs["document_encoder"].run({"input_ids": ids, "attention_mask": source_mask})
    at_once = max(1, budget // max(map(len, targets)))
    for first in range(0, len(targets), at_once):
        some = targets[first : first + at_once]
        labels, mask = padded(some, settings.pad_token_id)  # (Q, T)
        inputs = np.roll(labels, 1, 1)
        inputs[:, 0] = settings.decoder_start_token_id
        outputs = graphs["rescore"].run(
            {
                "decoder_input_ids": inputs[None],
                "token_rows": np.flatnonzero(mask),  # real tokens only
                "labels": labels[mask],
                "source_mask": source_mask,
                **memory,
            }
        )
        ends = np.cumsum([len(target) for target in some])[:-1]
        for part in np.split(outputs["logprobs"], ends):
            yield tuple(part.tolist())
