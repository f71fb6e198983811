"""Extractive question answering with BERT, as for SQuAD 2.0 (docs/semantics.md 2, step 4).

Source: finetune_pt_squad.py and scripts/pt_qa.sh of W4ngatang/qags, which are run_squad.py of
google-research/bert: windows of 384 tokens, 128 apart; answers of at most 30; questions cut to 64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Encoding
from torch import Tensor

from quals_fast.batching import run_batches
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.models.tokenizer import unknown_token_id
from quals_fast.qags.networks import NetworkFiles
from quals_fast.qags.results import StageWork
from quals_fast.qags.windows import Window, cut_windows

MAX_WINDOW_TOKENS = 384
STRIDE = 128
MAX_QUESTION_TOKENS = 64
MAX_ANSWER_TOKENS = 30
NO_ANSWER_THRESHOLD = 0.0
WINDOWS_AS_SHIPPED = 64  # windows, each padded to MAX_WINDOW_TOKENS
_SPECIAL_TOKENS = 3  # [CLS] question [SEP] passage [SEP]


class Ask(NamedTuple):
    """A question to a text."""

    question: str
    text: str


class Span(NamedTuple):
    """The span of a text that answers a question best.

    Attributes:
        text: as in the text; empty if the text has no token.
        no_answer_margin: score of an empty answer minus the score of this span.
    """

    text: str
    no_answer_margin: float


class _Feature(NamedTuple):
    """A window with its question: one input of the network."""

    ask: int
    input_ids: list[int]
    passage_start: int
    window: Window


@dataclass(slots=True)
class _BestSpan:
    """The best span so far over the windows of a question.

    Attributes:
        no_answer: lowest score of an empty answer.
        score: highest score of a span.
        first: its first token in the text.
        last: its last.
        is_nan: whether a window's scores are NaN.
    """

    no_answer: float = float("inf")
    score: float = float("-inf")
    first: int = -1
    last: int = -1
    is_nan: bool = False


class QuestionAnswerer:
    """BERT with a head for the start and the end of an answer.

    Args:
        files: of the network.
        device: where it runs.
        dtype: of its weights.
        max_length: tokens of a window, with question and special tokens; less if the network has
            fewer positions.
        stride: tokens from window to window.

    Raises:
        CheckpointError: the files cannot be used.
    """

    def __init__(
        self,
        files: NetworkFiles,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        max_length: int = MAX_WINDOW_TOKENS,
        stride: int = STRIDE,
    ) -> None:
        self.bert = files.build("bert", device, dtype)
        self.max_length = min(max_length, self.bert.config.max_position_embeddings)
        self.stride = stride
        self._max_question = min(MAX_QUESTION_TOKENS, self.max_length - _SPECIAL_TOKENS - 1)
        self._tokenizer = files.load_tokenizer()
        cls, sep = (self._tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        if cls is None or sep is None:
            raise CheckpointError(
                f"{files.name}: the tokenizer must have the tokens [CLS] and [SEP], but lacks one; "
                "use a BERT with its own tokenizer"
            )
        self._cls, self._sep, self._pad = cls, sep, self.bert.config.pad_token_id or 0
        self._unknown = unknown_token_id(self._tokenizer)

    def count_unknown(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the vocabulary lacks."""
        encodings, unknown = self._encode(texts), self._unknown
        return sum(token == unknown for text in texts for token in encodings[text].ids)

    def leaves_room(self, question: str) -> bool:
        """Return whether a window with the whole question has room for a passage."""
        return self._has_room(self._count_tokens(question))

    def cut_tokens(self, question: str) -> int:
        """Return how many tokens of a question are cut off, those beyond the 64th.

        Raises:
            ValueError: it leaves no room for a passage.
        """
        n = self._count_tokens(question)
        if not self._has_room(n):
            raise ValueError(
                f"a question must leave room for a passage in a window of {self.max_length} "
                f"tokens, but has {n} tokens: {question[:60]!r}...; use a generator that ends its "
                "questions"
            )
        return max(0, n - self._max_question)

    def _has_room(self, question_tokens: int) -> bool:
        return question_tokens + _SPECIAL_TOKENS < self.max_length

    def _count_tokens(self, question: str) -> int:
        return len(self._encode([question])[question].ids)

    def answer(
        self, asks: Sequence[Ask], work: StageWork, *, max_batch_tokens: int | None
    ) -> list[str | None]:
        """Answer questions: the spans of `find`, or an empty answer where that scores higher.

        Args:
            asks: as in `find`, like the rest.
            work: see there.
            max_batch_tokens: see there.

        Returns:
            For each a span of the text; an empty one if the network finds no answer; None if it
            gives NaN.
        """
        spans = self.find(asks, work, max_batch_tokens=max_batch_tokens)
        return [
            None if one is None else "" if one.no_answer_margin > NO_ANSWER_THRESHOLD else one.text
            for one in spans
        ]

    @torch.inference_mode()
    def find(
        self, asks: Sequence[Ask], work: StageWork, *, max_batch_tokens: int | None
    ) -> list[Span | None]:
        """Find each question's best span, under inference mode.

        Args:
            asks: questions, none of which fills a window, with the texts they are put to.
            work: where the work is counted.
            max_batch_tokens: batches windows of like length under this budget; None runs 64 at
                once in the order given, each padded to a whole window, as the published program.

        Returns:
            For each its span; None if the network gives NaN.
        """
        encodings = self._encode([text for ask in asks for text in ask])
        features = list(self._features(asks, encodings))
        best = [_BestSpan() for _ in asks]
        if max_batch_tokens is None:
            ranges = range(0, len(features), WINDOWS_AS_SHIPPED)
            batches = ([features[i : i + WINDOWS_AS_SHIPPED], self.max_length] for i in ranges)
            scored: Iterable[tuple[_Feature, list[float]]] = (
                pair
                for batch, width in batches
                for pair in zip(batch, self._run(batch, width, work), strict=True)
            )
        else:
            lengths = [len(feature.input_ids) for feature in features]
            batched = run_batches(
                lengths,
                max_batch_tokens,
                lambda batch: self._run(
                    [features[i] for i in batch], max(lengths[i] for i in batch), work
                ),
            )
            scored = ((features[index], numbers) for index, numbers in batched)
        for feature, (no_answer, score, first, last) in scored:
            so_far = best[feature.ask]
            offset = feature.window.start - feature.passage_start
            so_far.is_nan |= no_answer != no_answer or score != score
            so_far.no_answer = min(so_far.no_answer, no_answer)
            if score > so_far.score:
                so_far.score = score
                so_far.first, so_far.last = int(first) + offset, int(last) + offset
        return [
            _read(best_span, ask.text, encodings[ask.text])
            for ask, best_span in zip(asks, best, strict=True)
        ]

    def _encode(self, texts: Sequence[str]) -> dict[str, Encoding]:
        distinct = list(dict.fromkeys(texts))
        encodings = self._tokenizer.encode_batch(distinct, add_special_tokens=False)
        return dict(zip(distinct, encodings, strict=True))

    def _features(self, asks: Sequence[Ask], encodings: dict[str, Encoding]) -> Iterator[_Feature]:
        ids = {text: encoding.ids for text, encoding in encodings.items()}
        for index, ask in enumerate(asks):
            question = ids[ask.question][: self._max_question]
            passage = ids[ask.text]
            head = [self._cls, *question, self._sep]
            room = self.max_length - _SPECIAL_TOKENS - len(question)
            for window in cut_windows(len(passage), room, self.stride):
                part = passage[window.start : window.start + window.length]
                yield _Feature(index, [*head, *part, self._sep], len(head), window)

    def _run(self, batch: Sequence[_Feature], width: int, work: StageWork) -> list[list[float]]:
        """Return no-answer score, best span's score, its first and last position of each window."""
        shape = len(batch), width
        input_ids = np.full(shape, self._pad, dtype=np.int64)
        segment, is_token, may_start, in_passage = (np.zeros(shape, dtype=bool) for _ in range(4))
        for row, (_, ids, start, window) in enumerate(batch):
            end = start + window.length
            input_ids[row, : len(ids)] = ids
            is_token[row, : len(ids)] = True
            segment[row, start : end + 1] = True
            in_passage[row, start:end] = True
            may_start[row, start:end] = window.has_most_context
        work.count([len(feature.input_ids) for feature in batch], width)
        device = self.bert.device
        output: Any = self.bert(
            input_ids=torch.from_numpy(input_ids).to(device),
            attention_mask=torch.from_numpy(is_token).to(device).long(),
            token_type_ids=torch.from_numpy(segment).to(device).long(),
        )
        return _best_spans(
            output.start_logits.float(),
            output.end_logits.float(),
            torch.from_numpy(may_start).to(device),
            torch.from_numpy(in_passage).to(device),
        ).tolist()


