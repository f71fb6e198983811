"""Perplexity, what is generated, round trip, and agreement with people."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.recipes.qags_training.packing import ANSWERING
from bench.studies.model.passes import Row, Stored
from quals_fast import QualsScorer
from quals_fast.evaluation import Estimate, LabelledRow, compare
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
    rows: Sequence[Row], scores: Sequence[float], resamples: int, *, split: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """Return the agreement of scores and of ROUGE with labels, by part."""
    labelled = [
        LabelledRow(row.pair.document, row.pair.summary, float(row.pair.label or 0), score)
        for row, score in zip(rows, scores, strict=True)
    ]
    return {
        name: [
            one.to_dict() for one in compare([labelled[i] for i in chosen], n_resamples=resamples)
        ]
        for name, chosen in parts_of(rows, split=split).items()
    }


def is_split(title: str) -> bool:
    """Return whether a set has odd rows for choosing; the others are for reporting only."""
    return "qags" in title


def parts_of(rows: Sequence[Row], *, split: bool = True) -> dict[str, list[int]]:
    """Return the indices of labelled rows: all and, of a set that is split, odd and even ones."""
    labelled = [i for i, row in enumerate(rows) if row.pair.label is not None]
    if not split:
        return {"all": labelled}
    return {"all": labelled} | {
        name: [i for i in labelled if rows[i].number % 2 == odd] for name, odd in PARTS.items()
    }


def estimates(
    scores: Sequence[float], labels: Sequence[float], resamples: int
) -> dict[str, dict[str, float | None]]:
    """Return Pearson, Spearman and AUC as `evaluation.agreement` does, hundreds of times as fast.

    It leaves out Kendall's tau, and draws of all resamples are computed at once.

    Args:
        scores: finite.
        labels: of the same rows; from 1 on they are positive.
        resamples: of the bootstrap.
    """
    from scipy.stats import bootstrap, pearsonr, rankdata

    def statistics(x: Any, y: Any, axis: int) -> Any:
        x_ranks, y_ranks, positive = rankdata(x, axis=axis), rankdata(y, axis=axis), y >= 1
        n_positive = positive.sum(axis)
        n_pairs = n_positive * (x.shape[axis] - n_positive)
        wins = (x_ranks * positive).sum(axis) - n_positive * (n_positive + 1) / 2
        pearson, spearman = (pearsonr(*both, axis=axis)[0] for both in ((x, y), (x_ranks, y_ranks)))
        return np.stack([pearson, spearman, wins / n_pairs])

    columns = np.array([scores, labels])
    with warnings.catch_warnings():  # draws without a correlation are left out
        warnings.simplefilter("ignore")
        values = statistics(columns[0], columns[1], -1)
        draws = bootstrap(
            columns, statistics, paired=True, n_resamples=resamples, batch=100,
            method="percentile", vectorized=True, rng=np.random.default_rng(0),
        ).bootstrap_distribution  # fmt: skip
        bounds = np.nanpercentile(draws, [2.5, 97.5], axis=-1)
    return {
        name: Estimate(*numbers).to_dict()
        for name, *numbers in zip(
            ("pearson", "spearman", "auc"), values.tolist(), *bounds.tolist(), strict=True
        )
    }


def rise(
    before: Sequence[float],
    now: Sequence[float],
    labels: Sequence[float],
    resamples: int = 1_000,
) -> dict[str, float | None]:
    """Return by how much the correlation with labels rises, with a paired bootstrap interval.

    Args:
        before: scores, NaN where a row has none; such rows do not count.
        now: scores of the same rows.
        labels: of the same rows.
        resamples: of the bootstrap.
    """
    from scipy.stats import bootstrap, pearsonr

    columns = np.array([before, now, labels])
    columns = columns[:, ~np.isnan(columns).any(0)]

    def difference(before: Any, now: Any, labels: Any, axis: int) -> Any:
        return pearsonr(now, labels, axis=axis)[0] - pearsonr(before, labels, axis=axis)[0]

    value = float(difference(columns[0], columns[1], columns[2], 0))
    with warnings.catch_warnings():  # draws without a correlation are left out
        warnings.simplefilter("ignore")
        draws = bootstrap(
            columns, difference, paired=True, n_resamples=resamples, method="percentile", rng=0,
            vectorized=True,
        ).bootstrap_distribution  # fmt: skip
        low, high = np.nanpercentile(draws, [2.5, 97.5]).tolist()
    return Estimate(value, low, high).to_dict()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
