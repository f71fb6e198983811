"""Examples as tokens: sources and targets, and sources cut to the model's positions."""

from __future__ import annotations

import random
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from quals_fast.models.checkpoint import Settings
from quals_fast.training.settings import LongContexts
from quals_fast.training.views import Example

LONGEST_PART = 60  # tokens of a question in a target, and of an answer
LONGEST_GIVEN = 64  # of an answer in a source


class Pair(NamedTuple):
    """Source and target tokens of one example; its length is that of the source."""

    source: list[int]
    target: list[int]

    def __len__(self) -> int:
        return len(self.source)


class PairEncoder:
    """Tokens of examples, in a checkpoint's format.

    Args:
        tokenizer: of the checkpoint, without truncation and padding.
        settings: special tokens and lengths of the checkpoint.
        positions: that the decoder has.
        long_contexts: what is left of a source that is too long.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: Settings,
        positions: int,
        long_contexts: LongContexts = "around",
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self._around = long_contexts == "around"
        self._start = [] if settings.bos_token_id is None else [settings.bos_token_id]
        forced = settings.forced_bos_token_id
        self._target_start = [] if forced is None else [forced]
        # A target's last token is an input of nothing, so `positions` tokens fit.
        self._longest_part = min(LONGEST_PART, (positions - len(self._target_start) - 2) // 2)

    @property
    def room(self) -> int:
        """Tokens of a text that fit into a source."""
        return self.settings.max_source_tokens - len(self._start) - 1

    def question_answer(self, example: Example, rng: random.Random) -> Pair:
        """Return source ``[BOS] text EOS`` and target ``question SEP answer EOS``."""
        s = self.settings
        question, answer = (self._part(text) for text in (example.question, example.answer))
        source = [*self._start, *self._text(example, self.room, rng), s.eos_token_id]
        target = [*self._target_start, *question, s.sep_token_id, *answer, s.eos_token_id]
        return Pair(source, target)

    def answer_given(self, example: Example, rng: random.Random) -> Pair:
        """Return source ``[BOS] text SEP answer EOS`` and target ``question EOS``."""
        s = self.settings
        answer = self._ids(example.answer)[:LONGEST_GIVEN]
        text = self._text(example, self.room - 1 - len(answer), rng)
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

    def _part(self, text: str) -> list[int]:
        # What is outside the vocabulary has no probability, and would make the loss infinite.
        masked = self.settings.masked_token_ids
        return [i for i in self._ids(text) if i not in masked][: self._longest_part]

    def _text(self, example: Example, room: int, rng: random.Random) -> list[int]:
        encoding = self.tokenizer.encode(example.text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        first = 0
        if len(ids) > room and self._around and example.start >= 0:
            span = _tokens_of(encoding, example.start, example.start + len(example.answer))
            latest = min(span[0], len(ids) - room)
            first = rng.randint(min(max(0, span[1] - room), latest), latest)
        return ids[first : first + room]


def _tokens_of(encoding: Encoding, start: int, end: int) -> tuple[int, int]:
    """Return the first token of a part of the text and the one behind its last."""
    inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and b > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 1)