def _best_spans(start: Tensor, end: Tensor, may_start: Tensor, in_passage: Tensor) -> Tensor:
    """Return no-answer score, best score, first and last position of each window, ``(W, 4)``.

    The program looks at the 20 best starts and ends only; here all spans are.

    Args:
        start: logits ``(W, L)``.
        end: logits ``(W, L)``.
        may_start: where a span may start, ``(W, L)``.
        in_passage: where it may end, ``(W, L)``.
    """
    no_answer = start[:, 0] + end[:, 0]
    start = start.masked_fill(~may_start, -torch.inf)
    end = end.masked_fill(~in_passage, -torch.inf)
    width = start.shape[1]
    # (n, W, L): the score of the span of n + 1 tokens that starts at each position
    spans = torch.full(
        (min(MAX_ANSWER_TOKENS, width), *start.shape), -torch.inf, device=start.device
    )
    for n in range(len(spans)):
        torch.add(start[:, : width - n], end[:, n:], out=spans[n, :, : width - n])
    by_start, longer_by = spans.max(0)
    score, first = by_start.max(1)
    last = first + longer_by.gather(1, first[:, None])[:, 0]
    # Positions up to 2 ** 24 are exact in float32.
    return torch.stack([no_answer, score, first.float(), last.float()], 1)


def _read(best: _BestSpan, text: str, encoding: Encoding) -> Span | None:
    if best.is_nan:
        return None
    if best.first < 0:  # a text without tokens has no window
        return Span("", float("inf"))
    start, end = encoding.offsets[best.first][0], encoding.offsets[best.last][1]
    return Span(text[start:end], best.no_answer - best.score)
