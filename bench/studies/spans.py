"""Do spans find the unsupported words of a summary?

    python -m bench.spans                 the project's altered examples
    python -m bench.spans --data FILE     JSON lines with `spans` beside document and summary

`spans` are the unsupported parts of the summary, as [start, end] or {"start": ..., "end": ...}. In
the examples, they are the words that the faithful summary of the same document does not have in
their place. Summaries without such words are left out.

Spans are compared with the words that the document lacks, and with chance. The AUC of characters is
the probability that an unsupported character is more suspicious than a supported one; a tie counts
one half. White space does not count, and characters without a span are the least suspicious. A
method hits where the part that it suspects most meets unsupported words; of equal ones, one is
drawn.

Writes bench/results/spans.json; with --data, it only prints the result.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import SequenceMatcher
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import Progress
from sklearn.metrics import roc_auc_score

from bench.shared.common import EXAMPLES, finish
from bench.shared.options import command_line
from bench.shared.weights import MODEL, weights_of
from quals_fast.evaluation import mean_interval
from quals_fast.jobs.files import read_rows
from quals_fast.results import Range, SummaryScore, merged_spans
from quals_fast.scorer import QualsScorer
from quals_fast.validation import text_problem

_WORD = re.compile(r"\w+(?:[-',.\u2019]\w+)*")


class Summary(NamedTuple):
    """A summary with its unsupported parts."""

    document: str
    text: str
    unsupported: tuple[Range, ...]


class Suspect(NamedTuple):
    """A part of a summary, and how suspicious it is."""

    start: int
    end: int
    suspicion: float


Method = Callable[[Summary, SummaryScore], list[Suspect]]


def altered_examples() -> list[Summary]:
    """Return the altered summaries of the examples with their altered words."""
    texts: dict[str, dict[str, str]] = {}
    for line in EXAMPLES.read_text("utf-8").splitlines():
        row = json.loads(line)
        texts.setdefault(row["document"], {})[row["kind"]] = row["summary"]
    return [
        Summary(document, of["altered"], altered_words(of["faithful"], of["altered"]))
        for document, of in texts.items()
    ]


def altered_words(faithful: str, altered: str) -> tuple[Range, ...]:
    """Return the ranges of the words of `altered` that `faithful` does not have there."""
    words = [[*_WORD.finditer(text)] for text in (faithful, altered)]
    before, after = ([word[0] for word in one] for one in words)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    own = words[1]
    return tuple(
        (own[first].start(), own[end - 1].end())
        for kind, _, _, first, end in matcher.get_opcodes()
        if kind != "equal" and first < end
    )


def labelled(path: Path) -> list[Summary]:
    """Read summaries with `spans`.

    Raises:
        ValueError: a row cannot be read, or its spans are not ranges of its summary.
    """
    summaries = []
    for row in read_rows(str(path)):
        problems = (text_problem(name, getattr(row, name)) for name in ("document", "summary"))
        problem = row.problem or next(filter(None, problems), None)
        if problem is not None:
            raise ValueError(f"{path}, line {row.line}: {problem}")
        spans: Any = row.fields.get("spans")
        try:
            ranges = tuple(_range(span, len(row.summary)) for span in spans)
        except (TypeError, KeyError, ValueError):
            raise ValueError(
                f"{path}, line {row.line}: `spans` must be a list of [start, end] or of objects "
                f"with `start` and `end`, inside the summary's {len(row.summary)} characters, but "
                f"got {json.dumps(spans)[:60]}"
            ) from None
        summaries.append(Summary(row.document, row.summary, ranges))
    return summaries


def _range(span: Any, length: int) -> Range:
    start, end = (span["start"], span["end"]) if isinstance(span, dict) else span
    if not (type(start) is type(end) is int and 0 <= start < end <= length):
        raise ValueError
    return start, end


def spans(summary: Summary, result: SummaryScore) -> list[Suspect]:
    """Suspect the spans as they are returned."""
    return [Suspect(span.start, span.end, -span.score) for span in result.spans]


def spans_of_pairs(summary: Summary, result: SummaryScore) -> list[Suspect]:
    """Suspect the spans with the scores of whole pairs, questions included."""
    found = merged_spans(result.pairs, summary.text, attrgetter("score"))
    return [Suspect(span.start, span.end, -span.score) for span in found]


def places_of_spans(summary: Summary, result: SummaryScore) -> list[Suspect]:
    """Suspect all that questions ask about alike."""
    return [Suspect(span.start, span.end, 0.0) for span in result.spans]


def words_the_document_lacks(summary: Summary, result: SummaryScore) -> list[Suspect]:
    """Suspect each word that the document does not have."""
    known = {word[0].lower() for word in _WORD.finditer(summary.document)}
    return [
        Suspect(word.start(), word.end(), float(word[0].lower() not in known))
        for word in _WORD.finditer(summary.text)
    ]


def chance(summary: Summary, result: SummaryScore) -> list[Suspect]:
    """Suspect all words alike."""
    return [Suspect(word.start(), word.end(), 0.0) for word in _WORD.finditer(summary.text)]


METHODS: dict[str, Method] = {
    "spans": spans,
    "spans, with the scores of whole pairs": spans_of_pairs,
    "spans, all alike": places_of_spans,
    "words that the document lacks": words_the_document_lacks,
    "chance": chance,
}


def suspicions(summary: Summary, suspects: Iterable[Suspect]) -> tuple[np.ndarray, np.ndarray]:
    """Return for each character but white space its suspicion, and whether it is unsupported."""
    suspicion = np.full(len(summary.text), -math.inf)
    for start, end, value in suspects:
        suspicion[start:end] = value
    is_unsupported = np.zeros(len(summary.text), bool)
    for start, end in summary.unsupported:
        is_unsupported[start:end] = True
    counts = np.array([not c.isspace() for c in summary.text])
    return suspicion[counts], is_unsupported[counts]


def area(suspicion: np.ndarray, is_unsupported: np.ndarray) -> float:
    """Return the AUC; NaN unless there are characters of both kinds."""
    if is_unsupported.all() or not is_unsupported.any():
        return math.nan
    _, ranks = np.unique(suspicion, return_inverse=True)  # scikit-learn takes no infinity
    return float(roc_auc_score(is_unsupported, ranks))


def hit(summary: Summary, suspects: Sequence[Suspect]) -> float:
    """Return the probability that one of the most suspicious parts meets unsupported words."""
    most = max((one.suspicion for one in suspects), default=math.nan)
    worst = [one for one in suspects if one.suspicion == most]
    hits = [
        any(one.start < end and start < one.end for start, end in summary.unsupported)
        for one in worst
    ]
    return sum(hits) / len(hits) if hits else 0.0


def measure(
    method: Method, summaries: Sequence[Summary], results: Sequence[SummaryScore]
) -> dict[str, Any]:
    """Return AUC of characters, of all and within a summary, and the hits of a method."""
    found = [method(*one) for one in zip(summaries, results, strict=True)]
    values = [suspicions(*one) for one in zip(summaries, found, strict=True)]
    within = [value for value in (area(*one) for one in values) if not math.isnan(value)]
    of_all = [np.concatenate(part) for part in zip(*values, strict=True)]
    return {
        "auc": area(*of_all),
        "auc_within": mean_interval(within).to_dict(),
        "hits": sum(hit(*one) for one in zip(summaries, found, strict=True)),
    }


def study(scorer: QualsScorer, summaries: Sequence[Summary]) -> dict[str, Any]:
    """Score summaries and compare all methods on those with unsupported words.

    Raises:
        ValueError: there are none.
    """
    with_words = [one for one in summaries if one.unsupported]
    if not with_words:
        raise ValueError(
            "`spans` must mark unsupported words in at least one summary, but got none"
        )
    with Progress() as progress:
        advance = partial(progress.advance, progress.add_task("scoring", total=len(with_words)))
        documents, texts = [s.document for s in with_words], [s.text for s in with_words]
        result = scorer.score(documents, texts, on_progress=advance)
    scores = list(result.flat())
    covered = [
        np.isfinite(suspicion[is_unsupported]).mean()
        for suspicion, is_unsupported in (
            suspicions(one, spans(one, score))
            for one, score in zip(with_words, scores, strict=True)
        )
    ]
    return {
        "signature": result.signature,
        "summaries": len(with_words),
        "covered": float(np.mean(covered)),
        "methods": {name: measure(one, with_words, scores) for name, one in METHODS.items()},
    }


def main() -> None:
    """Compare with the bundled model."""
    parser = command_line(__doc__, data=None)
    data = parser.parse_args().data
    summaries = altered_examples() if data is None else labelled(data)
    scorer = QualsScorer.from_pretrained(MODEL, device="cpu")
    result = study(scorer, summaries)
    if data is None:
        finish("spans", result, weights=weights_of(MODEL))
    else:
        print(json.dumps({"data": data.name, **result}))


if __name__ == "__main__":
    main()
