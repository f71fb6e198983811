"""Diverse beam search on tensors of fixed shape, under both rules: for GPUs, and for one graph.

No value decides what runs: a sentence that has finished computes on without effect. Slots are
interleaved: slot = rank * G + g. `decoding.host_search` is the same search where looks are free;
`quals_fast.reference.diverse_beam` defines what is correct.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.decoding.rules import STATES, Hypotheses, OnChoice
from quals_fast.models.checkpoint import Conventions
from quals_fast.ops import EAGER, Kernels

LAG = 1  # steps that a GPU has to do while the host waits for the flag of the one before


class LanguageModel(Protocol):
    """A decoder with a memory of what each slot has decoded."""

    def advance(self, token_ids: Tensor, beam_idx: Tensor | None, t: int) -> Tensor:
        """Let slot k go on from slot ``beam_idx[b, k]`` and decode ``token_ids[b, k]`` at step `t`.

        Args:
            token_ids: last token of each slot. Shape ``(B, K')``; K' = 1 while all slots are alike.
            beam_idx: Shape ``(B, K)``; None where no slot has moved.
            t: step, from 0.

        Returns:
            Hidden states, for the other two methods.
        """
        ...

    def topk(self, hidden: Tensor, k: int, suppressed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the k likeliest next tokens, log-probabilities and ids, ``(B, K', k)``.

        The ids ascend in each row; `suppressed` ones have -inf, put on after the softmax. Of equals
        at the edge the lowest ids are in.
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
    conventions: Conventions,
    config: DecodingConfig,
    batch_size: int,
    device: torch.device,
    *,
    kernels: Kernels = EAGER,
    on_choice: OnChoice | None = None,
) -> Hypotheses:
    """Search `config.num_beams` hypotheses for each of B sentences.

    Args:
        model: the language model.
        conventions: its special tokens.
        config: rule, sizes, penalty and lengths.
        batch_size: B.
        device: where the state lives.
        kernels: the operations of the search.
        on_choice: called with what the groups chose at every step.
    """
    search = Search(model, conventions, config, batch_size, device, kernels, on_choice)
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
        conventions: Conventions,
        config: DecodingConfig,
        batch_size: int,
        device: torch.device,
        kernels: Kernels,
        on_choice: OnChoice | None = None,
    ) -> None:
        self.state = STATES[config.rule](
            config, conventions, batch_size, device, kernels, on_choice
        )
        self._model, self._conventions, self._config = model, conventions, config
        self._device = device
        start = conventions.decoder_start_token_id
        self._tokens = torch.full((batch_size, 1), start, device=device)
        self._beam_idx: Tensor | None = None
        self._width = min(conventions.vocab_size, config.max_candidates)

    def run(self) -> Hypotheses:
        """Take all steps, on a GPU a few more than it needs, so that it never runs out of work."""
        stop = StopTest(self._device)
        for t in range(self._config.max_length + 1):
            self.step(t)
            if stop.saw_true(self.state.all_done()):
                break
        return self.state.sorted(self._config.max_length + 1)

    def tensors(self) -> list[Tensor]:
        """Return all that the next step reads, B rows each; not before the slots have parted."""
        assert self._beam_idx is not None
        return [*self.state.tensors(), *self._model.tensors(), self._tokens, self._beam_idx]

    def step(self, t: int) -> None:
        """Decode the slots' last tokens and choose the next ones."""
        v, c, model, state = self._conventions, self._config, self._model, self.state
        hidden = model.advance(self._tokens, self._beam_idx, t)
        if t == 0 and v.forced_bos_token_id is not None:
            self._tokens = state.force_start(model.logprob_of(hidden, v.forced_bos_token_id))
        elif t < c.max_length:
            is_short = t < c.min_length
            suppressed = (v.pad_token_id, v.eos_token_id) if is_short else (v.pad_token_id,)
            logprobs, token_ids = model.topk(hidden, self._width, suppressed)
            choice = state.choose(token_ids, logprobs)
            self._tokens, self._beam_idx = state.move_on(t, choice, logprobs)
        else:
            state.force_end(t, model.logprob_of(hidden, v.eos_token_id))
