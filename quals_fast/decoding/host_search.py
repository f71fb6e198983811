"""Diverse beam search on the host, in numpy, where looks at the values are free: on a CPU.

The same two rules, slots (slot = rank * G + g) and ties as in `decoding.rules`. Histories are never
moved: each step stores which slot every slot came from, and a hypothesis is read backwards when it
is asked for. `tests/decoding/test_host_search.py` holds it against `decoding.diverse_beam`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from quals_fast_kernels.group_select_host import HostChoice, group_select_host

from quals_fast.config import DecodingConfig
from quals_fast.models.checkpoint import Conventions
from quals_fast.results import Hypothesis

FEW_CANDIDATES = 16  # candidates a row and beam of a group: enough in nearly all steps


OnChoice = Callable[[HostChoice], None]


class HostModel(Protocol):
    """A decoder with a memory of what each slot has decoded."""

    def advance(
        self, token_ids: np.ndarray, beam_idx: np.ndarray, live: np.ndarray, t: int
    ) -> None:
        """Let slot k go on from slot ``beam_idx[b, k]`` with ``token_ids[b, k]`` at step `t`.

        Args:
            token_ids: Shape ``(B, K)``, int64.
            beam_idx: Shape ``(B, K)``, int64.
            live: slots that still matter; of the others anything may come. Shape ``(B, K)``, bool.
            t: step, from 0; there all slots are alike.
        """
        ...

    def topk(
        self, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k likeliest next tokens, log-probabilities and ids, ``(B, K, k)`` each.

        Ids ascend in each row; `suppressed` ones have -inf, put on after the softmax. Of equals at
        the edge the lowest ids are in; without `exact_edge` any may be.
        """
        ...

    def logprob_of(self, token_id: int) -> np.ndarray:
        """Return one token's log-probability as the next. Shape ``(B, K)``."""
        ...


class _Step(NamedTuple):
    """What every slot decoded at a step; each ``(B, K)``."""

    token_ids: np.ndarray
    beam_idx: np.ndarray
    logprobs: np.ndarray
    search_logprobs: np.ndarray


class _Finished(NamedTuple):
    """A hypothesis that ended at step `t`, as slot `beam_idx` of the step before would go on."""

    t: int
    beam_idx: int
    logprob: float
    search_logprob: float
    total: float  # summed search log-probabilities
    score: float
    serial: int  # when it finished; breaks ties


def host_search(
    model: HostModel,
    conventions: Conventions,
    config: DecodingConfig,
    batch_size: int,
    on_choice: OnChoice | None = None,
) -> list[list[Hypothesis]]:
    """Search `config.num_beams` hypotheses for each of B sentences, in the rule's order.

    Args:
        model: the language model.
        conventions: its special tokens.
        config: rule, sizes, penalty and lengths.
        batch_size: B.
        on_choice: called with what the groups chose at every step.
    """
    search = _SEARCHES[config.rule](model, conventions, config, batch_size, on_choice)
    for t in range(config.max_length + 1):
        search.step(t)
        if not search.live().any():
            break
    return [search.hypotheses(b) for b in range(batch_size)]


