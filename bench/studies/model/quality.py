"""Perplexity, what is generated, round trip, and agreement with people."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.recipes.qags_training.packing import ANSWERING
from bench.studies.model.passes import Row, Stored
from quals_fast import QualsScorer
from quals_fast.evaluation import LabelledRow, compare
from quals_fast.qags.answering import Ask, QuestionAnswerer
from quals_fast.qags.networks import NetworkFiles
from quals_fast.qags.results import StageWork
from quals_fast.qags.squad import token_f1
from quals_fast.training.qagen.corpus import Question, read_corpus
from quals_fast.training.qagen.views import sentence_window

WINDOW = {"extra": 2, "longest": 50}  # about as much as a summary
_ANSWERED_AT_ONCE = 8_192  # tokens
_SAME = 0.5  # word F1 from which two answers agree
PARTS = {"odd": 1, "even": 0}


def perplexity(scorer: QualsScorer, dev: Path, questions: int | None) -> dict[str, Any]:
    """Return nats a token and perplexity of people's pairs, on whole passages and on windows.

    Args:
        scorer: of the model.
        dev: questions, as `quals-fast train-qagen` reads them.
        questions: how many, drawn at random; None takes all.
    """
    corpus = read_corpus([dev]).drawn(questions)
    asked = corpus.questions
    rng, targets = random.Random(1), targets_of(scorer, asked)
    texts = {
        "passages": [corpus.passages[q.passage] for q in asked],
        "windows": [sentence_window(corpus, q, rng, **WINDOW).text for q in asked],
    }
    result: dict[str, Any] = {"questions": len(asked), "data": dev.name}
    for name, shown in texts.items():
        rescored = scorer.rescore(shown, targets)
        nats = [-value for (logprobs,) in rescored for value in logprobs]
        mean = math.fsum(nats) / len(nats)
        result[name] = {"nats_per_token": mean, "perplexity": math.exp(mean), "tokens": len(nats)}
    return result


def targets_of(scorer: QualsScorer, questions: Sequence[Question]) -> list[list[list[int]]]:
    """Return the token ids of each question with its answer, a list of one, as `rescore` asks."""
    s, encode = scorer.engine.model.conventions, scorer.engine.model.tokenizer.encode
    asked = [source.text_ids for source in encode([q.text for q in questions])]
    answers = [source.text_ids for source in encode([q.answer for q in questions])]
    start = [] if s.forced_bos_token_id is None else [s.forced_bos_token_id]
    return [
        [[*start, *question, s.sep_token_id, *answer, s.eos_token_id]]
        for question, answer in zip(asked, answers, strict=True)
    ]


def generation(rows: Sequence[Row], stored: Sequence[Stored]) -> dict[str, Any]:
    """Return what is generated from summaries, and whether questions lead to their answers."""
    kept = [one.kept(10) for one in stored]
    asks = [
        Ask(pair.question, row.pair.summary)
        for row, pairs in zip(rows, kept, strict=True)
        for pair in pairs
    ]
    answerer = QuestionAnswerer(NetworkFiles.read(ANSWERING), device=torch.device("cpu"))
    answers = answerer.answer(asks, StageWork(), max_batch_tokens=_ANSWERED_AT_ONCE)
    expected = [pair.answer for pairs in kept for pair in pairs]
    f1 = [token_f1(a or "", b) for a, b in zip(answers, expected, strict=True)]
    return {
        "summaries": len(rows),
        "answers_in_summary": _mean([len(one.pairs) / one.n_hypotheses for one in stored]),
        "distinct_pairs": _mean([len(one.kept(None)) for one in stored]),
        "kept_pairs": _mean([len(pairs) for pairs in kept]),
        "distinct_answers": _mean([len({p.answer.lower() for p in one.pairs}) for one in stored]),
        "no_pairs": sum(not pairs for pairs in kept),
        "round_trip": {
            "questions": len(asks),
            "share_f1_at_least_half": _mean([float(value >= _SAME) for value in f1]),
            "mean_f1": _mean(f1),
            "no_answer": _mean([float(not answer) for answer in answers]),
        },
    }


def with_people(
    rows: Sequence[Row], scores: Sequence[float], resamples: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the agreement of scores and of ROUGE with labels: all, odd and even rows."""
    labelled = [
        (row.number, LabelledRow(row.pair.document, row.pair.summary, float(row.pair.label), score))
        for row, score in zip(rows, scores, strict=True)
        if row.pair.label is not None
    ]
    parts = {"all": [one for _, one in labelled]}
    for name, odd in PARTS.items():
        parts[name] = [one for number, one in labelled if number % 2 == odd]
    return {
        name: [one.to_dict() for one in compare(part, n_resamples=resamples)]
        for name, part in parts.items()
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
