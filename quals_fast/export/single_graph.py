"""QUALS of a batch as one module: ids in, scores and kept pairs out, with the search as a loop.

It is traced, never run: `torch.onnx.export` makes an ONNX Loop of the search and, of the groups'
turns, an ONNX Scan (`single_file.choose_in_turn`). Rules, filter and selection are the torch
path's own. Shapes: B pairs of texts, K slots, R = B * K rows, G groups of n beams, C candidates a
row, N hypotheses, T tokens of the longest possible hypothesis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._higher_order_ops import while_loop

from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.decoding.rules import STATES, Hypotheses, SearchState
from quals_fast.export.graphs import EncoderGraph, RescoreGraph, decode_step
from quals_fast.generation import vocabulary
from quals_fast.models.cache import SourceMemory
from quals_fast.models.loading import QAGenerator
from quals_fast.ops import GroupChoice
from quals_fast.selection import PairSelector, Summaries

STATUSES = ("ok", "no_pairs", "empty_summary", "empty_document", "error")  # by number


class Scores(NamedTuple):
    """What the graph returns; Q is the largest number of pairs in the batch, at least 1."""

    score: Tensor  # (B,) float32, nats a token; NaN where status is not 0
    status: Tensor  # (B,) int64, index into STATUSES
    n_pairs: Tensor  # (B,) int64
    truncated_tokens: Tensor  # (B,) int64, of both texts
    pair_ids: Tensor  # (B, Q, T) int64: question SEP answer EOS, then PAD
    pair_lengths: Tensor  # (B, Q) int64, 0 behind the last pair
    summary_logprobs: Tensor  # (B, Q, T) float32 nats, 0 behind the end
    document_logprobs: Tensor  # (B, Q, T) float32 nats, 0 behind the end


class SingleGraph(nn.Module):
    """Everything between token ids and scores.

    Args:
        generator: the model, in float32.
        decoding: settings of the search.
        scoring: settings of the score.
    """

    def __init__(
        self, generator: QAGenerator, decoding: DecodingConfig, scoring: ScoringConfig
    ) -> None:
        super().__init__()
        self._settings, self._vocabulary = generator.settings, vocabulary(generator)
        self._decoding, self._scoring = decoding, scoring
        self.encoder = EncoderGraph(generator.bart)
        self.rescorer = RescoreGraph(generator.bart, screened=False)
        self._selector = PairSelector(
            generator.tokenizer, generator.settings, torch.device("cpu"), contains
        )
        width = 2 * decoding.num_beams
        if decoding.rule == "hamming":
            width = decoding.num_beams + decoding.group_size
        self._width = min(self._vocabulary.size, width)  # SEMANTICS 1.1, exact shortcut

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
        pad = self._settings.pad_token_id
        summary, summary_mask = self._source(summary_ids, summary_lengths)
        found = self._search(self.encoder(summary, summary_mask), summary_mask)
        summaries = Summaries(summary_ids.int(), summary_lengths)
        kept = self._selector.select(found, summaries, self._scoring.max_pairs)

        most = _size(kept.n_kept.max(), found.token_ids.shape[1])
        order = kept.order[:, :most]  # (B, Q)
        is_pair = torch.arange(most) < kept.n_kept[:, None]
        lengths = torch.where(is_pair, found.lengths.gather(1, order), 0)
        longest = _size(lengths.max(), found.token_ids.shape[2])
        is_token = torch.arange(longest) < lengths[:, :, None]  # (B, Q, T)
        wide = order[:, :, None].expand(-1, -1, found.token_ids.shape[2])

        def of_pairs(values: Tensor, fill: float) -> Tensor:
            return torch.where(is_token, values.gather(1, wide)[:, :, :longest], fill)

        ids = of_pairs(found.token_ids, pad)
        is_penalised = self._scoring.summary_logprob == "search"
        given_summary = of_pairs(found.search_logprobs if is_penalised else found.logprobs, 0.0)
        given_document = self._rescore(ids, is_token, document_ids, document_lengths)

        gained = (given_document.double() - given_summary.double()).sum(-1) / lengths.clamp(min=1)
        score = gained.sum(-1) / kept.n_kept.clamp(min=1)
        is_broken = (found.lengths == 0).any(1) | kept.unsure | (score != score)
        status = torch.where(kept.n_kept == 0, 1, 0)
        status = torch.where(is_broken, 4, status)
        status = torch.where(document_lengths == 0, 3, status)
        status = torch.where(summary_lengths == 0, 2, status)
        missing = self._scoring.no_pairs_score
        score = torch.where(status == 1, torch.nan if missing is None else missing, score)
        return Scores(
            score=torch.where(status > 1, torch.nan, score).float(),
            status=status,
            n_pairs=kept.n_kept,
            truncated_tokens=self._cut(document_lengths) + self._cut(summary_lengths),
            pair_ids=ids,
            pair_lengths=lengths,
            summary_logprobs=given_summary,
            document_logprobs=given_document,
        )

    @property
    def _room(self) -> int:
        """Tokens of a text that the model can see."""
        return self._settings.max_source_tokens - 1 - (self._settings.bos_token_id is not None)

    def _cut(self, lengths: Tensor) -> Tensor:
        return (lengths - self._room).clamp(min=0)

    def _source(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Cut texts and add special tokens: ``(B, S)`` to ids and mask of the encoder.

        Ids or lengths out of range become ids that no embedding has, at which the graph fails:
        negative ones would otherwise be read from the table's end.
        """
        s, size = self._settings, ids.shape[1]
        first = 0 if s.bos_token_id is None else 1
        width = torch.sym_min(size, self._room)
        n = lengths.clamp(min=0, max=self._room)[:, None].clamp(max=size)  # (B, 1)
        is_wrong = ((lengths < 0) | (lengths > size))[:, None]
        at = torch.arange(width + first + 1)
        token = ids[:, (at - first).clamp(min=0, max=size - 1)]
        token = torch.where((token < 0) | is_wrong, s.vocab_size, token)
        source = torch.where(at < first + n, token, s.pad_token_id)
        source = torch.where(at == first + n, torch.where(is_wrong, s.vocab_size, s.eos_token_id), source)
        if s.bos_token_id is not None:
            source = torch.where(at == 0, s.bos_token_id, source)
        return source, at <= first + n

    def _search(self, cross: list[Tensor], source_mask: Tensor) -> Hypotheses:
        """Search the hypotheses of encoded summaries, in the rule's order."""
        c, batch = self._decoding, source_mask.shape[0]
        state = self._new_state(batch)
        names = [name for name, value in vars(state).items() if isinstance(value, Tensor)]
        heads, size = cross[0].shape[1], cross[0].shape[3]
        shape = batch * c.num_beams, heads, c.max_length + 1, size
        first = (
            torch.zeros((), dtype=torch.int64),
            torch.ones((), dtype=torch.bool),
            torch.full((batch, c.num_beams), self._vocabulary.decoder_start_token_id),
            torch.arange(c.num_beams).repeat(batch, 1),
            *(torch.zeros(shape) for _ in cross),
            *(getattr(state, name) for name in names),
            *state.finished,
        )

        def goes_on(t: Tensor, is_live: Tensor, *_: Tensor) -> Tensor:
            return is_live & (t <= c.max_length)

        def step(
            t: Tensor, is_live: Tensor, tokens: Tensor, beam_idx: Tensor, *rest: Tensor
        ) -> tuple[Tensor, ...]:
            # A loop's body may not write to what it is given.
            past, given = rest[: len(cross)], [x.clone() for x in rest[len(cross) :]]
            state = self._new_state(tokens.shape[0])
            for name, value in zip(names, given, strict=False):
                setattr(state, name, value)
            state.finished = Hypotheses(*given[len(names) :])
            slots = LoopSlots(cross, source_mask, past, beam_idx, t)
            hidden = decode_step(self.rescorer.bart, tokens.flatten(), t[None], slots)
            logprobs = self.rescorer.head.logits(hidden).log_softmax(-1)
            tokens, beam_idx = self._choose(state, logprobs.view(*tokens.shape, -1), t)
            carried = [getattr(state, name) for name in names]
            return (
                t + 1, ~state.all_done(), tokens, beam_idx, *slots.caches, *carried, *state.finished
            )  # fmt: skip

        last = while_loop(goes_on, step, first)[4 + len(cross) :]
        for name, value in zip(names, last, strict=False):
            setattr(state, name, value)
        state.finished = Hypotheses(*last[len(names) :])
        return state.sorted(c.max_length + 1)

    def _new_state(self, batch: int) -> SearchState:
        kind = STATES[self._decoding.rule]
        return kind(self._decoding, self._vocabulary, batch, torch.device("cpu"), group_select)

    def _choose(self, state: SearchState, logprobs: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Let the groups choose among all tokens' log-probabilities ``(B, K, V)``."""
        c, v = self._decoding, self._vocabulary
        ids = torch.arange(v.size)
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
        tokens, beam_idx = state.move_on(t, state.choose(candidates, searched), clean)
        return tokens, beam_idx

    def _rescore(
        self, ids: Tensor, is_token: Tensor, document_ids: Tensor, document_lengths: Tensor
    ) -> Tensor:
        """Return the log-probabilities of the pairs' tokens given the documents, ``(B, Q, T)``."""
        document, mask = self._source(document_ids, document_lengths)
        inputs = ids.roll(1, 2)
        start = torch.arange(ids.shape[2]) == 0
        inputs = torch.where(start, self._settings.decoder_start_token_id, inputs)
        rows = is_token.flatten().nonzero()[:, 0]  # real tokens only
        found = self.rescorer(inputs, rows, ids.flatten()[rows], mask, self.encoder(document, mask))
        flat = torch.zeros(ids.shape).flatten()
        return flat.scatter(0, rows, found).view_as(ids)


class LoopSlots:
    """All K slots of B sentences; implements the attention of `models.slots.Slots`.

    A loop carries the caches from step to step, so their shapes are fixed and slots that move take
    their rows with them.

    Args:
        cross: keys and values of the sources, layer by layer. Shape ``(B, H, S, D)``.
        source_mask: Shape ``(B, S)``, bool.
        past: keys and values of the slots. Shape ``(R, H, T, D)``.
        beam_idx: the slot that each slot goes on from. Shape ``(B, K)``.
        t: position to decode, without dimensions.

    Attributes:
        caches: keys and values with position `t` in them.
    """

    def __init__(
        self,
        cross: list[Tensor],
        source_mask: Tensor,
        past: tuple[Tensor, ...],
        beam_idx: Tensor,
        t: Tensor,
    ) -> None:
        first = torch.arange(beam_idx.shape[0])[:, None] * beam_idx.shape[1]
        rows = (first + beam_idx).flatten()
        self.caches = [cache[rows] for cache in past]
        self._cross, self._t = cross, t
        self._is_past = torch.arange(past[0].shape[2]) <= t  # (T,)
        self._is_source = source_mask[:, None, None]  # (B, 1, 1, S)

    def self_attention(self, layer: int, t: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store position `t` and attend to all up to it: ``(R, H, D)`` each, to ``(R, H, D)``."""
        k, v = k[:, :, None], v[:, :, None]  # (R, H, 1, D)
        at = self._t.expand_as(k)
        keys, values = (
            cache.scatter(2, at, new)
            for cache, new in zip(self.caches[2 * layer : 2 * layer + 2], (k, v), strict=True)
        )
        self.caches[2 * layer : 2 * layer + 2] = keys, values
        return _attend(q[:, :, None], keys, values, self._is_past)[:, :, 0]

    def cross_attention(self, layer: int, q: Tensor) -> Tensor:
        """Attend with a sentence's slots as one query each to its source."""
        keys, values = self._cross[2 * layer : 2 * layer + 2]
        query = q.view(keys.shape[0], -1, *q.shape[1:]).transpose(1, 2)  # (B, H, K, D)
        return _attend(query, keys, values, self._is_source).transpose(1, 2).flatten(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(2, 3)
    return torch.where(mask, scores, -torch.inf).softmax(-1) @ v


def group_select(
    logprobs: Tensor,
    token_ids: Tensor,
    beam_scores: Tensor,
    active: Tensor | None,
    *,
    rule: str,
    num_beam_groups: int,
    penalty: float,
    eos_token_id: int,
    vocab_size: int,
) -> GroupChoice:
    """Choose as `ops.EAGER.group_select` does, which has the same arguments."""
    batch, num_beams, width = logprobs.shape
    groups, size = num_beam_groups, num_beams // num_beam_groups

    def by_group(x: Tensor) -> Tensor:
        return x.view(batch, size, groups, width).permute(2, 0, 1, 3).flatten(2)  # (G, B, n*C)

    if active is None:
        active = torch.ones(batch, groups, dtype=torch.bool)
    is_fairseq09 = rule == "fairseq09"
    scores, tokens, place = choose_in_turn(
        torch.zeros(batch, vocab_size),
        by_group(logprobs),
        by_group(token_ids),
        by_group(beam_scores[:, :, None].expand_as(logprobs)),
        active.T[:, :, None],
        penalty,
        2 * size,
        2 * size if is_fairseq09 else size,
        -1 if is_fairseq09 else eos_token_id,
    )
    beam_idx = place // width * groups + torch.arange(groups)[:, None, None]
    chosen = scores, tokens, beam_idx, place % width
    return GroupChoice(*(part.permute(1, 2, 0) for part in chosen))


@torch.library.custom_op("quals_fast::choose_in_turn", mutates_args=())
def choose_in_turn(
    count: Tensor,  # (B, V) float32: uses of each token by earlier groups
    logprobs: Tensor,  # (G, B, n*C) float32
    token_ids: Tensor,  # (G, B, n*C) int64
    beam_scores: Tensor,  # (G, B, n*C) float32
    active: Tensor,  # (G, B, 1) bool
    penalty: float,
    n_chosen: int,
    n_counted: int,
    uncounted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the groups choose in turn; stands in a trace for `single_file`'s Scan.

    Args:
        count: zeros.
        logprobs: of each group's candidates.
        token_ids: of them.
        beam_scores: of the slots that they continue.
        active: groups whose choice counts.
        penalty: nats for each use of a token in an earlier group.
        n_chosen: candidates that each group chooses, 2n.
        n_counted: how many of them penalise later groups, best first.
        uncounted: the token that never does.

    Returns:
        Scores, tokens and places ``(G, B, 2n)`` of what each group has chosen.
    """
    raise NotImplementedError("for traces only")


@choose_in_turn.register_fake
def _(
    count: Tensor,
    logprobs: Tensor,
    token_ids: Tensor,
    beam_scores: Tensor,
    active: Tensor,
    penalty: float,
    n_chosen: int,
    n_counted: int,
    uncounted: int,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*logprobs.shape[:2], n_chosen)
    tokens, places = (token_ids.new_empty(shape) for _ in range(2))
    return logprobs.new_empty(shape), tokens, places


def contains(
    haystack: Tensor, haystack_lengths: Tensor, needles: Tensor, needle_lengths: Tensor
) -> Tensor:
    """Tell as `ops.EAGER.span_match` does, without a loop: ``(B, S)``, ``(B, N, T)`` to ``(B, N)``."""
    width, longest = haystack.shape[1], needles.shape[2]
    starts, inside = torch.arange(width), torch.arange(longest)
    windows = haystack[:, (starts[:, None] + inside).clamp(max=width - 1)]  # (B, S, T)
    is_same = windows[:, None] == needles[:, :, None]  # (B, N, S, T)
    is_match = (is_same | (inside >= needle_lengths[:, :, None, None])).all(-1)
    fits = starts + needle_lengths[:, :, None] <= haystack_lengths[:, None, None]
    return (is_match & fits & (needle_lengths > 0)[:, :, None]).any(-1)


def _size(value: Tensor, most: int) -> int:
    """Return a tensor's value as a size from 1 to `most`, known when the graph runs."""
    size = value.clamp(min=2).item()
    torch._check(size >= 2)
    torch._check(size <= most)
    return size  # type: ignore[return-value]