class _Search(ABC):
    """What the rules share; the arguments are those of `host_search`."""

    #: Whether a forced EOS counts in the search with its own log-probability and penalty.
    forced_end_is_scored: bool

    def __init__(
        self,
        model: HostModel,
        conventions: Conventions,
        config: DecodingConfig,
        batch_size: int,
        on_choice: OnChoice | None,
    ) -> None:
        self._on_choice = on_choice
        self.model, self.conventions, self.config = model, conventions, config
        self.beams, self.groups = config.num_beams, config.num_beam_groups
        shape = batch_size, self.beams
        self._tokens = np.full(shape, conventions.decoder_start_token_id, np.int64)
        self._beam_idx = np.broadcast_to(np.arange(self.beams), shape)
        # All slots start alike, so only the first rank of each group may be continued at first.
        self.beam_scores = np.zeros(shape, np.float32)
        self.beam_scores[:, self.groups :] = -np.inf
        self.steps: list[_Step] = []
        self._width = min(conventions.vocab_size, config.max_candidates)
        self._few = min(self._width, FEW_CANDIDATES * config.group_size)
        self._are_alike = True
        self.begin(batch_size)

    @abstractmethod
    def begin(self, batch_size: int) -> None:
        """Set up what the rule itself remembers."""

    @abstractmethod
    def live(self) -> np.ndarray:
        """Return which slots still matter. Shape ``(B, K)``, bool."""

    @abstractmethod
    def active(self) -> np.ndarray | None:
        """Return which groups still search, ``(B, G)``; None for all."""

    @abstractmethod
    def finish(self, b: int, rank: int, group: int, ended: _Finished) -> None:
        """Take an EOS candidate of rank < n; called in candidate order."""

    @abstractmethod
    def survivors(self, is_eos: np.ndarray) -> np.ndarray:
        """Return the candidates of ``(B, 2K)`` that fill the slots next. Shape ``(B, K)``."""

    @abstractmethod
    def ranked(self, b: int) -> list[_Finished]:
        """Return a sentence's hypotheses, best first."""

    def step(self, t: int) -> None:
        """Decode the slots' last tokens and choose the next ones."""
        conventions, forced = self.conventions, self.conventions.forced_bos_token_id
        self.model.advance(self._tokens, self._beam_idx, self.live(), t)
        if t == 0 and forced is not None:
            self._force_start(self.model.logprob_of(forced), forced)
        elif t < self.config.max_length:
            self._move_on(t, *self._choose(t))
        else:
            self._force_end(t, self.model.logprob_of(conventions.eos_token_id))

    def _choose(self, t: int) -> tuple[HostChoice, np.ndarray]:
        """Choose among a few candidates a row if that is certain to be right, else among all."""
        s = self.conventions
        is_short = t < self.config.min_length
        suppressed = (s.pad_token_id, s.eos_token_id) if is_short else (s.pad_token_id,)
        # While all slots are alike the groups have to share a row, and need all it has.
        if not self._are_alike and self._few < self._width:
            logprobs, token_ids = self.model.topk(self._few, suppressed, exact_edge=False)
            choice = self._select(logprobs, token_ids, self.config.diversity_penalty)
            if self._is_certain(choice, logprobs):
                return choice, logprobs
        logprobs, token_ids = self.model.topk(self._width, suppressed)
        return self._select(logprobs, token_ids, self.config.diversity_penalty), logprobs

    def _select(self, logprobs: np.ndarray, token_ids: np.ndarray, penalty: float) -> HostChoice:
        return group_select_host(
            logprobs,
            token_ids,
            self.beam_scores,
            self.active(),
            rule=self.config.rule,
            num_beam_groups=self.groups,
            penalty=penalty,
            eos_token_id=self.conventions.eos_token_id,
            vocab_size=self.conventions.vocab_size,
        )

    def _is_certain(self, choice: HostChoice, logprobs: np.ndarray) -> bool:
        """Return whether no token outside the candidates could have been chosen."""
        bound = logprobs.min(2) + self.beam_scores  # (B, K): none outside has more
        best_outside = bound.reshape(len(bound), -1, self.groups).max(1)  # (B, G)
        certain = choice.scores[:, -1] > best_outside
        return bool((certain | ~self.live()[:, : self.groups]).all())

    def _force_start(self, logprobs: np.ndarray, forced: int) -> None:
        """Put the forced first token on every slot, at no cost to the search."""
        self._tokens = np.full_like(self._tokens, forced)
        free = np.zeros_like(logprobs)
        self.steps.append(_Step(self._tokens, self._beam_idx, logprobs, free))

    def _force_end(self, t: int, logprobs: np.ndarray) -> None:
        """Take the step in which nothing but EOS may come; `logprobs` of EOS, ``(B, K)``."""
        s = self.conventions
        # PAD at -inf stands beside it, since a group of n chooses 2n candidates.
        only = np.stack([logprobs, np.full_like(logprobs, -np.inf)], -1)
        token_ids = np.empty(only.shape, np.int64)
        token_ids[:] = s.eos_token_id, s.pad_token_id
        if self.forced_end_is_scored:
            choice = self._select(only, token_ids, self.config.diversity_penalty)
        else:
            choice = self._select(np.where(only == -np.inf, only, np.float32(0)), token_ids, 0.0)
        self._move_on(t, choice, only)

    def _move_on(self, t: int, choice: HostChoice, logprobs: np.ndarray) -> None:
        """Store what finishes and move the slots on; log-probabilities of ``(B, K, C)``."""
        if self._on_choice is not None:
            self._on_choice(choice)
        batch, _, width = logprobs.shape
        scores, tokens, beam_idx, column = (part.reshape(batch, -1) for part in choice)  # by rank
        flat = logprobs.reshape(batch, -1)
        clean = np.take_along_axis(flat, beam_idx * width + column, 1)
        with np.errstate(invalid="ignore"):  # -inf less -inf, of slots that may not go on
            gained = scores - np.take_along_axis(self.beam_scores, beam_idx, 1)
        is_eos = tokens == self.conventions.eos_token_id
        if t >= self.config.min_length:
            may_end = (is_eos & (scores > -np.inf))[:, : self.beams]
            for b, at in zip(*np.nonzero(may_end), strict=True):
                rank, group = divmod(int(at), self.groups)
                total = scores[b, at]
                score = float(total) / (t + 1) ** self.config.length_penalty
                ended = _Finished(
                    t=t,
                    beam_idx=int(beam_idx[b, at]),
                    logprob=float(clean[b, at]),
                    search_logprob=float(gained[b, at]),
                    total=float(total),
                    score=score,
                    serial=t * self.beams + rank,
                )
                self.finish(int(b), rank, group, ended)
        go_on = self.survivors(is_eos)
        tokens, beam_idx, clean, gained, self.beam_scores = (
            np.take_along_axis(part, go_on, 1) for part in (tokens, beam_idx, clean, gained, scores)
        )
        self._tokens, self._beam_idx, self._are_alike = tokens, beam_idx, False
        self.steps.append(_Step(tokens, beam_idx, clean, gained))

    def hypotheses(self, b: int) -> list[Hypothesis]:
        """Read a sentence's hypotheses, in the rule's order."""
        return [self._read(b, ended) for ended in self.ranked(b)]

    def _read(self, b: int, ended: _Finished) -> Hypothesis:
        """Follow a hypothesis back to its start."""
        tokens = [self.conventions.eos_token_id]
        logprobs, search_logprobs = [ended.logprob], [ended.search_logprob]
        slot = ended.beam_idx
        for step in reversed(self.steps[: ended.t]):
            tokens.append(int(step.token_ids[b, slot]))
            logprobs.append(float(step.logprobs[b, slot]))
            search_logprobs.append(float(step.search_logprobs[b, slot]))
            slot = int(step.beam_idx[b, slot])
        return Hypothesis(
            token_ids=tuple(tokens[::-1]),
            logprobs=tuple(logprobs[::-1]),
            search_logprobs=tuple(search_logprobs[::-1]),
            search_sum=ended.total,
            search_score=ended.score,
        )


