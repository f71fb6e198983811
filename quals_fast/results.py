"""What a scorer returns: hypotheses, question-answer pairs, scores, and the result as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from operator import attrgetter, sub
from typing import Any, ClassVar, Literal, Protocol, TypeAlias
from unicodedata import category

from quals_fast.signature import has_probability

SEP, EOS = "<sep>", "<eos>"  # in `QAPair.tokens`
TokenLogprobs: TypeAlias = tuple[float, ...]
Range: TypeAlias = tuple[int, int]  # of a text: its first code point, and one past the last
Status = Literal["ok", "no_pairs", "empty_summary", "empty_document", "unknown_text", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A token sequence that the search found.

    Attributes:
        token_ids: ``question SEP answer EOS`` if it is well formed; length T.
        logprobs: Log-probability of each token given the summary, in nats; length T.
        search_logprobs: The same minus the diversity penalty, and 0 for an EOS that rule
            ``hamming`` forced; length T.
        search_sum: Sum of `search_logprobs` as the search accumulates it.
        search_score: ``search_sum / T ** length_penalty``, as the original programs report it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    search_logprobs: tuple[float, ...]
    search_sum: float
    search_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QAPair:
    """A question-answer pair with its log-probabilities given the summary and the document.

    Attributes:
        question: Text of the question.
        answer: Text of the answer.
        token_ids: ``question SEP answer EOS``; length T.
        tokens: `token_ids` as readable text, for display; length T.
        summary_logprobs: Log-probability of each token given the summary, in nats; length T. With
            ``summary_logprob="search"``, they include the diversity penalty.
        document_logprobs: Log-probability of each token given the document, in nats; length T.
        first_counted: Index of the first token that counts in `score`: 0, or that of the answer's
            first token with ``tokens="answer"``.
        answer_spans: Where the summary has the answer: start and end of each occurrence, in code
            points. Empty if that is not known, as in files of earlier versions.
    """

    question: str
    answer: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    summary_logprobs: tuple[float, ...]
    document_logprobs: tuple[float, ...]
    first_counted: int = 0
    answer_spans: tuple[Range, ...] = ()

    @property
    def score(self) -> float:
        """Mean log-probability given the document minus given the summary, in nats per token."""
        first, n = self.first_counted, len(self.token_ids) - self.first_counted
        document, summary = self.document_logprobs[first:], self.summary_logprobs[first:]
        return math.fsum(document) / n - math.fsum(summary) / n

    @property
    def answer_drop(self) -> float:
        """The same mean over the answer's tokens alone, without SEP and EOS."""
        first = self.tokens.index(SEP) + 1
        drops = map(sub, self.document_logprobs[first:-1], self.summary_logprobs[first:-1])
        return math.fsum(drops) / (len(self.tokens) - 1 - first)

    @property
    def is_finite(self) -> bool:
        """Whether all log-probabilities are finite, also of tokens that do not count."""
        return all(map(math.isfinite, (*self.summary_logprobs, *self.document_logprobs)))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "question": self.question,
            "answer": self.answer,
            "score": self.score,
            "tokens": list(self.tokens),
            "token_ids": list(self.token_ids),
            "summary_logprobs": list(self.summary_logprobs),
            "document_logprobs": list(self.document_logprobs),
            "first_counted": self.first_counted,
            "answer_spans": [list(span) for span in self.answer_spans],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a summary that pairs ask about.

    Attributes:
        start: Its first character, counted in code points of the summary as given.
        end: One past its last character.
        score: Mean `QAPair.answer_drop` of the pairs whose answers cover it, in nats per token.
    """

    start: int
    end: int
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {"start": self.start, "end": self.end, "score": self.score}


def merged_spans(
    pairs: Sequence[QAPair],
    summary: str,
    score_of: Callable[[QAPair], float] = attrgetter("answer_drop"),
) -> tuple[Span, ...]:
    """Cut a summary where answers begin or end; return the parts inside answers, worst first.

    Parts have no white space at their ends, and more than punctuation (docs/semantics.md 1.7).

    Args:
        pairs: those without `answer_spans` do not matter.
        summary: what the answers occur in.
        score_of: what a span has the mean of.
    """
    cuts = sorted({cut for pair in pairs for place in pair.answer_spans for cut in place})
    index = {cut: i for i, cut in enumerate(cuts)}
    covering: list[list[float]] = [[] for _ in cuts]  # the part from each cut to the next
    for pair in filter(attrgetter("answer_spans"), pairs):
        score = score_of(pair)
        parts = {i for a, b in pair.answer_spans for i in range(index[a], index[b])}
        for i in parts:  # once, even where occurrences overlap
            covering[i].append(score)
    spans = []
    for (start, end), own in zip(pairwise(cuts), covering, strict=False):
        part = summary[start:end]
        if own and not all(c.isspace() or category(c).startswith("P") for c in part):
            start, end = end - len(part.lstrip()), start + len(part.rstrip())
            spans.append(Span(start=start, end=end, score=math.fsum(own) / len(own)))
    return tuple(sorted(spans, key=lambda span: (span.score, span.start)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryScore:
    """The score of one summary against its document.

    Attributes:
        status: ``ok``, ``no_pairs``, ``empty_summary``, ``empty_document``, ``unknown_text`` (more
            than half of a text's tokens are unknown to the model) or ``error``.
        score: QUALS, in nats per token. Near 0, the document supports the summary; clearly
            negative, it does not. NaN unless `status` is ``ok`` (but see
            `ScoringConfig.no_pairs_score`).
        pairs: The question-answer pairs that were kept, in order of selection.
        n_hypotheses: Number of sequences that the search returned, before filtering.
        truncated_tokens: Number of tokens that were cut off summary and document.
        unknown_tokens: Number of tokens in summary and document that the model's vocabulary
            lacks, also counting what was cut off.
        message: What is wrong and what to do about it, if `status` is ``unknown_text`` or
            ``error``.
        spans: The parts of the summary that the pairs ask about, worst first. A part without a
            span was not checked.
        probability: Probability that people call the summary consistent, from 0 to 1, as the
            scorer's calibration says. None without a calibration, or if `status` is not ``ok``.
    """

    status: Status
    score: float = math.nan
    pairs: tuple[QAPair, ...] = ()
    n_hypotheses: int = 0
    truncated_tokens: int = 0
    unknown_tokens: int = 0
    message: str | None = None
    spans: tuple[Span, ...] = ()
    probability: float | None = None

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
        summary: str = "",
    ) -> SummaryScore:
        """Average the pairs' scores; without pairs, take `no_pairs_score` (None: NaN).

        Fewer hypotheses than beams, or a log-probability that is not finite, become status
        ``error``. `summary` is what the pairs' `answer_spans` are ranges of.
        """
        # NaN is greater than nothing, so a slot that meets it never finishes.
        if n_hypotheses < num_beams or not all(pair.is_finite for pair in pairs):
            return cls(
                status="error",
                message="the model's log-probabilities are not finite, as can happen in float16 "
                "when numbers overflow; use dtype='float32'",
            )
        if pairs:
            score = math.fsum(pair.score for pair in pairs) / len(pairs)
        else:
            score = math.nan if no_pairs_score is None else no_pairs_score
        return cls(
            status="ok" if pairs else "no_pairs",
            score=score,
            pairs=pairs,
            n_hypotheses=n_hypotheses,
            truncated_tokens=truncated_tokens,
            unknown_tokens=unknown_tokens,
            spans=merged_spans(pairs, summary),
        )

    @property
    def worst_pair(self) -> QAPair | None:
        """The pair with the lowest score, or None without pairs."""
        return min(self.pairs, key=lambda pair: pair.score, default=None)

    def to_dict(self, *, include_pairs: bool = True, include_spans: bool = False) -> dict[str, Any]:
        """Return a dictionary for JSON; a NaN score becomes None."""
        content = row_to_dict(self, include_pairs=include_pairs)
        if include_spans:
            content["spans"] = [span.to_dict() for span in self.spans]
        return content if self.probability is None else _with_probability(content, self.probability)


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
        """The higher, the better the document supports the pair."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        ...


class RowScore(Protocol):
    """The score of one summary by any metric, as commands and files handle it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def status(self) -> str:
        """``ok``, ``error``, or another outcome."""
        ...

    @property
    def score(self) -> float:
        """The score; NaN if there is none."""
        ...

    @property
    def pairs(self) -> Sequence[ScoredPair]:
        """The pairs whose mean is the score."""
        ...

    @property
    def truncated_tokens(self) -> int:
        """Number of tokens that were cut off."""
        ...

    @property
    def unknown_tokens(self) -> int:
        """Number of tokens that the vocabulary lacks."""
        ...

    @property
    def message(self) -> str | None:
        """What is wrong, if `status` is ``error`` or ``unknown_text``."""
        ...

    @property
    def worst_pair(self) -> ScoredPair | None:
        """The pair with the lowest score."""
        ...

    def to_dict(self, *, include_pairs: bool = True, include_spans: bool = False) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        ...


def row_to_dict(row: RowScore, *, include_pairs: bool) -> dict[str, Any]:
    """Return a row of any metric as a dictionary for JSON; a NaN score becomes None."""
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


def signed_row(row: RowScore, signature: str, **included: bool) -> dict[str, Any]:
    """Return a row as a dictionary for JSON, as jobs and services write it, with its signature.

    Args:
        row: a row of any metric.
        signature: of its scorer.
        included: arguments of `RowScore.to_dict`.
    """
    return _complete(row, signature, **included) | {"signature": signature}


def _complete(row: RowScore, signature: str, **included: bool) -> dict[str, Any]:
    """Return a row as a dictionary: with a calibration, rows without a score have the key, too."""
    content = row.to_dict(**included)
    if has_probability(signature) and "probability" not in content:
        content = _with_probability(content, None)
    return content


def _with_probability(content: dict[str, Any], probability: float | None) -> dict[str, Any]:
    """Put a probability behind the score, for people who read the file."""
    return {"score": content["score"], "probability": probability, **content}


class RowScores(Protocol):
    """What a scorer returns for a window of rows."""

    def flat(self) -> Iterator[RowScore]:
        """Yield the score of every summary."""
        ...


Row: TypeAlias = SummaryScore | tuple[SummaryScore, ...]


@dataclass(frozen=True, slots=True)
class QualsResult(Sequence[Row]):
    """The scores of a call, in the order and nesting of its summaries.

    It is a sequence: ``result[0]`` is the first row.

    Attributes:
        rows: One `SummaryScore` per summary, or a tuple of them for a list of summaries.
        signature: One line with everything that the scores depend on: settings, model, precision,
            backend and version.
    """

    rows: tuple[Row, ...]
    signature: str

    @property
    def scores(self) -> list[Any]:
        """The score of each summary: a float, or a list of floats for a list of summaries."""
        return [
            [one.score for one in row] if isinstance(row, tuple) else row.score for row in self.rows
        ]

    def flat(self) -> Iterator[SummaryScore]:
        """Yield the `SummaryScore` of every summary, whether nested or not."""
        for row in self.rows:
            yield from row if isinstance(row, tuple) else (row,)

    def to_dict(self, *, include_pairs: bool = True, include_spans: bool = False) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        included = {"include_pairs": include_pairs, "include_spans": include_spans}
        return {
            "signature": self.signature,
            "rows": [
                [_complete(one, self.signature, **included) for one in row]
                if isinstance(row, tuple)
                else _complete(row, self.signature, **included)
                for row in self.rows
            ],
        }

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Statistics of a cache of encoded documents.

    Attributes:
        hits: How many documents were found. Summaries that share a document in a batch count once.
        misses: How many documents had to be encoded.
        n_documents: How many documents the cache holds.
        n_bytes: How many bytes it holds.
        max_bytes: How many bytes it may hold.
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
