"""Diverse beam search as the original programs do it, one sentence at a time.

Both rules of docs/semantics.md 1.1. Slots are interleaved: slot = rank * G + g.
Sources: fairseq 0.9 (sequence_generator.py, search.py), transformers 4.55 (group beam search).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.results import Hypothesis

NEG_INF = -torch.inf


class NextLogprobs(Protocol):
    """A language model that remembers what each slot has decoded."""

    eos_token_id: int
    pad_token_id: int
    decoder_start_token_id: int
    forced_bos_token_id: int | None

    def next_logprobs(self, token_ids: Sequence[int], beam_idx: Sequence[int] | None) -> Tensor:
        """Return log-probabilities ``(K, V)``, float32, after slot k's new token.

        Slot k goes on from slot ``beam_idx[k]``; None at the first step.
        """
        ...


class Slot(NamedTuple):
    """A hypothesis that is still growing."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    search_logprobs: tuple[float, ...]
    score: float  # sum of search_logprobs, as the search adds it up in float32


class Choice(NamedTuple):
    """A candidate that a group chose: `slot` continued by `token_id`."""

    score: float
    token_id: int
    slot: int


class Decision(NamedTuple):
    """What one group chose at one step; margin is the smallest gap among its 2n + 1 best scores."""

    choices: list[Choice]
    margin: float


Trace: TypeAlias = list[dict[int, Decision]]  # for each step, the decisions of the groups


def diverse_beam_search(
    model: NextLogprobs, config: DecodingConfig, trace: Trace | None = None
) -> list[Hypothesis]:
    """Return `config.num_beams` hypotheses in the rule's order, best first."""
    search = _fairseq09 if config.rule == "fairseq09" else _hamming
    return search(model, config, [] if trace is None else trace)


def _fairseq09(model: NextLogprobs, config: DecodingConfig, trace: Trace) -> list[Hypothesis]:
    """Every choice of an earlier group penalises; survivors move up when a slot finishes."""
    groups, n = config.num_beam_groups, config.group_size
    finished: list[Hypothesis] = []
    slots, logprobs, start = _start(model, config)
    beam_idx: list[int] = []
    for t in range(start, config.max_length + 1):
        if t > start:
            logprobs = model.next_logprobs([s.token_ids[-1] for s in slots], beam_idx)
        masked = _mask(logprobs, model, config, t)
        penalty = torch.zeros(masked.shape[1])
        decisions: dict[int, Decision] = {}
        for g in range(groups):
            rows = range(g, g + groups if t == start else config.num_beams, groups)
            decisions[g] = _beam_step(masked, penalty, config.diversity_penalty, slots, rows, 2 * n)
            for choice in decisions[g].choices:
                penalty[choice.token_id] += 1
        trace.append(decisions)
        candidates = [decisions[g].choices[rank] for rank in range(2 * n) for g in range(groups)]
        for position, choice in enumerate(candidates):
            is_first = position < config.num_beams  # rank < n
            if (
                choice.token_id == model.eos_token_id
                and is_first
                and len(finished) < config.num_beams
            ):
                finished.append(_finish(_grow(slots, choice, logprobs), config))
        going_on = [c for c in candidates if c.token_id != model.eos_token_id][: config.num_beams]
        slots = [_grow(slots, choice, logprobs) for choice in going_on]
        beam_idx = [choice.slot for choice in going_on]
        if len(finished) == config.num_beams:
            break
    return sorted(finished, key=lambda h: -h.search_score)


def _hamming(model: NextLogprobs, config: DecodingConfig, trace: Trace) -> list[Hypothesis]:
    """Only the tokens that continue earlier groups penalise; each group has its own pool."""
    groups, n = config.num_beam_groups, config.group_size
    pools: list[list[Hypothesis]] = [[] for _ in range(groups)]
    slots, logprobs, start = _start(model, config)
    beam_idx: list[int] = []
    for t in range(start, config.max_length + 1):
        if t > start:
            logprobs = model.next_logprobs([s.token_ids[-1] for s in slots], beam_idx)
        masked = _mask(logprobs, model, config, t)
        strength = config.diversity_penalty
        if t == config.max_length:  # EOS is forced at log-probability 0, unpenalised
            masked = torch.where(masked == NEG_INF, masked, 0.0)
            strength = 0.0
        penalty = torch.zeros(masked.shape[1])
        continued: list[list[Choice]] = []
        trace.append({})
        for g in range(groups):
            if len(pools[g]) >= n:  # the group has stopped: it emits PAD
                slots_of_group = range(g, config.num_beams, groups)
                continued.append([Choice(0.0, model.pad_token_id, slot) for slot in slots_of_group])
                continue
            rows = range(g, g + groups if t == start else config.num_beams, groups)
            trace[-1][g] = _beam_step(masked, penalty, strength, slots, rows, 2 * n)
            chosen = trace[-1][g].choices
            for choice in chosen[:n]:
                if choice.token_id == model.eos_token_id:
                    _add(pools[g], _finish(_grow(slots, choice, logprobs), config), n)
            going_on = [c for c in chosen if c.token_id != model.eos_token_id][:n]
            for choice in going_on:
                penalty[choice.token_id] += 1
            continued.append(going_on)
        if all(len(pool) >= n for pool in pools):
            break
        choices = [continued[g][rank] for rank in range(n) for g in range(groups)]
        slots = [_grow(slots, choice, logprobs) for choice in choices]
        beam_idx = [choice.slot for choice in choices]
    everything = [hypothesis for pool in pools for hypothesis in pool]
    return sorted(reversed(everything), key=lambda h: -h.search_score)


