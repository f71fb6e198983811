"""Definitions of the score beside the published one, and published metrics on the same summaries.

All definitions follow from one stored pass. Those that `quals_fast` offers are `ScoringConfig`s;
the others are here so that what was left out can be checked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.studies.model.passes import Row, Stored
from bench.studies.model.quality import estimates, is_split, parts_of, rise
from quals_fast import QAPair, ScoringConfig
from quals_fast.evaluation import rouge_floor

PUBLISHED = "published"
FLOOR = "ROUGE-2 precision"
ALL_PAIRS = ScoringConfig(tokens="answer", max_pairs=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """How pairs become a score.

    Attributes:
        scoring: which pairs and tokens count.
        questions_only: count the tokens up to SEP instead.
        weights: what pairs count: the same each (``equal``), the same for each distinct answer
            (``answers``), or as much as the summary makes the answer likely, by the geometric mean
            of its tokens' probabilities (``confidence``).
        over: the definition that it changes, by name.
    """

    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    questions_only: bool = False
    weights: Literal["equal", "answers", "confidence"] = "equal"
    over: str = PUBLISHED

    @property
    def is_offered(self) -> bool:
        """Whether `quals_fast` has it as a setting."""
        return self.weights == "equal" and not self.questions_only

    def score(self, stored: Stored, sep_token_id: int) -> float:
        """Return the score of a row; NaN without pairs."""
        pairs = stored.scored_pairs(self.scoring, sep_token_id)
        weights = self._weights(pairs, sep_token_id)
        if self.questions_only:
            pairs = [_question(pair, sep_token_id) for pair in pairs]
        weighted = [weight * pair.score for weight, pair in zip(weights, pairs, strict=True)]
        return math.fsum(weighted) / math.fsum(weights) if pairs else math.nan

    def _weights(self, pairs: Sequence[QAPair], sep_token_id: int) -> list[float]:
        if self.weights == "answers":
            counts = Counter(pair.answer.lower() for pair in pairs)
            return [1 / counts[pair.answer.lower()] for pair in pairs]
        if self.weights == "confidence":
            answers = [
                pair.summary_logprobs[pair.token_ids.index(sep_token_id) + 1 :] for pair in pairs
            ]
            return [math.exp(math.fsum(logprobs) / len(logprobs)) for logprobs in answers]
        return [1.0] * len(pairs)


ANSWERS = "answers only, over all pairs"
DEFINITIONS = {
    PUBLISHED: Definition(),
    "over all pairs": Definition(scoring=ScoringConfig(max_pairs=None)),
    "answers only": Definition(scoring=ScoringConfig(tokens="answer")),
    ANSWERS: Definition(scoring=ALL_PAIRS),
    "questions only": Definition(questions_only=True),
    "over all pairs, mean by answer": Definition(
        scoring=ScoringConfig(max_pairs=None), weights="answers", over="over all pairs"
    ),
    "published, mean by answer": Definition(weights="answers"),
    "published, by confidence": Definition(weights="confidence"),
    f"{ANSWERS}, mean by answer": Definition(scoring=ALL_PAIRS, weights="answers", over=ANSWERS),
    f"{ANSWERS}, by confidence": Definition(scoring=ALL_PAIRS, weights="confidence", over=ANSWERS),
}


def _question(pair: QAPair, sep_token_id: int) -> QAPair:
    """Return a pair without the tokens after SEP."""
    end = pair.token_ids.index(sep_token_id) + 1
    return replace(
        pair,
        token_ids=pair.token_ids[:end],
        summary_logprobs=pair.summary_logprobs[:end],
        document_logprobs=pair.document_logprobs[:end],
    )


def definitions(
    sets: Mapping[str, Sequence[Row]],
    stored: Mapping[str, Sequence[Stored]],
    sep_token_id: int,
    resamples: int,
) -> dict[str, Any]:
    """Return each definition's agreement with people, by set and part of it.

    A set that is split has the parts odd and even; the others have all rows.
    """
    result: dict[str, Any] = {
        "offered": [name for name, one in DEFINITIONS.items() if one.is_offered],
        "sets": {},
    }
    for title, rows in sets.items():
        scores = {
            name: [one.score(of_row, sep_token_id) for of_row in stored[title]]
            for name, one in DEFINITIONS.items()
        }
        result["sets"][title] = {}
        has_score = {i for i, one in enumerate(scores[PUBLISHED]) if not math.isnan(one)}
        for part, labelled in parts_of(rows, split=is_split(title)).items():
            if part == "all" and is_split(title):
                continue
            chosen = [i for i in labelled if i in has_score]
            labels = [float(rows[i].pair.label or 0) for i in chosen]
            own = {name: [of_set[i] for i in chosen] for name, of_set in scores.items()}
            result["sets"][title][part] = [
                {"name": name, "n": len(chosen)}
                | estimates(own[name], labels, resamples)
                | {"rise": rise(own[one.over], own[name], labels, resamples)}
                for name, one in DEFINITIONS.items()
            ]
    return result


def rivals(
    rows: Sequence[Row], quals: Mapping[str, Sequence[float]], resamples: int
) -> list[dict[str, Any]]:
    """Return the agreement of QUALS and of published metrics on the rows that have them all.

    ROUGE-2 precision against the article, which is cheap and hard to beat, is computed here.

    Args:
        rows: with the metrics' scores of each.
        quals: scores by some definitions, by name; differences are to the first.
        resamples: of the bootstrap.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.published))
    usable = [
        i
        for i, row in enumerate(rows)
        if row.pair.label is not None
        and row.published.keys() >= set(names)
        and not any(math.isnan(scores[i]) for scores in quals.values())
    ]
    labels = [float(rows[i].pair.label or 0) for i in usable]
    columns = {name: [scores[i] for i in usable] for name, scores in quals.items()}
    columns |= {name: [rows[i].published[name] for i in usable] for name in names}
    texts = [rows[i].pair for i in usable]
    floor = rouge_floor([pair.document for pair in texts], [pair.summary for pair in texts])
    columns[f"{FLOOR}, against the article"] = floor[FLOOR]
    first = columns[next(iter(quals))]
    return [
        {"name": name, "n": len(usable), "left_out": len(rows) - len(usable)}
        | estimates(scores, labels, resamples)
        | {"rise": rise(first, scores, labels, resamples)}
        for name, scores in columns.items()
    ]
