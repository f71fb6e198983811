"""What a scorer returns: hypotheses, question-answer pairs, summaries' scores, the whole result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

TokenLogprobs: TypeAlias = tuple[float, ...]
Status = Literal["ok", "no_pairs", "empty_summary", "empty_document", "unknown_text", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """One sequence that the search found.

    Attributes:
        token_ids: ``question SEP answer EOS``, when it is well formed; length T.
        logprobs: the model's log-probability of each token given the summary, nats; length T.
        search_logprobs: the same with the diversity penalty taken off, and 0 for an EOS that rule
            ``hamming`` forced; length T.
        search_sum: sum of `search_logprobs` as the search adds it up.
        search_score: `search_sum` / T ** length_penalty, as the original programs report it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    search_logprobs: tuple[float, ...]
    search_sum: float
    search_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QAPair:
    """A question-answer pair that was kept, with what each text makes of it.

    Attributes:
        question: decoded text of the question.
        answer: decoded text of the answer.
        token_ids: ``question SEP answer EOS``; length T.
        tokens: `token_ids` as they are read, for display; length T.
        summary_logprobs: log-probability of each token given the summary, nats; length T. With
            ``summary_logprob="search"`` the diversity penalty is in them.
        document_logprobs: log-probability of each token given the document, nats; length T.
    """

    question: str
    answer: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    summary_logprobs: tuple[float, ...]
    document_logprobs: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean log-probability given the document less that given the summary, nats a token."""
        n = len(self.token_ids)
        return math.fsum(self.document_logprobs) / n - math.fsum(self.summary_logprobs) / n

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return {
            "question": self.question,
            "answer": self.answer,
            "score": self.score,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "summary_logprobs": list(self.summary_logprobs),
            "document_logprobs": list(self.document_logprobs),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryScore:
    """The score of one summary against its document.

    Attributes:
        status: ``ok``, ``no_pairs``, ``empty_summary``, ``empty_document``, ``unknown_text`` (more
            than half of a text's tokens are unknown to the model) or ``error``.
        score: QUALS, nats a token: near 0, the document supports the summary; clearly negative, it
            does not. NaN where `status` is not ``ok`` (but see `ScoringConfig.no_pairs_score`).
        pairs: the kept pairs, in the order of selection.
        n_hypotheses: sequences that the search returned, before the filter.
        truncated_tokens: source tokens of summary and document that the model did not see.
        unknown_tokens: tokens of both whole texts that stand for what the vocabulary lacks.
        message: what was wrong and what to do, where `status` is ``unknown_text`` or ``error``.
    """

    status: Status
    score: float = math.nan
    pairs: tuple[QAPair, ...] = ()
    n_hypotheses: int = 0
    truncated_tokens: int = 0
    unknown_tokens: int = 0
    message: str | None = None

    @classmethod
    def of_pairs(
        cls,
        pairs: tuple[QAPair, ...],
        *,
        no_pairs_score: float | None,
        n_hypotheses: int,
        num_beams: int,
        truncated_tokens: int,
        unknown_tokens: int = 0,
    ) -> SummaryScore:
        """Take the mean of the pairs' scores, or `no_pairs_score` (None: NaN) without pairs.

        Fewer hypotheses than beams, or a NaN mean, are an error of the model.
        """
        if pairs:
            score = math.fsum(pair.score for pair in pairs) / len(pairs)
        else:
            score = math.nan if no_pairs_score is None else no_pairs_score
        # NaN is greater than nothing, so a slot that meets it never finishes.
        if n_hypotheses < num_beams or (pairs and math.isnan(score)):
            return cls(
                status="error",
                message="the model gives NaN log-probabilities, as float16 may where numbers "
                "overflow; use dtype='float32'",
            )
        return cls(
            status="ok" if pairs else "no_pairs",
            score=score,
            pairs=pairs,
            n_hypotheses=n_hypotheses,
            truncated_tokens=truncated_tokens,
            unknown_tokens=unknown_tokens,
        )

    @property
    def worst_pair(self) -> QAPair | None:
        """The pair that the document supports least, or None without pairs."""
        return min(self.pairs, key=lambda pair: pair.score, default=None)

    def to_dict(self, *, include_pairs: bool = True) -> dict[str, Any]:
        """Return a dictionary that json can write; a NaN score becomes None."""
        return row_to_dict(self, include_pairs=include_pairs)


class ScoredPair(Protocol):
    """A question and answer of any metric."""

    @property
    def question(self) -> str:
        """Text of the question."""
        ...

    @property
    def answer(self) -> str:
        """Text of the answer."""
        ...

    @property
    def score(self) -> float:
        """The higher, the better the document supports it."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        ...


class RowScore(Protocol):
    """The score of one summary by any metric, as commands and files take it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def status(self) -> str:
        """``ok``, ``error``, or what else became of the row."""
        ...

    @property
    def score(self) -> float:
        """NaN where there is none."""
        ...

    @property
    def pairs(self) -> Sequence[ScoredPair]:
        """What the score is the mean of."""
        ...

    @property
    def truncated_tokens(self) -> int:
        """Tokens that the model did not see."""
        ...

    @property
    def unknown_tokens(self) -> int:
        """Tokens that stand for what the vocabulary lacks."""
        ...

    @property
    def message(self) -> str | None:
        """What was wrong, where `status` is ``error`` or ``unknown_text``."""
        ...

    @property
    def worst_pair(self) -> ScoredPair | None:
        """The pair with the lowest score."""
        ...

    def to_dict(self, *, include_pairs: bool = True) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        ...


def row_to_dict(row: RowScore, *, include_pairs: bool) -> dict[str, Any]:
    """Return a row of any metric as a dictionary that json can write; a NaN score becomes None."""
    content: dict[str, Any] = {
        "score": None if math.isnan(row.score) else row.score,
        "status": row.status,
        "n_pairs": len(row.pairs),
        "truncated_tokens": row.truncated_tokens,
        "unknown_tokens": row.unknown_tokens,
    }
    if row.message is not None:
        content["message"] = row.message
    if include_pairs:
        content["pairs"] = [pair.to_dict() for pair in row.pairs]
    return content


class RowScores(Protocol):
    """What a scorer returns for a window of rows."""

    def flat(self) -> Iterator[RowScore]:
        """Yield the score of every summary."""
        ...


Row: TypeAlias = SummaryScore | tuple[SummaryScore, ...]


@dataclass(frozen=True, slots=True)
class QualsResult(Sequence[Row]):
    """Scores in the order and the shape in which the summaries were given.

    Attributes:
        rows: one `SummaryScore` a summary; a tuple of them where a list of summaries was given.
        signature: everything that the scores depend on, in one line.
    """

    rows: tuple[Row, ...]
    signature: str

    @property
    def scores(self) -> list[Any]:
        """QUALS of each summary, a float, or a list of them where the summaries were a list."""
        return [
            [one.score for one in row] if isinstance(row, tuple) else row.score for row in self.rows
        ]

    def flat(self) -> Iterator[SummaryScore]:
        """Yield the score of every summary, nested or not."""
        for row in self.rows:
            yield from row if isinstance(row, tuple) else (row,)

    def to_dict(self, *, include_pairs: bool = True) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return {
            "signature": self.signature,
            "rows": [
                [one.to_dict(include_pairs=include_pairs) for one in row]
                if isinstance(row, tuple)
                else row.to_dict(include_pairs=include_pairs)
                for row in self.rows
            ],
        }

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What a cache of encoded documents has done so far.

    Attributes:
        hits: documents that were found; several summaries of one document in a batch ask once.
        misses: documents that had to be encoded.
        n_documents: documents held now.
        n_bytes: bytes held now.
        max_bytes: the bound.
    """

    hits: int
    misses: int
    n_documents: int
    n_bytes: int
    max_bytes: int


def nested_like(summaries: Sequence[Any], flat: Sequence[SummaryScore]) -> tuple[Row, ...]:
    """Put scores into the shape of `summaries`: one each, or a tuple for each list of them."""
    remaining = iter(flat)
    return tuple(
        tuple(islice(remaining, len(entry))) if isinstance(entry, list | tuple) else next(remaining)
        for entry in summaries
    )
