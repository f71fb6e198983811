"""Log-probabilities of given targets, given documents that are encoded once.

Source: docs/semantics.md 1.4. The published program encodes the document again for each pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from quals_fast.batching import pad, run_batches
from quals_fast.models.cache import EncodingCache, encode_documents
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.results import TokenLogprobs

# Lengths are padded to multiples, since oneDNN keeps code for every shape that it has ever met:
# without them memory grew by 0.3 MiB a summary.
_SOURCE_MULTIPLE, _TARGET_MULTIPLE = 32, 8

Targets = Sequence[Sequence[int]]


def rescore(
    model: TorchModel,
    documents: Sequence[Sequence[int]],
    targets: Sequence[Targets],
    max_batch_tokens: int,
    cache: EncodingCache | None = None,
) -> list[list[TokenLogprobs]]:
    """Return the log-probability of every token of every target, in nats, by teacher forcing.

    Args:
        model: the model.
        documents: input ids of each document; equal ones are encoded once.
        targets: for each document the token ids of its targets, any number of them.
        max_batch_tokens: a document counts as its source and its targets.
        cache: of encoded documents.
    """
    rows: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, ids in enumerate(documents):
        if targets[row]:
            rows[tuple(ids)].append(row)
    unique = list(rows)
    joined = [[ids for row in rows[document] for ids in targets[row]] for document in unique]
    costs = [
        len(document) + len(group) * max(map(len, group))
        for document, group in zip(unique, joined, strict=True)
    ]
    of_rows: list[list[TokenLogprobs]] = [[] for _ in documents]

    def run(batch: list[int]) -> list[list[TokenLogprobs]]:
        memory = encode_documents(model, cache, [unique[i] for i in batch], _SOURCE_MULTIPLE)
        # After a failure batches are smaller than the budget, and so must their slices be.
        budget = min(max_batch_tokens, len(batch) * costs[batch[0]])
        return _rescore_batch(model, memory, [joined[i] for i in batch], budget)

    for i, of_document in run_batches(costs, max_batch_tokens, run):
        remaining = iter(of_document)
        for row in rows[unique[i]]:
            of_rows[row] = [next(remaining) for _ in targets[row]]
    return of_rows


def _rescore_batch(
    model: TorchModel, memory: SourceMemory, targets: Sequence[Targets], max_batch_tokens: int
) -> list[list[TokenLogprobs]]:
    """Decode the targets of B encoded documents, in slices of about the budget."""
    network, conventions = model.document_network, model.conventions
    positions = model.shape.max_position_embeddings
    of_rows: list[list[TokenLogprobs]] = [[] for _ in targets]
    longest = max(len(ids) for row in targets for ids in row)
    at_once = max(1, max_batch_tokens // (longest * len(targets)))
    for first in range(0, max(map(len, targets)), at_once):
        rows = [row[first : first + at_once] for row in targets]
        width = max(map(len, rows))
        # A document with fewer targets than its batch mates gets one-token stand-ins.
        flat = [
            ids
            for row in rows
            for ids in [*row, *[[conventions.pad_token_id]] * (width - len(row))]
        ]
        labels, mask = pad(
            flat, conventions.pad_token_id, model.device, _TARGET_MULTIPLE, positions
        )  # (B*Q, T)
        inputs = labels.roll(1, 1)
        inputs[:, 0] = conventions.decoder_start_token_id
        hidden = network.decode_teacher_forced(inputs.unflatten(0, (len(rows), width)), memory)
        # Real tokens only.
        logprobs = model.head.logprob(hidden.flatten(0, 1)[mask], labels[mask])
        parts = logprobs.split([len(ids) for ids in flat])
        for index, row in enumerate(rows):
            for part in parts[index * width : index * width + len(row)]:
                of_rows[index].append(tuple(part.tolist()))
    return of_rows
