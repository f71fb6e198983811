"""What QAGS returns: questions with both answers, scores, and the work of each stage."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any, Literal

from quals_fast.results import row_to_dict

QagsStatus = Literal["ok", "no_questions", "empty_summary", "empty_document", "error"]
Stage = Literal[
    "answer_extraction", "question_generation", "summary_answering", "document_answering"
]
STAGES: tuple[Stage, ...] = (
    "answer_extraction",
    "question_generation",
    "summary_answering",
    "document_answering",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QagsPair:
    """A question with the answers that it gets.

    Attributes:
        question: its text.
        answer: answer from the summary; empty if there is none.
        document_answer: answer from the document; empty if there is none.
        expected_answer: the candidate that the question was generated for.
        logprob: mean log-probability of the question's tokens, nats; NaN in a replay.
        score: F1 of the two answers' words, 0 to 1.
    """

    question: str
    answer: str
    document_answer: str
    expected_answer: str
    logprob: float
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that json can write; NaN becomes None."""
        return asdict(self) | {"logprob": None if math.isnan(self.logprob) else self.logprob}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a run did for one summary, so that random weights can be made to do the same work.

    Attributes:
        answers: the drawn candidates, repetitions included.
        steps: tokens that the search decoded for each of them.
        questions: the questions that were asked.
    """

    answers: tuple[str, ...]
    steps: tuple[int, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QagsScore:
    """The score of one summary against its document.

    Attributes:
        status: ``ok``, ``no_questions``, ``empty_summary``, ``empty_document`` or ``error``.
        score: QAGS, 0 to 1: the mean F1 of the answers from summary and document. NaN where
            `status` is not ``ok``.
        pairs: the questions that were asked, likeliest first.
        n_generated: questions that were generated, before the filter.
        truncated_tokens: tokens that were cut off the summary for question generation, and off
            questions for question answering.
        unknown_tokens: tokens of both texts that question answering's vocabulary lacks. They do
            not change the comparison: answers are compared as they occur in the texts.
        replay: what the run did.
        message: what is wrong and what to do about it, if `status` is ``error``.
    """

    status: QagsStatus
    score: float = math.nan
    pairs: tuple[QagsPair, ...] = ()
    n_generated: int = 0
    truncated_tokens: int = 0
    unknown_tokens: int = 0
    replay: Replay = Replay(answers=(), steps=(), questions=())
    message: str | None = None

    @property
    def worst_pair(self) -> QagsPair | None:
        """The question whose answers agree least, or None without questions."""
        return min(self.pairs, key=lambda pair: pair.score, default=None)

    def to_dict(self, *, include_pairs: bool = True, include_spans: bool = False) -> dict[str, Any]:
        """Return a dictionary that json can write, with the keys of a QUALS row.

        Raises:
            ValueError: `include_spans` is set, which is for QUALS.
        """
        if include_spans:
            raise ValueError("`include_spans` is for QUALS, but this is a score of QAGS")
        return row_to_dict(self, include_pairs=include_pairs)


@dataclass(slots=True)
class StageWork:
    """The work of a stage.

    Attributes:
        seconds: wall-clock time.
        sequences: sequences that went through the encoder (in answer extraction: summaries).
        tokens: tokens of these sequences.
        computed_tokens: the same, padding included.
        decoded_tokens: tokens that went through the decoder, over all beams.
        attended_tokens: sum, over the decoded tokens, of the source tokens that each attends to,
            padding included.
    """

    seconds: float = 0.0
    sequences: int = 0
    tokens: int = 0
    computed_tokens: int = 0
    decoded_tokens: int = 0
    attended_tokens: int = 0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of a block, which must read its results back to the host."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - start

    def count(self, lengths: Sequence[int], padded_to: int) -> None:
        """Count a batch of sequences."""
        self.sequences += len(lengths)
        self.tokens += sum(lengths)
        self.computed_tokens += len(lengths) * padded_to


@dataclass(frozen=True, slots=True)
class QagsResult(Sequence[QagsScore]):
    """Scores in the order in which the summaries were given.

    Attributes:
        rows: one per summary.
        signature: everything that the scores depend on, in one line.
        work: the work of each stage.
    """

    rows: tuple[QagsScore, ...]
    signature: str
    work: dict[Stage, StageWork] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """QAGS of each summary."""
        return [row.score for row in self.rows]

    def flat(self) -> Iterator[QagsScore]:
        """Yield the score of every summary."""
        yield from self.rows

    def to_dict(self, *, include_pairs: bool = True) -> dict[str, Any]:
        """Return a dictionary that json can write."""
        return {
            "signature": self.signature,
            "rows": [row.to_dict(include_pairs=include_pairs) for row in self.rows],
            "work": {stage: asdict(work) for stage, work in self.work.items()},
        }

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)
