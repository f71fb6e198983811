"""Log-probabilities of given targets, given documents that are encoded once.

Source: docs/semantics.md 1.4. The published program encodes the document again for each pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from quals_fast.batching import pad, run_batches
from quals_fast.models.cache import EncodingCache, hidden_states
from quals_fast.models.loading import TorchModel
from quals_fast.models.targets import pack
from quals_fast.results import TokenLogprobs

# Documents are padded to a multiple, since oneDNN keeps code for every shape that it has ever met:
# without it memory grew by 0.3 MiB a summary. Rows of targets are padded by the layers themselves.
_SOURCE_MULTIPLE = 32
_MAX_SLOTS = 2048  # of a document at once: attention between its targets takes the square of them

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
        len(document) + sum(map(len, group)) for document, group in zip(unique, joined, strict=True)
    ]
    of_rows: list[list[TokenLogprobs]] = [[] for _ in documents]

    def encode(some: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        positions = model.shape.max_position_embeddings
        ids, mask = pad(
            some, model.conventions.pad_token_id, model.device, _SOURCE_MULTIPLE, positions
        )
        return model.document_network.encode_hidden(ids, mask), mask

    def run(batch: list[int]) -> list[list[TokenLogprobs]]:
        states, mask = hidden_states(
            model, cache, [unique[i] for i in batch], _SOURCE_MULTIPLE, encode
        )
        # After a failure batches are smaller than the budget, and so must their slices be.
        budget = min(max_batch_tokens, len(batch) * costs[batch[0]])
        most = min(_MAX_SLOTS, budget // len(batch))
        slices = [_slices(joined[i], most) for i in batch]
        of_batch: list[list[TokenLogprobs]] = [[] for _ in batch]
        for at in range(max(map(len, slices))):
            some = [one[at] if at < len(one) else [] for one in slices]
            for own, found in zip(of_batch, _rescore(model, states, mask, some), strict=True):
                own += found
        return of_batch

    for i, of_document in run_batches(costs, max_batch_tokens, run):
        remaining = iter(of_document)
        for row in rows[unique[i]]:
            of_rows[row] = [next(remaining) for _ in targets[row]]
    return of_rows


def _slices(targets: Targets, most: int) -> list[list[Sequence[int]]]:
    """Cut targets into lists of so many tokens at most, or of one target."""
    slices: list[list[Sequence[int]]] = []
    room = 0
    for ids in targets:
        if len(ids) > room or not slices:
            slices.append([])
            room = most
        slices[-1].append(ids)
        room -= len(ids)
    return slices


def _rescore(
    model: TorchModel, states: Tensor, mask: Tensor, targets: Sequence[Targets]
) -> list[list[TokenLogprobs]]:
    """Decode the targets of B encoded documents: states ``(B, S, d)``, mask ``(B, S)``."""
    conventions = model.conventions
    width = max(map(len, targets))
    lengths = torch.zeros(len(targets), width, dtype=torch.int64, device="cpu")
    flat = [ids for row in targets for ids in row]
    for index, row in enumerate(targets):
        lengths[index, : len(row)] = torch.tensor([len(ids) for ids in row], device="cpu")
    ids, _ = pad(flat, conventions.pad_token_id, torch.device("cpu"))
    token_ids = ids.new_full((len(targets), width, ids.shape[1]), conventions.pad_token_id)
    token_ids[lengths > 0] = ids
    found = logprobs_of_targets(
        model,
        states,
        mask,
        token_ids.to(model.device),
        lengths.to(model.device),
        n_rows=int(lengths.sum()),
        n_slots=int(lengths.sum(1).max()),
    )
    logprobs = iter(found.split([*map(len, flat)]))
    return [[tuple(next(logprobs).tolist()) for _ in row] for row in targets]


def logprobs_of_targets(
    model: TorchModel,
    states: Tensor,
    mask: Tensor,
    token_ids: Tensor,
    lengths: Tensor,
    *,
    n_rows: int,
    n_slots: int,
) -> Tensor:
    """Return the log-probability of each token of packed targets, ``(R,)``; no value is read.

    Args:
        model: the model.
        states: of B documents, from `hidden_states`. Shape ``(B, S, d)``.
        mask: True for their tokens. Shape ``(B, S)``.
        token_ids: as for `pack`, like the next one.
        lengths: see there.
        n_rows: R, as there.
        n_slots: M, as there.
    """
    start = model.conventions.decoder_start_token_id
    targets = pack(token_ids, lengths, start, n_rows, n_slots)
    hidden = model.document_network.decode_packed(targets, states, mask)
    return model.head.logprob(hidden, targets.labels)
