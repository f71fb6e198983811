"""A scoring pass that is stored row by row, and the scores of many settings that follow from it.

The search is what costs time. Its sequences that are pairs about the summary are all stored, with
their log-probabilities given summary and document, so that no `ScoringConfig` needs a second pass,
and a shorter cut of the documents only a second rescoring. A pass that was stopped goes on with the
rows that it lacks.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.progress import track

from bench.shared.common import Pair, load_pairs
from bench.shared.engines import torch_engine
from quals_fast import QAPair, QualsScorer, ScoringConfig
from quals_fast.engine.filtering import KeptPair, pairs_about, select
from quals_fast.jobs.files import read_rows
from quals_fast.results import Hypothesis

ROWS_AT_ONCE = 16


class Row(NamedTuple):
    """A labelled row.

    Attributes:
        number: its line in the file, from 1.
        pair: its texts and label.
        published: scores of it that others published, by metric.
    """

    number: int
    pair: Pair
    published: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Stored:
    """What a pass found in a row.

    Attributes:
        n_hypotheses: sequences that the search returned.
        pairs: those that are pairs about the summary, in the search's order.
        document_logprobs: of each distinct pair's tokens, nats, by its token ids.
    """

    n_hypotheses: int
    pairs: list[KeptPair]
    document_logprobs: dict[tuple[int, ...], tuple[float, ...]]

    def kept(self, max_pairs: int | None) -> list[KeptPair]:
        """Return the pairs that are selected."""
        return select(self.pairs, max_pairs)

    def scored_pairs(self, scoring: ScoringConfig, sep_token_id: int) -> list[QAPair]:
        """Return the pairs that some settings keep, as a scorer does but without readable tokens.

        Args:
            scoring: the settings.
            sep_token_id: stands before the answer.
        """
        with_penalties = scoring.summary_logprob == "search"
        answer_only = scoring.tokens == "answer"
        return [
            QAPair(
                question=question,
                answer=answer,
                token_ids=found.token_ids,
                tokens=(),
                summary_logprobs=found.search_logprobs if with_penalties else found.logprobs,
                document_logprobs=self.document_logprobs[found.token_ids],
                first_counted=found.token_ids.index(sep_token_id) + 1 if answer_only else 0,
            )
            for question, answer, found in self.kept(scoring.max_pairs)
        ]

    def score(self, scoring: ScoringConfig, sep_token_id: int) -> float:
        """Return the score of the row by some settings; NaN without pairs."""
        scores = [pair.score for pair in self.scored_pairs(scoring, sep_token_id)]
        return math.fsum(scores) / len(scores) if scores else math.nan


def load_rows(path: Path, limit: int | None) -> list[Row]:
    """Read labelled rows; of more than `limit`, take as many odd as even ones, spread evenly."""
    published = [row.fields.get("published") or {} for row in read_rows(str(path))]
    both = zip(load_pairs([path]), published, strict=True)
    rows = [Row(number, *of_row) for number, of_row in enumerate(both, 1)]
    if limit is None or limit >= len(rows):
        return rows
    halves = rows[0::2], rows[1::2]
    count = limit // 2
    chosen = [half[i * len(half) // count] for half in halves for i in range(count)]
    return sorted(chosen, key=lambda row: row.number)


def run_pass(scorer: QualsScorer, rows: Sequence[Row], folder: Path, title: str) -> list[Stored]:
    """Search and rescore what `folder` does not hold yet; return what was found in each row."""
    store = _Store(folder, scorer.signature)
    todo = [row for row in rows if _key(row.pair) not in store.rows]
    for part in _parts(todo, title):
        summaries = [row.pair.summary for row in part]
        model = scorer.engine.model
        sources = model.tokenizer.encode(summaries)
        searched = scorer.generate(summaries)
        kept = [
            pairs_about(hypotheses, source, model.tokenizer, model.conventions)
            for hypotheses, source in zip(searched, sources, strict=True)
        ]
        store.add(part, [len(one) for one in searched], kept, _rescore(scorer, part, kept))
    return [store.rows[_key(row.pair)] for row in rows]


def run_truncated(
    scorer: QualsScorer, tokens: int, rows: Sequence[Row], of: Sequence[Stored], folder: Path
) -> list[Stored]:
    """Rescore a pass's pairs on documents cut to fewer tokens, special ones included."""
    short = truncated(scorer, tokens)
    store = _Store(folder, f"{scorer.signature}|truncated:{tokens}")
    before = {_key(row.pair): stored for row, stored in zip(rows, of, strict=True)}
    todo = [row for row in rows if _key(row.pair) not in store.rows]
    for part in _parts(todo, f"{tokens} tokens"):
        stored = [before[_key(row.pair)] for row in part]
        kept = [one.pairs for one in stored]
        store.add(part, [one.n_hypotheses for one in stored], kept, _rescore(short, part, kept))
    return [store.rows[_key(row.pair)] for row in rows]