def _start(model: NextLogprobs, config: DecodingConfig) -> tuple[list[Slot], Tensor, int]:
    """Return the slots, what may come next, and the first step that decides anything."""
    beams = config.num_beams
    slots = [Slot((), (), (), 0.0)] * beams
    logprobs = model.next_logprobs([model.decoder_start_token_id] * beams, None)
    bos = model.forced_bos_token_id
    if bos is None:
        return slots, logprobs, 0
    slots = [Slot((bos,), (float(row[bos]),), (0.0,), 0.0) for row in logprobs]
    return slots, model.next_logprobs([bos] * beams, list(range(beams))), 1


def _mask(logprobs: Tensor, model: NextLogprobs, config: DecodingConfig, t: int) -> Tensor:
    """Forbid tokens after the softmax, without renormalising."""
    masked = logprobs.clone()
    masked[:, model.pad_token_id] = NEG_INF
    if t < config.min_length:
        masked[:, model.eos_token_id] = NEG_INF
    if t == config.max_length:
        masked[:] = NEG_INF
        masked[:, model.eos_token_id] = logprobs[:, model.eos_token_id]
    return masked


def _beam_step(
    logprobs: Tensor, penalty: Tensor, strength: float, slots: list[Slot], rows: range, count: int
) -> Decision:
    """Return the `count` best (row, token) of a group, and the smallest gap among count + 1.

    Of equal scores the lowest (row, token) wins.
    """
    own = torch.tensor([slots[row].score for row in rows])
    scores = (logprobs[list(rows)] - strength * penalty + own[:, None]).flatten()
    values, positions = _stable_topk(scores, count + 1)
    finite = [value for value in values if value > NEG_INF]
    margin = min((a - b for a, b in pairwise(finite)), default=torch.inf)
    vocab_size = logprobs.shape[1]
    choices = [
        Choice(value, position % vocab_size, rows[position // vocab_size])
        for value, position in zip(values[:count], positions[:count], strict=True)
    ]
    return Decision(choices, margin)


def _stable_topk(scores: Tensor, count: int) -> tuple[list[float], list[int]]:
    """Return the best scores and their positions; of equal ones the lowest positions."""
    threshold = scores.topk(count).values[-1]
    positions = (scores >= threshold).nonzero()[:, 0]  # ascending, ties at the edge included
    values, order = scores[positions].sort(descending=True, stable=True)
    return values[:count].tolist(), positions[order[:count]].tolist()


def _grow(slots: list[Slot], choice: Choice, logprobs: Tensor) -> Slot:
    old = slots[choice.slot]
    return Slot(
        (*old.token_ids, choice.token_id),
        (*old.logprobs, float(logprobs[choice.slot, choice.token_id])),
        (*old.search_logprobs, choice.score - old.score),
        choice.score,
    )


def _finish(slot: Slot, config: DecodingConfig) -> Hypothesis:
    return Hypothesis(
        token_ids=slot.token_ids,
        logprobs=slot.logprobs,
        search_logprobs=slot.search_logprobs,
        search_sum=slot.score,
        search_score=slot.score / len(slot.token_ids) ** config.length_penalty,
    )


def _add(pool: list[Hypothesis], hypothesis: Hypothesis, size: int) -> None:
    """Put a hypothesis into a pool of the `size` best; of equally bad ones the oldest goes."""
    if len(pool) < size:
        pool.append(hypothesis)
    elif hypothesis.search_score > min(h.search_score for h in pool):
        pool.append(hypothesis)
        pool.remove(min(pool, key=lambda h: h.search_score))
