"""Diverse beam search over a batch of summaries, under both rules.

All state is in tensors of fixed shape. With `may_look` false nothing is read on the host either: a
sentence that has finished computes on without effect. Slots are interleaved: slot = rank * G + g.
`quals_fast.reference.diverse_beam` defines what is correct.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.decoding.rules import STATES, Hypotheses, OnChoice, Vocabulary
from quals_fast.ops import EAGER, GroupChoice, Kernels

FEW_CANDIDATES = 16  # candidates a row and beam of a group: enough in nearly all steps, as measured
LAG = 1  # steps that a GPU has to do while the host waits for the flag of the one before


class LanguageModel(Protocol):
    """A decoder with a memory of what each slot has decoded."""

    def advance(
        self, token_ids: Tensor, beam_idx: Tensor | None, live: Tensor | None, t: int
    ) -> Tensor:
        """Let slot k go on from slot ``beam_idx[b, k]`` and decode ``token_ids[b, k]`` at step `t`.

        Args:
            token_ids: last token of each slot. Shape ``(B, K')``; K' = 1 while all slots are alike.
            beam_idx: Shape ``(B, K)``; None where no slot has moved.
            live: slots that still matter; of the others anything may come. Shape ``(B, K)``; None
                for all.
            t: step, from 0.

        Returns:
            Hidden states, for the other two methods.
        """
        ...

    def topk(
        self, hidden: Tensor, k: int, suppressed: tuple[int, ...], *, exact_edge: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the k likeliest next tokens, log-probabilities and ids, ``(B, K', k)``.

        The ids ascend in each row; `suppressed` ones have -inf, put on after the softmax. Of equals
        at the edge the lowest ids are in; without `exact_edge` any may be.
        """
        ...

    def logprob_of(self, hidden: Tensor, token_id: int) -> Tensor:
        """Return the log-probability of one token as the next. Shape ``(B, K')``."""
        ...

    def tensors(self) -> list[Tensor]:
        """Return what it has in memory of each sentence, B rows each, where graphs move it."""
        ...


def diverse_beam_search(
    model: LanguageModel,
    vocabulary: Vocabulary,
    config: DecodingConfig,
    batch_size: int,
    device: torch.device,
    *,
    kernels: Kernels = EAGER,
    may_look: bool = True,
    on_choice: OnChoice | None = None,
) -> Hypotheses:
    """Search `config.num_beams` hypotheses for each of B sentences.

    Args:
        model: the language model.
        vocabulary: its tokens.
        config: rule, sizes, penalty and lengths.
        batch_size: B.
        device: where the state lives.
        kernels: the operations of the search.
        may_look: read on the host whether all have finished and whether a few candidates were
            enough: free on a CPU, a wait on a GPU. Without it, a GPU takes a few steps too many and
            never runs out of work; elsewhere all steps are taken.
        on_choice: called with what the groups chose at every step.
    """
    search = Search(model, vocabulary, config, batch_size, device, kernels, may_look, on_choice)
    return search.run()


class StopTest:
    """Tells that all have finished, without stopping a GPU that still has work.

    The host waits for one flag and for nothing that was launched after it, so where a search stops
    does not depend on how fast the host is.

    Args:
        device: of the flags; where it is no GPU, nothing is learned.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        self._asked: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    def saw_true(self, flag: Tensor) -> bool:
        """Ask for a flag; return whether the one asked for `LAG` calls ago was true."""
        if not self._is_gpu:
            return False
        answer = torch.empty((), dtype=torch.bool, device="cpu", pin_memory=True)
        answer.copy_(flag, non_blocking=True)
        event = torch.cuda.Event()  # waited for by spinning: a blocking one wakes the host late
        event.record(torch.cuda.current_stream(flag.device))
        self._asked.append((event, answer))
        if len(self._asked) <= LAG:
            return False
        event, answer = self._asked.popleft()
        event.synchronize()  # of the flag alone; the steps behind it go on
        return bool(answer)


class Search:
    """One search, step by step; the arguments are those of `diverse_beam_search`."""

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        config: DecodingConfig,
        batch_size: int,
        device: torch.device,
        kernels: Kernels,
        may_look: bool,
        on_choice: OnChoice | None = None,
    ) -> None:
        self.state = STATES[config.rule](config, vocabulary, batch_size, device, kernels, on_choice)
        self._model, self._vocabulary, self._config = model, vocabulary, config
        self._device, self._may_look = device, may_look
        start = vocabulary.decoder_start_token_id
        self._tokens = torch.full((batch_size, 1), start, device=device)
        self._beam_idx: Tensor | None = None
        # No penalty can lift another token above so many (docs/semantics.md 1.1, shortcut).
        width = 2 * config.num_beams
        if config.rule == "hamming":
            width = config.num_beams + config.group_size
        self._width = min(vocabulary.size, width)
        self._few = (
            min(self._width, FEW_CANDIDATES * config.group_size) if may_look else self._width
        )

    def run(self) -> Hypotheses:
        """Take all steps that it needs."""
        stop = StopTest(self._device)
        for t in range(self._config.max_length + 1):
            self.step(t)
            done = self.state.all_done()
            if bool(done) if self._may_look else stop.saw_true(done):
                break
        return self.state.sorted(t + 1 if self._may_look else self._config.max_length + 1)

    def tensors(self) -> list[Tensor]:
        """Return all that the next step reads, B rows each; not before the slots have parted."""
        assert self._beam_idx is not None
        return [*self.state.tensors(), *self._model.tensors(), self._tokens, self._beam_idx]

    def step(self, t: int) -> None:
        """Decode the slots' last tokens and choose the next ones."""
        v, c, model, state = self._vocabulary, self._config, self._model, self.state
        hidden = model.advance(self._tokens, self._beam_idx, state.live(), t)
        if t == 0 and v.forced_bos_token_id is not None:
            self._tokens = state.force_start(model.logprob_of(hidden, v.forced_bos_token_id))
        elif t < c.max_length:
            choice, logprobs = self._choose(hidden, t)
            self._tokens, self._beam_idx = state.move_on(t, choice, logprobs)
        else:
            state.force_end(t, model.logprob_of(hidden, v.eos_token_id))

    def _choose(self, hidden: Tensor, t: int) -> tuple[GroupChoice, Tensor]:
        """Choose among a few candidates a row if that is certain to be right, else among all."""
        v, model, state = self._vocabulary, self._model, self.state
        is_short = t < self._config.min_length
        suppressed = (v.pad_token_id, v.eos_token_id) if is_short else (v.pad_token_id,)
        # While all slots are alike the groups have to share a row, and need all it has.
        if self._beam_idx is not None and self._few < self._width:
            logprobs, token_ids = model.topk(hidden, self._few, suppressed, exact_edge=False)
            choice = state.choose(token_ids, logprobs)
            if bool(state.is_certain(choice, logprobs)):
                return choice, logprobs
        logprobs, token_ids = model.topk(hidden, self._width, suppressed)
        return state.choose(token_ids, logprobs), logprobs
