"""Diverse beam search over a batch of summaries, under both rules.

All state is in tensors of fixed shape and no decision is taken on the host: a sentence that has
finished computes on without effect until all have. Slots are interleaved: slot = rank * G + g.
`quals_fast.reference.diverse_beam` defines what is correct.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig
from quals_fast.decoding.rules import STATES, Hypotheses, OnChoice, Vocabulary


class LanguageModel(Protocol):
    """A decoder with a memory of what each slot has decoded."""

    def advance(self, token_ids: Tensor, beam_idx: Tensor | None, t: int) -> Tensor:
        """Let slot k go on from slot ``beam_idx[b, k]`` and decode ``token_ids[b, k]`` at step `t`.

        Args:
            token_ids: last token of each slot. Shape ``(B, K')``; K' = 1 while all slots are alike.
            beam_idx: Shape ``(B, K)``; None where no slot has moved.
            t: step, from 0.

        Returns:
            Hidden states. Shape ``(B, K', d)``.
        """
        ...

    def topk(self, hidden: Tensor, k: int, suppressed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return the k likeliest next tokens, log-probabilities and ids, ``(B, K', k)``.

        The ids ascend in each row; `suppressed` ones have -inf, put on after the softmax.
        """
        ...

    def logprob_of(self, hidden: Tensor, token_id: int) -> Tensor:
        """Return the log-probability of one token as the next. Shape ``(B, K')``."""
        ...


def diverse_beam_search(
    model: LanguageModel,
    vocabulary: Vocabulary,
    config: DecodingConfig,
    batch_size: int,
    device: torch.device,
    *,
    stop_every: int = 1,
    on_choice: OnChoice | None = None,
) -> Hypotheses:
    """Search `config.num_beams` hypotheses for each of B sentences.

    Args:
        model: the language model.
        vocabulary: sizes and special tokens.
        config: rule, sizes, penalty and lengths.
        batch_size: B.
        device: where the state lives.
        stop_every: steps between two looks at whether all have finished (a wait on a GPU).
        on_choice: called with what the groups chose at every step.
    """
    v, c = vocabulary, config
    # No penalty can lift another token above so many candidates (SEMANTICS 1.1, exact shortcut).
    width = 2 * c.num_beams if c.rule == "fairseq09" else c.num_beams + c.group_size
    width = min(v.size, width)
    state = STATES[c.rule](c, v, batch_size, device, on_choice)
    tokens = torch.full((batch_size, 1), v.decoder_start_token_id, device=device)
    beam_idx: Tensor | None = None
    for t in range(c.max_length + 1):
        hidden = model.advance(tokens, beam_idx, t)
        if t == 0 and v.forced_bos_token_id is not None:
            tokens = state.force_start(model.logprob_of(hidden, v.forced_bos_token_id))
            continue
        if t < c.max_length:
            suppressed = (v.pad_token_id, v.eos_token_id) if t < c.min_length else (v.pad_token_id,)
            logprobs, token_ids = model.topk(hidden, width, suppressed)
            tokens, beam_idx = state.step(t, token_ids, logprobs)
        else:
            tokens, beam_idx = state.force_end(t, model.logprob_of(hidden, v.eos_token_id))
        if t % stop_every == 0 and bool(state.all_done()):
            break
    return state.sorted()
