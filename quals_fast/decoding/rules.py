"""The two rules of diverse beam search: who finishes, who continues, who comes first.

What they share (slots, histories, one step) is in `SearchState`; a rule adds four small methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.models.checkpoint import Conventions
from quals_fast.ops import Candidates, GroupChoice, Histories, Kernels


class Hypotheses(NamedTuple):
    """What the search found, in the rule's order; N = num_beams per sentence."""

    token_ids: Tensor  # (B, N, T) int64, PAD after EOS
    lengths: Tensor  # (B, N) int64, EOS included
    logprobs: Tensor  # (B, N, T) float32 nats, the model's
    search_logprobs: Tensor  # (B, N, T) float32 nats, with penalties
    sums: Tensor  # (B, N) float32, of search_logprobs, as the search adds them up
    scores: Tensor  # (B, N) float64, sums / length ** length_penalty


Step = int | Tensor  # from 0; a tensor without dimensions where a graph's loop counts
OnChoice = Callable[[GroupChoice], None]


class SearchState(ABC):
    """Slots that search, and hypotheses that have finished.

    Args:
        config: rule, sizes, penalty and lengths.
        conventions: special tokens of the model.
        batch_size: B.
        device: where the state lives.
        kernels: the operations of the search.
        on_choice: called with what the groups chose at every step.
    """

    #: Whether a forced EOS counts in the search with its own log-probability and penalty.
    forced_end_is_scored: bool
    #: Tensors that change from step to step, besides `finished`.
    changing: tuple[str, ...] = (
        "token_ids", "logprobs", "search_logprobs", "beam_scores", "n_finished",
    )  # fmt: skip

    def __init__(
        self,
        config: DecodingConfig,
        conventions: Conventions,
        batch_size: int,
        device: torch.device,
        kernels: Kernels,
        on_choice: OnChoice | None = None,
    ) -> None:
        self.config, self.conventions = config, conventions
        self._kernels, self._on_choice = kernels, on_choice
        beams, length = config.num_beams, config.max_length + 1

        def per_token(rows: int, fill: float, dtype: torch.dtype) -> Tensor:
            return torch.full((batch_size, rows, length), fill, dtype=dtype, device=device)

        pad = conventions.pad_token_id
        self.token_ids = per_token(beams, pad, torch.int64)
        self.logprobs = per_token(beams, 0.0, torch.float32)
        self.search_logprobs = per_token(beams, 0.0, torch.float32)
        # All slots start alike, so only the first rank of each group may be continued at first.
        self.beam_scores = torch.zeros(batch_size, beams, dtype=torch.float32, device=device)
        self.beam_scores[:, config.num_beam_groups :].fill_(-torch.inf)
        # One row more than there are hypotheses, for dropped ones.
        self.finished = Hypotheses(
            per_token(beams + 1, pad, torch.int64),
            torch.zeros(batch_size, beams + 1, dtype=torch.int64, device=device),
            per_token(beams + 1, 0.0, torch.float32),
            per_token(beams + 1, 0.0, torch.float32),
            torch.zeros(batch_size, beams + 1, dtype=torch.float32, device=device),
            torch.full((batch_size, beams + 1), -torch.inf, dtype=torch.float64, device=device),
        )
        self.begin(batch_size, device)

    def tensors(self) -> list[Tensor]:
        """Return all that changes from step to step, for loops that carry tensors only."""
        return [*(getattr(self, name) for name in self.changing), *self.finished]

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Take over what `tensors` has returned; some of it is then written to in place."""
        for name, value in zip(self.changing, tensors, strict=False):
            setattr(self, name, value)
        self.finished = Hypotheses(*tensors[len(self.changing) :])

    def force_start(self, logprobs: Tensor) -> Tensor:
        """Put the forced first token on every slot, at no cost to the search; ``(B, 1)`` each."""
        forced = self.conventions.forced_bos_token_id
        assert forced is not None
        self.token_ids[:, :, 0].fill_(forced)
        self.logprobs[:, :, 0] = logprobs
        return self.token_ids[:, :1, 0]

    def force_end(self, t: int, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """Take the step in which nothing but EOS may come; `logprobs` of EOS, ``(B, K')``."""
        v = self.conventions
        # PAD at -inf stands beside it, since a group of n chooses 2n candidates. (Their order does
        # not matter: -inf never ties with what has a probability.)
        only = torch.stack([logprobs, torch.full_like(logprobs, -torch.inf)], -1)
        token_ids = torch.full_like(only, v.eos_token_id, dtype=torch.int64)
        token_ids[:, :, 1].fill_(v.pad_token_id)
        if self.forced_end_is_scored:
            return self.move_on(t, self.choose(token_ids, only), only)
        free = torch.where(only == -torch.inf, only, 0.0)
        return self.move_on(t, self.choose(token_ids, free, penalty=0.0), only)

    def choose(
        self, token_ids: Tensor, logprobs: Tensor, *, penalty: float | None = None
    ) -> GroupChoice:
        """Let the groups choose among candidates, in order.

        Args:
            token_ids: candidates, ascending in each row. Shape ``(B, K', C)``.
            logprobs: log-probabilities of them, nats. Shape ``(B, K', C)``.
            penalty: in place of the config's.
        """
        c, v = self.config, self.conventions
        return self._kernels.group_select(
            logprobs.expand(-1, c.num_beams, -1),
            token_ids.expand(-1, c.num_beams, -1),
            self.beam_scores,
            self.active(),
            rule=c.rule,
            num_beam_groups=c.num_beam_groups,
            penalty=c.diversity_penalty if penalty is None else penalty,
            eos_token_id=v.eos_token_id,
            vocab_size=v.vocab_size,
        )

    def move_on(self, t: Step, choice: GroupChoice, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """Store what finishes and move the slots on.

        Args:
            t: step, from 0.
            choice: what the groups chose.
            logprobs: the model's log-probabilities of the candidates, nats. Shape ``(B, K', C)``.

        Returns:
            The slots' tokens and the slots that they come from, ``(B, K)`` each.
        """
        c, v = self.config, self.conventions
        beams, width = c.num_beams, logprobs.shape[2]
        logprobs = logprobs.expand(-1, beams, -1)
        if self._on_choice is not None:
            self._on_choice(choice)
        scores, tokens, beam_idx, column = (part.flatten(1) for part in choice)  # (B, 2K), by rank
        clean = logprobs.flatten(1).gather(1, beam_idx * width + column)
        gained = scores - self.beam_scores.gather(1, beam_idx)
        chosen = Candidates(tokens, beam_idx, clean, gained, scores)
        is_eos = tokens == v.eos_token_id
        if isinstance(t, Tensor) or t >= c.min_length:  # before, EOS has no probability anyway
            finishing = is_eos & (scores > -torch.inf)
            self.finish(t, finishing[:, :beams], chosen)
        moved = self._kernels.move_slots(self._histories(), chosen, self.survivors(is_eos), t)
        self.token_ids, self.logprobs, self.search_logprobs = moved.histories
        self.beam_scores = moved.scores
        return moved.token_ids, moved.beam_idx

    def store(self, t: Step, row: Tensor, chosen: Candidates, normalised: Tensor) -> None:
        """Write hypotheses that end at step `t` to rows of `finished`; all ``(B, M)``."""
        self._kernels.store_finished(self.finished, self._histories(), chosen, normalised, row, t)

    def _histories(self) -> Histories:
        return Histories(self.token_ids, self.logprobs, self.search_logprobs)

    def normalised(self, scores: Tensor, t: Step) -> Tensor:
        """Return the scores of hypotheses that end at step `t`; float64, as ties decide order."""
        length = (t + 1).double() if isinstance(t, Tensor) else t + 1
        return scores.double() / length**self.config.length_penalty

    def sorted(self, steps: int) -> Hypotheses:
        """Return the hypotheses that have finished in so many steps, in the rule's order."""
        order = self.ranking()
        wide = order[:, :, None].expand(-1, -1, steps)
        return Hypotheses(
            *(
                part[:, :, :steps].gather(1, wide) if part.ndim == 3 else part.gather(1, order)
                for part in self.finished
            )
        )

    @abstractmethod
    def begin(self, batch_size: int, device: torch.device) -> None:
        """Set up what the rule itself remembers."""

    @abstractmethod
    def active(self) -> Tensor | None:
        """Return which groups still search, ``(B, G)``; None for all."""

    @abstractmethod
    def live(self) -> Tensor:
        """Return which slots still matter. Shape ``(B, K)``."""

    def all_done(self) -> Tensor:
        """Return whether every sentence has finished. Shape ``()``."""
        return ~self.live().any()

    @abstractmethod
    def finish(self, t: Step, is_eos: Tensor, chosen: Candidates) -> None:
        """Store the candidates of rank < n ``(B, K)`` that end in EOS at step `t`."""

    @abstractmethod
    def survivors(self, is_eos: Tensor) -> Tensor:
        """Return the candidates of ``(B, 2K)`` that fill the slots next. Shape ``(B, K)``."""

    @abstractmethod
    def ranking(self) -> Tensor:
        """Return the order of the hypotheses, best first. Shape ``(B, N)``."""


def _filled(like: Tensor, value: Step) -> Tensor:
    """Return a tensor of the shape of `like` that holds the value everywhere."""
    return value.expand_as(like) if isinstance(value, Tensor) else torch.full_like(like, value)


class Fairseq09(SearchState):
    """Finished hypotheses leave, survivors move up, second choices fill the free slots.

    Source: fairseq 0.9, sequence_generator.py and search.py (DiverseBeamSearch).
    """

    forced_end_is_scored = True

    def begin(self, batch_size: int, device: torch.device) -> None:
        self.n_finished = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)

    def active(self) -> None:
        return None

    def live(self) -> Tensor:
        return (self.n_finished < self.config.num_beams).expand(-1, self.config.num_beams)

    def finish(self, t: Step, is_eos: Tensor, chosen: Candidates) -> None:
        beams = self.config.num_beams
        row = self.n_finished + is_eos.cumsum(1) - 1
        row = torch.where(is_eos, row, beams).clamp(max=beams)  # what comes too late is dropped
        ended = Candidates(*(part[:, :beams] for part in chosen))
        self.store(t, row, ended, self.normalised(ended.scores, t))
        self.n_finished = self.n_finished + is_eos.sum(1, keepdim=True)

    def survivors(self, is_eos: Tensor) -> Tensor:
        return is_eos.sort(dim=1, stable=True).indices[:, : self.config.num_beams]

    def ranking(self) -> Tensor:
        scores = self.finished.scores[:, :-1]
        return scores.sort(dim=1, descending=True, stable=True).indices


class Hamming(SearchState):
    """Each group fills a pool of n hypotheses of its own; nothing moves between groups.

    Source: arXiv 1610.02424; transformers 4.55, generation/beam_search.py, early_stopping=True.
    """

    forced_end_is_scored = False
    changing = (*SearchState.changing, "serial")

    def begin(self, batch_size: int, device: torch.device) -> None:
        groups = self.config.num_beam_groups
        self.n_finished = torch.zeros(batch_size, groups, dtype=torch.int64, device=device)
        # When each hypothesis finished, to break ties: later is better.
        self.serial = torch.full_like(self.finished.lengths, -1)

    def active(self) -> Tensor:
        return self.n_finished < self.config.group_size

    def live(self) -> Tensor:
        return self.active().repeat(1, self.config.group_size)

    def finish(self, t: Step, is_eos: Tensor, chosen: Candidates) -> None:
        groups, size = self.config.num_beam_groups, self.config.group_size
        first = torch.arange(groups, device=is_eos.device) * size  # of each group's pool
        active = self.active()
        for rank in range(size):  # in order, since a pool that is full keeps its best
            at = slice(rank * groups, (rank + 1) * groups)
            ended = Candidates(*(part[:, at] for part in chosen))
            score = self.normalised(ended.scores, t)
            pool = self.finished.scores[:, :-1].unflatten(1, (groups, size))
            serial = self.serial[:, :-1].unflatten(1, (groups, size))
            worst = pool.amin(2)
            oldest = torch.where(pool == worst[:, :, None], serial, torch.iinfo(torch.int64).max)
            is_full = self.n_finished >= size
            enters = is_eos[:, at] & active & (~is_full | (score > worst))
            row = first + torch.where(is_full, oldest.argmin(2), self.n_finished)
            row = torch.where(enters, row, self.config.num_beams)
            self.store(t, row, ended, score)
            self.serial.scatter_(1, row, _filled(row, t * size + rank))
            self.n_finished = self.n_finished + (enters & ~is_full)

    def survivors(self, is_eos: Tensor) -> Tensor:
        groups, size = self.config.num_beam_groups, self.config.group_size
        rank = is_eos.unflatten(1, (2 * size, groups)).sort(dim=1, stable=True).indices[:, :size]
        return (rank * groups + torch.arange(groups, device=is_eos.device)).flatten(1)

    def ranking(self) -> Tensor:
        size = self.config.group_size
        group = torch.arange(self.config.num_beams, device=self.serial.device) // size
        latest = (group * 2**32 + self.serial[:, :-1]).argsort(1, descending=True)
        scores = self.finished.scores[:, :-1].gather(1, latest)
        return latest.gather(1, scores.sort(dim=1, descending=True, stable=True).indices)


STATES: dict[str, type[SearchState]] = {"fairseq09": Fairseq09, "hamming": Hamming}
