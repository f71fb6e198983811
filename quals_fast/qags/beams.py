"""Beam search over many sources at once, on the weights of Hugging Face's BART.

It finds what `generate` of transformers finds with ``early_stopping=True``, and saves what that
spends in a batch: the source's keys and values are shared by the beams instead of copied and
reordered for each, step 0 computes one beam, each source has a limit of its own, and sources that
have finished leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from quals_fast.models.checkpoint import Conventions

_LEAVE_AT = 0.125  # share of sources that have finished, from which moving the rest pays
_LOOK_EVERY = 4  # steps between looks at what has finished, each of which a GPU must wait for


@dataclass(frozen=True, slots=True)
class BeamHypotheses:
    """The hypotheses of a source.

    Attributes:
        token_ids: of each, best first, with EOS unless the limit came first.
        logprobs: mean log-probability of each one's tokens, nats.
    """

    token_ids: list[list[int]]
    logprobs: list[float]


def beam_search(
    bart: Any,
    states: Tensor,
    mask: Tensor,
    conventions: Conventions,
    num_beams: int,
    limits: Sequence[tuple[int, int]],
    on_step: Callable[[int, int], None],
) -> list[BeamHypotheses]:
    """Search all sources of a batch.

    Args:
        bart: `transformers.BartForConditionalGeneration`.
        states: the encoder's, ``(B, S, D)``.
        mask: True where a token stands, ``(B, S)``.
        conventions: the network's special tokens.
        num_beams: K, hypotheses of a source.
        limits: for each source the fewest tokens before EOS and the most with it.
        on_step: called with the decoder's rows and S at each step.
    """
    decoder = _Decoder(bart, states, mask)
    search = _Search(conventions, num_beams, limits, states.device)
    on_gpu = states.device.type == "cuda"
    tokens = torch.full((len(limits), 1), conventions.decoder_start_token_id, device=states.device)
    rows: Tensor | None = None
    forced = conventions.forced_bos_token_id
    if forced is not None:  # costs a hypothesis nothing, but is in its length
        decoder.step(tokens, None)
        on_step(tokens.numel(), states.shape[1])
        tokens = torch.full_like(tokens, forced)
        search.begin_with(tokens)
    while True:
        on_step(tokens.numel(), states.shape[1])
        tokens, rows = search.choose(decoder.step(tokens, rows))
        if search.t == search.longest:
            search.take_out(None)
            break
        if on_gpu and search.t % _LOOK_EVERY:
            continue
        done = search.is_done().tolist()
        if all(done):
            search.take_out(None)
            break
        if sum(done) >= _LEAVE_AT * len(done):
            stay = torch.tensor([i for i, one in enumerate(done) if not one], device=tokens.device)
            search.take_out(stay)
            decoder.keep(stay)
            tokens, rows = search.tokens_and_rows(stay)
    return search.results()


class _Decoder:
    """BART's decoder, one token a step, over K rows a source."""

    def __init__(self, bart: Any, states: Tensor, mask: Tensor) -> None:
        self._decoder = bart.model.decoder
        self._head = bart.lm_head.weight, bart.final_logits_bias[0].to(states.dtype)
        self._heads = self._decoder.layers[0].self_attn.num_heads
        self._mask = mask[:, None, None]  # (B, 1, 1, S)
        attentions = [layer.encoder_attn for layer in self._decoder.layers]
        self._cross = [(self._split(a.k_proj(states)), self._split(a.v_proj(states)))
                       for a in attentions]  # (B, H, S, D / H)  # fmt: skip
        self._own: list[tuple[Tensor, Tensor]] = []  # (B * K, H, t, D / H)
        self._t = 0

    def step(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Return the logits after the next token of each row.

        Args:
            tokens: ``(B, K)``.
            rows: row of the last step that each row goes on from, ``(B * K,)``; None for its own.

        Returns:
            Float32, ``(B, K, V)``.
        """
        positions = self._decoder.embed_positions
        x = self._decoder.embed_tokens(tokens) + positions.weight[self._t + positions.offset]
        x = self._decoder.layernorm_embedding(x)  # (B, K, D)
        for index, layer in enumerate(self._decoder.layers):
            x = layer.self_attn_layer_norm(x + self._attend_to_own(index, layer.self_attn, x, rows))
            x = layer.encoder_attn_layer_norm(
                x + self._attend_to_source(index, layer.encoder_attn, x)
            )
            x = layer.final_layer_norm(x + layer.fc2(layer.activation_fn(layer.fc1(x))))
        self._t += 1
        return linear(x, *self._head).float()

    def keep(self, sources: Tensor) -> None:
        """Go on with some of the sources; rows of the next step refer to the old numbers."""
        self._cross = [(keys[sources], values[sources]) for keys, values in self._cross]
        self._mask = self._mask[sources]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self._heads, -1)).transpose(1, 2)

    def _attend_to_own(self, index: int, attention: Any, x: Tensor, rows: Tensor | None) -> Tensor:
        x_rows = x.flatten(0, 1)[:, None]  # (B * K, 1, D)
        query, keys, values = (
            self._split(project(x_rows))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if index < len(self._own):
            old_keys, old_values = self._own[index]
            if rows is not None:
                old_keys, old_values = old_keys[rows], old_values[rows]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
            self._own[index] = keys, values
        else:
            self._own.append((keys, values))
        seen = scaled_dot_product_attention(query, keys, values)
        return attention.out_proj(seen.transpose(1, 2).reshape(x.shape))

    def _attend_to_source(self, index: int, attention: Any, x: Tensor) -> Tensor:
        query = self._split(attention.q_proj(x))  # (B, H, K, D / H): beams as positions
        seen = scaled_dot_product_attention(query, *self._cross[index], attn_mask=self._mask)
        return attention.out_proj(seen.transpose(1, 2).flatten(2))


class _Search:
    """The state of a search: hypotheses that go on and hypotheses that have finished."""

    def __init__(
        self,
        conventions: Conventions,
        num_beams: int,
        limits: Sequence[tuple[int, int]],
        device: torch.device,
    ) -> None:
        n = len(limits)
        self.t = 0
        self.longest = max(most for _, most in limits)
        self._num_beams = num_beams
        self._eos, self._pad = conventions.eos_token_id, conventions.pad_token_id
        self._least, self._most = torch.tensor(limits, device=device).T
        self._sources = torch.arange(n, device=device)  # that are still in the batch
        self._results: list[BeamHypotheses | None] = [None] * n
        self._live_ids = torch.empty(n, 1, 0, dtype=torch.long, device=device)
        self._live_sums = torch.zeros(n, 1, device=device)
        self._done_ids = torch.empty(n, num_beams, 0, dtype=torch.long, device=device)
        self._done_scores = torch.full((n, num_beams), -torch.inf, device=device)

    def begin_with(self, tokens: Tensor) -> None:
        """Put a first token ``(B, 1)`` on every hypothesis."""
        self._live_ids = tokens[:, :, None]
        self._done_ids = tokens[:, :, None].expand(-1, self._num_beams, -1)
        self.t = 1

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step; return the next tokens ``(B, K)`` and the rows ``(B * K,)`` they follow."""
        eos, beams = self._eos, self._num_beams
        logprobs = logits.log_softmax(-1)  # on CPUs in half the time of logsumexp
        logprobs[..., self._pad] = -torch.inf
        early = (self.t < self._least)[:, None]
        logprobs[..., eos] = logprobs[..., eos].masked_fill(early, -torch.inf)
        best, token_ids = logprobs.topk(2 * beams)  # (B, K, 2K): enough if half of them are EOS
        sums = (best + self._live_sums[:, :, None]).flatten(1)
        sums, where = sums.topk(2 * beams)  # (B, 2K)
        parents, token_ids = where // (2 * beams), token_ids.flatten(1).gather(1, where)
        ids = torch.cat([self._of(self._live_ids, parents), token_ids[:, :, None]], 2)
        self.t += 1

        ends = (token_ids == eos) | (self.t >= self._most)[:, None]
        self._finish(ids, sums, ends)
        self._live_sums, goes_on = sums.masked_fill(ends, -torch.inf).topk(beams)
        self._live_ids = self._of(ids, goes_on)
        parents = parents.gather(1, goes_on)
        self._rows = torch.arange(len(ids), device=ids.device)[:, None] * logits.shape[1] + parents
        return self._live_ids[:, :, -1], self._rows.flatten()

    def is_done(self) -> Tensor:
        """Return whether each source in the batch has K finished hypotheses, ``(B,)``."""
        return (self._done_scores != -torch.inf).all(1)

    def take_out(self, stay: Tensor | None) -> None:
        """Store the results of all sources but those that stay."""
        staying = set() if stay is None else set(stay.tolist())
        sources = self._sources.tolist()
        scores, ids = self._done_scores.tolist(), self._done_ids.tolist()
        for i in set(range(len(sources))) - staying:
            self._results[sources[i]] = BeamHypotheses(
                [self._trim(one) for one in ids[i]], scores[i]
            )
        if stay is not None:
            self._sources, self._least, self._most = (
                x[stay] for x in (self._sources, self._least, self._most)
            )
            self._live_ids, self._live_sums, self._done_ids, self._done_scores = (
                x[stay]
                for x in (self._live_ids, self._live_sums, self._done_ids, self._done_scores)
            )

    def tokens_and_rows(self, stay: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `choose` did, for the sources that stay."""
        return self._live_ids[:, :, -1], self._rows[stay].flatten()

    def results(self) -> list[BeamHypotheses]:
        """Return the hypotheses of each source, in order."""
        results = [one for one in self._results if one is not None]
        assert len(results) == len(self._results)
        return results

    def _finish(self, ids: Tensor, sums: Tensor, ends: Tensor) -> None:
        """Take up the hypotheses that end now, if they are among the K likeliest candidates."""
        beams = self._num_beams
        taken = ends & ~self.is_done()[:, None]
        scores = (sums / self.t).masked_fill(~taken, -torch.inf)[:, :beams]
        padded = pad(self._done_ids, (0, 1), value=self._pad)
        self._done_scores, order = torch.cat([self._done_scores, scores], 1).topk(beams)
        self._done_ids = self._of(torch.cat([padded, ids[:, :beams]], 1), order)

    def _trim(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token != self._pad]

    @staticmethod
    def _of(ids: Tensor, index: Tensor) -> Tensor:
        return ids.gather(1, index[:, :, None].expand(-1, -1, ids.shape[2]))
