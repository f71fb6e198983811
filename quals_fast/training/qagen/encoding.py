"""Turn examples into tokens: sources, cut to the model's positions, and targets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from quals_fast.models.checkpoint import Conventions
from quals_fast.training.qagen.settings import LongContexts
from quals_fast.training.qagen.views import Example

MAX_PART_TOKENS = 60  # tokens of a question in a target, and of an answer
MAX_GIVEN_TOKENS = 64  # of an answer in a source


class Pair(NamedTuple):
    """Source and target tokens of one example; its length is that of the source.

    A target may consist of several, one after the other, each with its EOS.
    """

    source: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.source)


class PairEncoder:
    """Turns examples into tokens, in a checkpoint's format.

    Args:
        tokenizer: tokenizer of the checkpoint, without truncation and padding.
        conventions: special tokens and lengths of the checkpoint.
        positions: number of positions of the decoder.
        long_contexts: which part of a source that is too long is kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        conventions: Conventions,
        positions: int,
        long_contexts: LongContexts = "around",
    ) -> None:
        self.tokenizer = tokenizer
        self.conventions = conventions
        self._around = long_contexts == "around"
        self._start = [] if conventions.bos_token_id is None else [conventions.bos_token_id]
        forced = conventions.forced_bos_token_id
        self._target_start = [] if forced is None else [forced]
        # A target's last token is never an input, so `positions` tokens fit.
        self._positions = positions
        self._longest_part = min(MAX_PART_TOKENS, (positions - len(self._target_start) - 2) // 2)

    @property
    def room(self) -> int:
        """Tokens of a text that fit into a source."""
        return self.conventions.max_source_tokens - len(self._start) - 1

    def question_answer(
        self, example: Example, rng: random.Random, others: Sequence[tuple[str, str, int]] = ()
    ) -> Pair:
        """Return source ``[BOS] text EOS`` and target ``question SEP answer EOS``.

        Args:
            example: text, question and answer.
            rng: draws which part of a text that is too long is kept.
            others: further questions and answers about the text with the answers' starts. Their
                targets follow, as long as there are positions and the answer is still in the text.
        """
        s = self.conventions
        text, (start, end) = self._text(example, self.room, rng)
        target = self._target(example.question, example.answer)
        for question, answer, place in others:
            more = self._target(question, answer)
            is_shown = start <= place and place + len(answer) <= end
            if is_shown and len(target) + len(more) <= self._positions:
                target += more
        return Pair([*self._start, *text, s.eos_token_id], target)

    def answer_given(self, example: Example, rng: random.Random) -> Pair:
        """Return source ``[BOS] text SEP answer EOS`` and target ``question EOS``."""
        s = self.conventions
        answer = self._ids(example.answer)[:MAX_GIVEN_TOKENS]
        text, _ = self._text(example, self.room - 1 - len(answer), rng)
        source = [*self._start, *text, s.sep_token_id, *answer, s.eos_token_id]
        target = [*self._target_start, *self._part(example.question), s.eos_token_id]
        return Pair(source, target)

    def count_long(self, texts: list[str]) -> int:
        """Count the texts that do not fit into a source."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return sum(len(encoding.ids) > self.room for encoding in encodings)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _target(self, question: str, answer: str) -> list[int]:
        s = self.conventions
        parts = self._part(question), self._part(answer)
        return [*self._target_start, *parts[0], s.sep_token_id, *parts[1], s.eos_token_id]

    def _part(self, text: str) -> list[int]:
        # Masked tokens have no probability, and would make the loss infinite.
        masked = self.conventions.masked_token_ids
        return [i for i in self._ids(text) if i not in masked][: self._longest_part]

    def _text(
        self, example: Example, room: int, rng: random.Random
    ) -> tuple[list[int], tuple[int, int]]:
        """Return at most `room` tokens of a text, and the characters that they stand for."""
        encoding = self.tokenizer.encode(example.text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        first = 0
        if len(ids) > room and self._around and example.start >= 0:
            span = _tokens_of(encoding, example.start, example.start + len(example.answer))
            latest = min(span[0], len(ids) - room)
            first = rng.randint(min(max(0, span[1] - room), latest), latest)
        ids = ids[first : first + room]
        if not ids:
            return ids, (0, 0)
        return ids, (encoding.offsets[first][0], encoding.offsets[first + len(ids) - 1][1])


def _tokens_of(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    """Return the first token of a part of the text and the one after its last."""
    inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 1)
