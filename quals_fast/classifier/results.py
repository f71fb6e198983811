"""What a classifier returns: a probability for each sentence, and their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quals_fast.results import row_to_dict

ClassifierStatus = Literal["ok", "empty_summary", "empty_document", "unknown_text", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceScore:
    """A sentence of a summary, as the classifier judges it.

    Attributes:
        sentence: its text.
        label: the likeliest label.
        score: probability of the positive label, 0 to 1.
        truncated_tokens: tokens that were cut off the sentence.
    """

    sentence: str
    label: str
    score: float
    truncated_tokens: int = 0

    @property
    def question(self) -> str:
        """The sentence, where rows of any metric are shown."""
        return self.sentence

    @property
    def answer(self) -> str:
        """The label, where rows of any metric are shown."""
        return self.label

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierScore:
    """The score of one summary against its document.

    Attributes:
        status: ``ok``, ``empty_summary``, ``empty_document``, ``unknown_text`` or ``error``.
        score: mean probability of the positive label over the sentences, 0 to 1. NaN where
            `status` is not ``ok``.
        pairs: the sentences, in order.
        truncated_tokens: tokens that were cut off: of the document those that not all sentences
            were compared with, and of the sentences all.
        unknown_tokens: tokens of both texts that the vocabulary lacks.
        message: what is wrong and what to do about it, if `status` is ``error`` or
            ``unknown_text``.
    """

    status: ClassifierStatus
    score: float = math.nan
    pairs: tuple[SentenceScore, ...] = ()
    truncated_tokens: int = 0
    unknown_tokens: int = 0
    message: str | None = None

    @property
    def cut_sentences(self) -> int:
        """Number of sentences that are too long for the classifier, which lost tokens."""
        return sum(pair.truncated_tokens > 0 for pair in self.pairs)

    @property
    def worst_pair(self) -> SentenceScore | None:
        """The sentence with the lowest score, or None without sentences."""
        return min(self.pairs, key=lambda pair: pair.score, default=None)

    def to_dict(self, *, include_pairs: bool = True, include_spans: bool = False) -> dict[str, Any]:
        """Return a dictionary that json can write, with the keys of a QUALS row.

        Raises:
            ValueError: `include_spans` is set, which is for QUALS.
        """
        if include_spans:
            raise ValueError("`include_spans` is for QUALS, but this is a score of a classifier")
        content = row_to_dict(self, include_pairs=include_pairs)
        return content | ({"cut_sentences": n} if (n := self.cut_sentences) else {})


@dataclass(frozen=True, slots=True)
class ClassifierResult(Sequence[ClassifierScore]):
    """Scores in the order in which the summaries were given.

    Attributes:
        rows: one per summary.
        signature: everything that the scores depend on, in one line.
    """

    rows: tuple[ClassifierScore, ...]
    signature: str

    @property
    def scores(self) -> list[float]:
        """Score of each summary."""
        return [row.score for row in self.rows]

    def flat(self) -> Iterator[ClassifierScore]:
        """Yield the score of every summary."""
        yield from self.rows

    def to_dict(self, *, include_pairs: bool = True) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        rows = [row.to_dict(include_pairs=include_pairs) for row in self.rows]
        return {"signature": self.signature, "rows": rows}

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)