def truncated(scorer: QualsScorer, tokens: int) -> QualsScorer:
    """Return a scorer that cuts its sources to fewer tokens."""
    engine = torch_engine(scorer)
    conventions = replace(engine.model.conventions, max_source_tokens=tokens)
    tokenizer = engine.model.tokenizer.with_conventions(conventions)
    model = replace(engine.model, conventions=conventions, tokenizer=tokenizer)
    short = type(engine)(model, max_batch_tokens=engine.max_batch_tokens)
    return QualsScorer(short, decoding=scorer.decoding, scoring=scorer.scoring)


def _rescore(
    scorer: QualsScorer, rows: Sequence[Row], kept: Sequence[list[KeptPair]]
) -> list[dict[tuple[int, ...], tuple[float, ...]]]:
    """Return the document's log-probabilities of all distinct pairs of each row."""
    targets = [[pair.hypothesis.token_ids for pair in select(pairs, None)] for pairs in kept]
    logprobs = scorer.rescore([row.pair.document for row in rows], targets)
    return [dict(zip(*both, strict=True)) for both in zip(targets, logprobs, strict=True)]


class _Store:
    """JSON lines, one a row, under a name that goes by the signature."""

    def __init__(self, folder: Path, signature: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{hashlib.sha256(signature.encode()).hexdigest()[:16]}.jsonl"
        self.rows: dict[str, Stored] = {}
        if self._path.is_file():
            whole = self._path.read_text("utf-8").split("\n")[:-1]  # a last half line is dropped
            for line in whole:
                content = json.loads(line)
                self.rows[content["key"]] = _from_dict(content)
            self._path.write_text("".join(f"{line}\n" for line in whole), "utf-8")

    def add(
        self,
        rows: Sequence[Row],
        counts: Sequence[int],
        kept: Sequence[list[KeptPair]],
        logprobs: Sequence[dict[tuple[int, ...], tuple[float, ...]]],
    ) -> None:
        """Store some rows."""
        with self._path.open("a", encoding="utf-8") as file:
            for row, count, pairs, of_document in zip(rows, counts, kept, logprobs, strict=True):
                stored = Stored(count, pairs, of_document)
                self.rows[_key(row.pair)] = stored
                file.write(json.dumps({"key": _key(row.pair), **_to_dict(stored)}) + "\n")


def _key(pair: Pair) -> str:
    return hashlib.sha256(f"{pair.document}\0{pair.summary}".encode()).hexdigest()[:16]


def _to_dict(stored: Stored) -> dict[str, Any]:
    return {
        "n_hypotheses": stored.n_hypotheses,
        "pairs": [
            {
                "question": pair.question,
                "answer": pair.answer,
                **asdict(pair.hypothesis),
                "document_logprobs": stored.document_logprobs.get(pair.hypothesis.token_ids),
            }
            for pair in stored.pairs
        ],
    }


def _from_dict(content: dict[str, Any]) -> Stored:
    pairs, of_document = [], {}
    for one in content["pairs"]:
        question, answer, logprobs = (
            one.pop(key) for key in ("question", "answer", "document_logprobs")
        )
        lists = {key: tuple(value) for key, value in one.items() if isinstance(value, list)}
        hypothesis = Hypothesis(**one | lists)
        pairs.append(KeptPair(question, answer, hypothesis))
        if logprobs is not None:
            of_document[hypothesis.token_ids] = tuple(logprobs)
    return Stored(content["n_hypotheses"], pairs, of_document)


def _parts(rows: list[Row], title: str) -> Iterator[list[Row]]:
    firsts = range(0, len(rows), ROWS_AT_ONCE)
    for first in track(firsts, description=title):
        yield rows[first : first + ROWS_AT_ONCE]
