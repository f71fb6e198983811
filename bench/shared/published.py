"""The published pipeline on Hugging Face's modules, done decently: what a careful user would run.

Attention through SDPA, if transformers has it for the network, key-value cache, all threads, the
published batch sizes (5 summaries, 30 pairs), every batch padded. As published, the search looks at
all V log-probabilities for each of the 60 groups in turn, finished summaries leave the batch, and
the document is encoded once a pair.
Source: docs/semantics.md 1; fairseq 0.9 (sequence_generator.py, search.py); amazon-science/
fact-check-summarization. One sentence at a time: quals_fast/reference/diverse_beam.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.models.loading import model_folder
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.reference.model import cache_name, load_network
from quals_fast.reference.quals import answer_stands_in, select, split_at_sep
from quals_fast.results import Hypothesis, TokenLogprobs

SUMMARIES_AT_ONCE, PAIRS_AT_ONCE = 5, 30  # as published


class _Slots(NamedTuple):
    """What B sentences of K slots have decoded up to now; t tokens each."""

    token_ids: Tensor  # (B, K, t)
    logprobs: Tensor  # (B, K, t), the model's
    search_logprobs: Tensor  # (B, K, t), penalties taken off
    total: Tensor  # (B, K), sum of search_logprobs

    def grow(self, parents: Tensor, token_ids: Tensor, clean: Tensor, total: Tensor) -> _Slots:
        """Go on from slots `parents` with a token each; all arguments ``(B, n)``."""
        index = parents[:, :, None].expand(-1, -1, self.token_ids.shape[2])
        search = total - self.total.gather(1, parents)
        old = (self.token_ids, self.logprobs, self.search_logprobs)
        ids, logprobs, search_logprobs = (
            torch.cat([history.gather(1, index), new[:, :, None]], 2)
            for history, new in zip(old, (token_ids, clean, search), strict=True)
        )
        return _Slots(ids, logprobs, search_logprobs, total)

    def finish(self, row: int, slot: int, length_penalty: float) -> Hypothesis:
        """Return one slot as a hypothesis."""
        total = float(self.total[row, slot])
        return Hypothesis(
            token_ids=tuple(self.token_ids[row, slot].tolist()),
            logprobs=tuple(self.logprobs[row, slot].tolist()),
            search_logprobs=tuple(self.search_logprobs[row, slot].tolist()),
            search_sum=total,
            search_score=total / self.token_ids.shape[2] ** length_penalty,
        )


class PublishedPipeline:
    """QUALS with the published search rule, batch sizes and number of encoder runs.

    Args:
        model: as for `QualsScorer.from_pretrained`.
        decoding: settings of the search; rule ``fairseq09`` with groups of one beam.
        scoring: settings of the score.
        device: where to run.
        dtype: type of the weights.
        encode_once: encode each document once for all its pairs, which the published program does
            not do: to see what that alone brings.

    Attributes:
        network: Hugging Face's `BartForConditionalGeneration` or `T5ForConditionalGeneration`.
        stages: seconds that `score` spent last, by stage.

    Raises:
        ValueError: settings or a model that the published program did not have.
    """

    def __init__(
        self,
        model: str | Path = "qagen-mini",
        *,
        decoding: DecodingConfig | None = None,
        scoring: ScoringConfig | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        encode_once: bool = False,
    ) -> None:
        from transformers.modeling_outputs import BaseModelOutput

        self.decoding, self.scoring = decoding or DecodingConfig(), scoring or ScoringConfig()
        folder = model_folder(model)
        shape, conventions = read_checkpoint(folder)
        self.tokenizer, self.conventions = QATokenizer.with_masked(folder, shape, conventions)
        if self.decoding.rule != "fairseq09" or self.decoding.group_size != 1:
            raise ValueError(
                "the published pipeline needs rule 'fairseq09' and groups of one beam, but got "
                f"{self.decoding.rule!r} and groups of {self.decoding.group_size}"
            )
        if self.conventions.forced_bos_token_id is not None:
            raise ValueError(
                f"{folder} forces a first token, which the published pipeline cannot do"
            )
        self._output, self._device = BaseModelOutput, torch.device(device)
        self._encode_once = encode_once
        self.stages: dict[str, float] = {}
        self.network = load_network(folder, shape).to(device=self._device, dtype=dtype)

    @torch.inference_mode()
    def score(
        self, documents: Sequence[str], summaries: Sequence[str]
    ) -> tuple[list[float], list[list[Hypothesis]]]:
        """Return each summary's score, NaN without pairs, and its kept hypotheses."""
        start = time.perf_counter()
        generated = [
            hypotheses
            for first in range(0, len(summaries), SUMMARIES_AT_ONCE)
            for hypotheses in self.generate(summaries[first : first + SUMMARIES_AT_ONCE])
        ]
        searched = time.perf_counter()  # the results are lists: nothing is under way any more
        kept = list(map(self._keep, summaries, generated))
        filtered = time.perf_counter()
        sources = [source.input_ids for source in self.tokenizer.encode(list(documents))]
        pairs = [
            (source, hypothesis.token_ids)
            for source, hypotheses in zip(sources, kept, strict=True)
            for hypothesis in hypotheses
        ]
        rescored = [
            logprobs
            for first in range(0, len(pairs), PAIRS_AT_ONCE)
            for logprobs in self._rescore(pairs[first : first + PAIRS_AT_ONCE])
        ]
        given_document = iter(rescored)
        scores = [self._score(hypotheses, given_document) for hypotheses in kept]
        self.stages = {
            "generation": searched - start,
            "filter": filtered - searched,
            "rescoring": time.perf_counter() - filtered,
        }
        return scores, kept

    @torch.inference_mode()
    def generate(self, summaries: Sequence[str]) -> list[list[Hypothesis]]:
        """Search one batch of summaries together; hypotheses best first."""
        config, conventions = self.decoding, self.conventions
        beams, eos = config.num_beams, conventions.eos_token_id
        sources = [source.input_ids for source in self.tokenizer.encode(list(summaries))]
        states, mask = self._encode(sources)
        states, mask = states.repeat_interleave(beams, 0), mask.repeat_interleave(beams, 0)
        finished: list[list[Hypothesis]] = [[] for _ in sources]
        alive = list(range(len(sources)))
        nothing = states.new_empty(len(sources), beams, 0, dtype=torch.float32)
        slots = _Slots(nothing.long(), nothing, nothing, nothing.sum(2))
        last = mask.new_full((len(sources) * beams, 1), conventions.decoder_start_token_id)
        cache: Any = None
        for t in range(config.max_length + 1):
            logits, cache = self._decode(last, states, mask, cache)
            logprobs = self._log_softmax(logits[:, -1]).unflatten(0, (-1, beams))  # (B, K, V)
            total, tokens = self._choose(logprobs, slots.total, t)  # (B, 2K)
            every = torch.arange(len(alive), device=self._device)[:, None]
            parents = torch.arange(beams, device=self._device).repeat(len(alive), 2)
            clean = logprobs[every, parents, tokens]
            candidates = slots.grow(parents, tokens, clean, total)
            is_eos = tokens == eos
            for row, position in is_eos[:, :beams].nonzero().tolist():
                if len(finished[alive[row]]) < beams:
                    hypothesis = candidates.finish(row, position, config.length_penalty)
                    finished[alive[row]].append(hypothesis)
            going_on = [row for row, i in enumerate(alive) if len(finished[i]) < beams]
            if not going_on:
                break
            rows = torch.tensor(going_on, device=self._device)
            order = is_eos.byte().argsort(dim=1, stable=True)[rows, :beams]
            sentence = torch.arange(len(rows), device=self._device)[:, None]
            slots = _Slots(*(part[rows][sentence, order] for part in candidates))
            cache.self_attention_cache.reorder_cache(
                (rows[:, None] * beams + parents[rows].gather(1, order)).flatten()
            )
            if len(going_on) < len(alive):
                stay = (rows[:, None] * beams + torch.arange(beams, device=self._device)).flatten()
                cache.cross_attention_cache.batch_select_indices(stay)
                states, mask = states[stay], mask[stay]
                alive = [alive[row] for row in going_on]
            last = slots.token_ids[:, :, -1].reshape(-1, 1)
        return [sorted(one, key=lambda h: -h.search_score) for one in finished]

    def _choose(self, logprobs: Tensor, total: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Let the groups choose in turn; return scores and tokens, all first choices before."""
        config, conventions = self.decoding, self.conventions
        masked = logprobs.clone()
        masked[:, :, conventions.pad_token_id] = -torch.inf
        if t < config.min_length:
            masked[:, :, conventions.eos_token_id] = -torch.inf
        if t == config.max_length:
            masked.fill_(-torch.inf)
            masked[:, :, conventions.eos_token_id] = logprobs[:, :, conventions.eos_token_id]
        penalty = torch.zeros_like(masked[:, 0])
        ones = torch.ones_like(penalty[:, :2])
        chosen = []
        for group in range(config.num_beams):
            scores = torch.sub(masked[:, group], penalty, alpha=config.diversity_penalty)
            scores += total[:, group, None]
            chosen.append(scores.topk(2))
            penalty.scatter_add_(1, chosen[-1].indices, ones)
        values = torch.stack([c.values for c in chosen], 2).flatten(1)
        return values, torch.stack([c.indices for c in chosen], 2).flatten(1)

    def _keep(self, summary: str, hypotheses: list[Hypothesis]) -> list[Hypothesis]:
        """Filter and select, with the reference's own rules."""
        special = (self.conventions.eos_token_id, self.conventions.pad_token_id)
        candidates = []
        for hypothesis in hypotheses:
            parts = split_at_sep(hypothesis.token_ids, special, self.conventions.sep_token_id)
            if parts is not None and answer_stands_in(parts[1], summary, self.tokenizer):
                question, answer = map(self.tokenizer.decode, parts)
                candidates.append((question, answer, hypothesis))
        pairs = [(question, answer, h.search_sum) for question, answer, h in candidates]
        return [candidates[i][2] for i in select(pairs, self.scoring.max_pairs)]

    def _rescore(self, pairs: Sequence[tuple[list[int], tuple[int, ...]]]) -> list[TokenLogprobs]:
        """Return the targets' log-probabilities; as published each pair's document is encoded."""
        start = self.conventions.decoder_start_token_id
        sources = [tuple(source) for source, _ in pairs]
        if self._encode_once:
            distinct = list(dict.fromkeys(sources))
            row_of = {source: row for row, source in enumerate(distinct)}
            states, mask = self._encode(distinct)
            rows = torch.tensor([row_of[source] for source in sources], device=self._device)
            states, mask = states[rows], mask[rows]
        else:
            states, mask = self._encode(sources)
        inputs, _ = self._pad([[start, *target[:-1]] for _, target in pairs])
        labels, _ = self._pad([list(target) for _, target in pairs])
        logits, _ = self._decode(inputs, states, mask, None, use_cache=False)
        logprobs = self._log_softmax(logits).gather(2, labels[:, :, None])[:, :, 0].tolist()
        return [tuple(row[: len(target)]) for row, (_, target) in zip(logprobs, pairs, strict=True)]

    def _score(self, hypotheses: list[Hypothesis], given_document: Any) -> float:
        """Take the mean over pairs of the mean difference over tokens."""
        sep, answer_only = self.conventions.sep_token_id, self.scoring.tokens == "answer"
        scores = []
        for hypothesis in hypotheses:
            with_penalties = self.scoring.summary_logprob == "search"
            own = hypothesis.search_logprobs if with_penalties else hypothesis.logprobs
            first = hypothesis.token_ids.index(sep) + 1 if answer_only else 0
            gained = math.fsum(next(given_document)[first:]) - math.fsum(own[first:])
            scores.append(gained / (len(own) - first))
        return math.fsum(scores) / len(scores) if scores else math.nan

    def _encode(self, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = self._pad(sources)
        states = self.network.get_encoder()(ids, attention_mask=mask).last_hidden_state
        return states, mask

    def _decode(
        self, ids: Tensor, states: Tensor, mask: Tensor, cache: Any, use_cache: bool = True
    ) -> tuple[Tensor, Any]:
        name = cache_name(self.network)
        output = self.network(
            attention_mask=mask,
            encoder_outputs=self._output(last_hidden_state=states),
            decoder_input_ids=ids,
            use_cache=use_cache,
            **{name: cache},
        )
        return output.logits, output.get(name)

    def _log_softmax(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        logits[..., list(self.conventions.masked_token_ids)] = -torch.inf
        return logits.log_softmax(-1)

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        width, pad = max(map(len, rows)), self.conventions.pad_token_id
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids.to(self._device), mask.to(self._device)