class _Fairseq09(_Search):
    """Finished hypotheses leave, survivors move up, second choices fill the free slots."""

    forced_end_is_scored = True

    def begin(self, batch_size: int) -> None:
        self.finished: list[list[_Finished]] = [[] for _ in range(batch_size)]

    def active(self) -> None:
        return None

    def live(self) -> np.ndarray:
        searching = [len(ended) < self.beams for ended in self.finished]
        return np.repeat(np.array(searching)[:, None], self.beams, 1)

    def finish(self, b: int, rank: int, group: int, ended: _Finished) -> None:
        if len(self.finished[b]) < self.beams:  # what comes too late is dropped
            self.finished[b].append(ended)

    def survivors(self, is_eos: np.ndarray) -> np.ndarray:
        return is_eos.argsort(1, kind="stable")[:, : self.beams]

    def ranked(self, b: int) -> list[_Finished]:
        return sorted(self.finished[b], key=lambda ended: -ended.score)


class _Hamming(_Search):
    """Each group fills a pool of n hypotheses of its own; nothing moves between groups."""

    forced_end_is_scored = False

    def begin(self, batch_size: int) -> None:
        self._pools: list[list[list[_Finished]]] = [
            [[] for _ in range(self.groups)] for _ in range(batch_size)
        ]
        self._active = np.ones((batch_size, self.groups), bool)

    def active(self) -> np.ndarray:
        return self._active

    def live(self) -> np.ndarray:
        return np.tile(self._active, (1, self.config.group_size))

    def finish(self, b: int, rank: int, group: int, ended: _Finished) -> None:
        pool = self._pools[b][group]
        if not self._active[b, group]:
            return
        if len(pool) < self.config.group_size:
            pool.append(ended)
        else:  # full in this very step: a better one takes the place of the worst, the oldest first
            worst = min(pool, key=lambda other: (other.score, other.serial))
            if ended.score > worst.score:
                pool[pool.index(worst)] = ended

    def _move_on(self, t: int, choice: HostChoice, logprobs: np.ndarray) -> None:
        super()._move_on(t, choice, logprobs)
        size = self.config.group_size
        self._active = np.array([[len(pool) < size for pool in pools] for pools in self._pools])

    def survivors(self, is_eos: np.ndarray) -> np.ndarray:
        size = self.config.group_size
        by_rank = is_eos.reshape(len(is_eos), 2 * size, self.groups)
        rank = by_rank.argsort(1, kind="stable")[:, :size]
        return (rank * self.groups + np.arange(self.groups)).reshape(len(is_eos), -1)

    def ranked(self, b: int) -> list[_Finished]:
        latest = [
            (group, ended.serial, ended)
            for group, pool in enumerate(self._pools[b])
            for ended in pool
        ]
        latest.sort(key=lambda entry: entry[:2], reverse=True)  # exact ties: later is better
        return sorted((ended for *_, ended in latest), key=lambda ended: -ended.score)


_SEARCHES: dict[str, type[_Search]] = {"fairseq09": _Fairseq09, "hamming": _Hamming}
