"""QUALS of a batch as one module: ids in, scores and kept pairs out, with the search as a loop.

It is traced, never run: `torch.onnx.export` makes an ONNX Loop of the search. Rules, filter and
selection are the torch path's own; `loop_parts` has what a loop needs in another form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop

from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.decoding.rules import STATES, Hypotheses, SearchState
from quals_fast.engine.selection import PairSelector, Summaries
from quals_fast.export.graphs import EncoderGraph, PastSlots, RescoreGraph, decode_step
from quals_fast.export.loop_parts import contains, group_select
from quals_fast.models.loading import TorchModel
from quals_fast.models.memory import SourceMemory
from quals_fast.ops import EAGER

# By number.
STATUSES = ("ok", "no_pairs", "empty_summary", "empty_document", "error", "unknown_text")


class Scores(NamedTuple):
    """What the graph returns; `single_file` says what it means."""

    score: Tensor  # (B,) float32
    status: Tensor  # (B,) int64
    n_pairs: Tensor  # (B,) int64
    truncated_tokens: Tensor  # (B,) int64
    unknown_tokens: Tensor  # (B,) int64
    pair_ids: Tensor  # (B, Q, T) int64
    pair_lengths: Tensor  # (B, Q) int64
    summary_logprobs: Tensor  # (B, Q, T) float32
    document_logprobs: Tensor  # (B, Q, T) float32


class SingleGraph(nn.Module):
    """Everything between token ids and scores.

    Args:
        model: the model, in float32.
        decoding: settings of the search.
        scoring: settings of the score.
    """

    def __init__(self, model: TorchModel, decoding: DecodingConfig, scoring: ScoringConfig) -> None:
        super().__init__()
        self._conventions = model.conventions
        self._decoding, self._scoring = decoding, scoring
        self._unknown = model.tokenizer.unknown_token_id
        self.encoder = EncoderGraph(model.network)
        self.rescorer = RescoreGraph(model.network, screened=False)
        self._selector = PairSelector(
            model.tokenizer, model.conventions, torch.device("cpu"), contains
        )
        self._width = min(self._conventions.vocab_size, decoding.max_candidates)

    def forward(
        self,
        document_ids: Tensor,  # (B, S)
        document_lengths: Tensor,  # (B,)
        summary_ids: Tensor,  # (B, S')
        summary_lengths: Tensor,  # (B,)
    ) -> Scores:
        """Score summaries against their documents.

        Args:
            document_ids: as the tokenizer gives them, without special tokens and uncut. What
                stands behind a length does not matter.
            document_lengths: tokens of each document.
            summary_ids: likewise.
            summary_lengths: likewise.
        """
        pad = self._conventions.pad_token_id
        summary, summary_mask = self._source(summary_ids, summary_lengths)
        hypotheses = self._search(self.encoder(summary, summary_mask), summary_mask)
        summaries = Summaries(summary_ids.int(), summary_lengths)
        kept = self._selector.select(hypotheses, summaries, self._scoring.max_pairs)

        unknown = [
            self._count_unknown(summary_ids, summary_lengths),
            self._count_unknown(document_ids, document_lengths),
        ]
        is_empty = (summary_lengths == 0) | (document_lengths == 0)
        is_unknown = (2 * unknown[0] > summary_lengths) | (2 * unknown[1] > document_lengths)
        n_kept = torch.where(is_empty | is_unknown, 0, kept.n_kept)

        most = _size(n_kept.max(), 1, hypotheses.token_ids.shape[1])
        order = kept.order[:, :most]  # (B, Q)
        is_pair = torch.arange(most) < n_kept[:, None]
        lengths = torch.where(is_pair, hypotheses.lengths.gather(1, order), 0)
        longest = _size(lengths.max(), 2, hypotheses.token_ids.shape[2])
        is_token = torch.arange(longest) < lengths[:, :, None]  # (B, Q, T)
        wide = order[:, :, None].expand(-1, -1, hypotheses.token_ids.shape[2])

        def of_pairs(values: Tensor, fill: float) -> Tensor:
            return torch.where(is_token, values.gather(1, wide)[:, :, :longest], fill)

        ids = of_pairs(hypotheses.token_ids, pad)
        is_penalised = self._scoring.summary_logprob == "search"
        given_summary = of_pairs(
            hypotheses.search_logprobs if is_penalised else hypotheses.logprobs, 0.0
        )
        given_document = self._rescore(ids, is_token, document_ids, document_lengths)

        gained = given_document.double() - given_summary.double()
        n_counted = lengths
        if self._scoring.tokens == "answer":
            is_sep = ids == self._conventions.sep_token_id
            is_counted = is_token & ~is_sep & (is_sep.cumsum(-1) > 0)
            gained, n_counted = gained * is_counted, is_counted.sum(-1)
        gained = gained.sum(-1) / n_counted.clamp(min=1)
        score = gained.sum(-1) / n_kept.clamp(min=1)
        is_broken = (hypotheses.lengths == 0).any(1) | kept.unsure | (score != score)
        status = torch.where(n_kept == 0, 1, 0)
        status = torch.where(is_broken, 4, status)
        status = torch.where(is_unknown, 5, status)
        status = torch.where(document_lengths == 0, 3, status)
        status = torch.where(summary_lengths == 0, 2, status)
        missing = self._scoring.no_pairs_score
        score = torch.where(status == 1, torch.nan if missing is None else missing, score)
        return Scores(
            score=torch.where(status > 1, torch.nan, score).float(),
            status=status,
            n_pairs=n_kept,
            truncated_tokens=self._cut(document_lengths) + self._cut(summary_lengths),
            unknown_tokens=unknown[0] + unknown[1],
            pair_ids=ids,
            pair_lengths=lengths,
            summary_logprobs=given_summary,
            document_logprobs=given_document,
        )

    @property
    def _room(self) -> int:
        """Tokens of a text that the model can see."""
        return (
            self._conventions.max_source_tokens - 1 - (self._conventions.bos_token_id is not None)
        )

    def _cut(self, lengths: Tensor) -> Tensor:
        return (lengths - self._room).clamp(min=0)

    def _count_unknown(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return how many tokens of each text the vocabulary lacks: ``(B, S)`` to ``(B,)``."""
        is_text = torch.arange(ids.shape[1]) < lengths[:, None]
        # No token has the id -1; ids out of range make the graph fail elsewhere.
        return (is_text & (ids == (-1 if self._unknown is None else self._unknown))).sum(-1)

    def _source(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut texts and add special tokens: ``(B, S)`` to ids and mask of the encoder.

        Ids or lengths out of range become ids that no embedding has, at which the graph fails:
        negative ones would otherwise be read from the table's end.
        """
        s, size = self._conventions, ids.shape[1]
        first = 0 if s.bos_token_id is None else 1
        end = first + lengths[:, None].clamp(min=0, max=self._room).clamp(max=size)  # (B, 1)
        at = torch.arange(torch.sym_min(size, self._room) + first + 1)
        token = ids[:, (at - first).clamp(min=0, max=size - 1)]
        token = torch.where(token < 0, s.vocab_size, token)
        token = torch.where(at == end, s.eos_token_id, token)
        has_wrong_length = ((lengths < 0) | (lengths > size))[:, None]
        token = torch.where(has_wrong_length, s.vocab_size, token)
        if s.bos_token_id is not None:
            token = torch.where(at == 0, s.bos_token_id, token)
        return torch.where(at <= end, token, s.pad_token_id), at <= end

    def _search(self, cross: list[Tensor], source_mask: Tensor) -> Hypotheses:
        """Search the hypotheses of encoded summaries, in the rule's order."""
        c, batch = self._decoding, source_mask.shape[0]
        memory = SourceMemory(cross[::2], cross[1::2], source_mask[:, None, None])
        state, t = self._new_state(batch), torch.zeros((), dtype=torch.int64)
        start = self._conventions.decoder_start_token_id
        # Named, since the exporter of torch 2.11 takes any number without a type for a float.
        tokens = torch.full((batch, c.num_beams), start, dtype=torch.int64)
        beam_idx = torch.arange(c.num_beams).repeat(batch, 1)
        shape = batch * c.num_beams, cross[0].shape[1], c.max_length + 1, cross[0].shape[3]
        past = tuple(torch.zeros(shape) for _ in cross)
        forced = self._conventions.forced_bos_token_id
        if forced is not None:
            logprobs, past = self._decode(memory, past, tokens, beam_idx, t)
            state.force_start(logprobs[:, :, forced])
            tokens, t = torch.full_like(tokens, forced), t + 1
        first = (t, t >= 0, tokens, beam_idx, *past, *state.tensors())

        def goes_on(t: Tensor, is_live: Tensor, *_: Tensor) -> Tensor:
            return is_live & (t <= c.max_length)

        def step(
            t: Tensor, is_live: Tensor, tokens: Tensor, beam_idx: Tensor, *rest: Tensor
        ) -> tuple[Tensor, ...]:
            past, of_state = rest[: len(cross)], rest[len(cross) :]
            state = self._new_state(tokens.shape[0])
            # A loop's body may not write to what it is given, as the state does.
            state.restore([x.clone() for x in of_state])
            logprobs, past = self._decode(memory, past, tokens, beam_idx, t)
            tokens, beam_idx = self._choose(state, logprobs, t)
            return t + 1, ~state.all_done(), tokens, beam_idx, *past, *state.tensors()

        state.restore(while_loop(goes_on, step, first)[4 + len(cross) :])
        return state.sorted(c.max_length + 1)

    def _new_state(self, batch: int) -> SearchState:
        kind = STATES[self._decoding.rule]
        kernels = replace(EAGER, group_select=group_select)
        return kind(self._decoding, self._conventions, batch, torch.device("cpu"), kernels)

    def _decode(
        self,
        memory: SourceMemory,
        past: tuple[Tensor, ...],
        tokens: Tensor,
        beam_idx: Tensor,
        t: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Decode a token of every slot. What a loop carries keeps its shape, so all slots are rows.

        Args:
            memory: of the B summaries.
            past: keys and values of the slots, layer by layer. Shape ``(B * K, H, T, D)``.
            tokens: Shape ``(B, K)``.
            beam_idx: the slot that each goes on from. Shape ``(B, K)``.
            t: position of the tokens, without dimensions.

        Returns:
            The log-probabilities of all tokens as the next, ``(B, K, V)``, and `past` of the slots
            as they are now, with position `t` in it.
        """
        batch, num_beams = tokens.shape
        rows = torch.arange(batch * num_beams)
        parents = (torch.arange(batch)[:, None] * num_beams + beam_idx).flatten()
        past = tuple(part[parents] for part in past)
        is_past = torch.arange(past[0].shape[2]) < t
        slots = PastSlots(memory, past, is_past, rows.view_as(tokens), rows)
        hidden = decode_step(self.rescorer.network, tokens.flatten(), t[None], slots)
        stored = zip(past, (new[:, :, None] for new in slots.new), strict=True)
        past = tuple(part.scatter(2, t.expand_as(new), new) for part, new in stored)
        logprobs = self.rescorer.head.logits(hidden).log_softmax(-1)
        return logprobs.view(*tokens.shape, -1), past

    def _choose(self, state: SearchState, logprobs: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Let the groups choose among all tokens' log-probabilities ``(B, K, V)``."""
        c, v = self._decoding, self._conventions
        ids = torch.arange(v.vocab_size)
        is_eos = ids == v.eos_token_id
        barred = (ids == v.pad_token_id) | is_eos & (t < c.min_length)
        logprobs = torch.where(barred | ~is_eos & (t == c.max_length), -torch.inf, logprobs)
        # ONNX's TopK takes the lowest ids of equals, as the rules ask.
        candidates = logprobs.topk(self._width).indices.sort(dim=-1).values
        clean = logprobs.gather(-1, candidates)
        searched = clean
        if not state.forced_end_is_scored:
            is_free = (t == c.max_length) & (clean > -torch.inf)
            searched = torch.where(is_free, 0.0, clean)
        return state.move_on(t, state.choose(candidates, searched), clean)

    def _rescore(
        self, ids: Tensor, is_token: Tensor, document_ids: Tensor, document_lengths: Tensor
    ) -> Tensor:
        """Return the log-probabilities of the pairs' tokens given the documents, ``(B, Q, T)``."""
        document, mask = self._source(document_ids, document_lengths)
        inputs = ids.roll(1, 2)
        start = torch.arange(ids.shape[2]) == 0
        inputs = torch.where(start, self._conventions.decoder_start_token_id, inputs)
        rows = is_token.flatten().nonzero()[:, 0]  # real tokens only
        logprobs = self.rescorer(
            inputs, rows, ids.flatten()[rows], mask, self.encoder(document, mask)
        )
        flat = torch.zeros(ids.shape).flatten()
        return flat.scatter(0, rows, logprobs).view_as(ids)


def _size(value: Tensor, least: int, most: int) -> int:
    """Return a tensor's value as a size that is known when the graph runs."""
    size = value.clamp(min=least).item()
    torch._check(size >= least)
    torch._check(size <= most)
    return size  # type: ignore[return-value]
