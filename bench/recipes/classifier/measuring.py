"""How good the classifier is, on claims made by rule and on summaries that people judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.recipes.classifier.claims import RULES, Claim
from bench.recipes.classifier.training import logits_of
from bench.shared.common import Pair
from quals_fast.evaluation import agreement

RESAMPLES = 1000


@torch.inference_mode()
def probabilities(network: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Return the probability that each document supports its sentence."""
    rows = [tokenizer(*pair, truncation=True) for pair in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    found = [0.0] * len(rows)
    for start in range(0, len(order), 8):
        batch = order[start : start + 8]
        shares = logits_of(network, tokenizer, [rows[i] for i in batch]).softmax(-1)[:, 0]
        for i, share in zip(batch, shares.tolist(), strict=True):
            found[i] = share
    return found


def balanced_accuracy(
    says: Sequence[bool], labels: Sequence[bool], documents: Sequence[str]
) -> dict[str, float]:
    """Return the mean accuracy of both classes, with its 95 % bootstrap interval over documents.

    Args:
        says: whether the classifier calls a row correct.
        labels: whether it is.
        documents: of the rows.
    """
    number = {document: i for i, document in enumerate(dict.fromkeys(documents))}
    counts = np.zeros((len(number), 2, 2))  # by document, label, and whether that was said
    for document, label, said in zip(documents, labels, says, strict=True):
        counts[number[document], int(label), int(said == label)] += 1
    draws = np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))

    def value(counted: Any) -> Any:
        return (counted[..., 1] / counted.sum(-1)).mean(-1)

    with np.errstate(invalid="ignore"):  # draws without one of the classes are left out
        low, high = np.nanpercentile(value(counts[draws].sum(1)), [2.5, 97.5])
    return {"value": float(value(counts.sum(0))), "low": float(low), "high": float(high)}


def on_claims(network: Any, tokenizer: Any, found: Sequence[Sequence[Claim]]) -> dict[str, Any]:
    """Measure held-out claims, all of them on as much of their document as is read."""
    rows: list[tuple[str, str, str]] = []  # rule, document, claim
    for claim in (claim for claims in found for claim in claims):
        text = " ".join(claim.sentences)
        rows += [("", text, claim.text), *((rule, text, one) for rule, one in claim.wrong.items())]
    shares = probabilities(network, tokenizer, [row[1:] for row in rows])
    measured = {}
    rules = {rule for rule, *_ in rows}
    for name in ("all", *filter(rules.__contains__, RULES)):
        of = [i for i, (rule, *_) in enumerate(rows) if name == "all" or rule in ("", name)]
        measured[name] = {
            "incorrect": sum(rows[i][0] != "" for i in of),
            "balanced_accuracy": balanced_accuracy(
                [shares[i] >= 0.5 for i in of],
                [rows[i][0] == "" for i in of],
                [rows[i][1] for i in of],
            ),
        }
    return {"claims": sum(rule == "" for rule, *_ in rows), "by_rule": measured}


def on_summaries(network: Any, tokenizer: Any, rows: Sequence[Pair], nlp: Any) -> dict[str, Any]:
    """Measure judged summaries: a score is the mean over sentences, which spaCy's model finds.

    `--metric factcc` finds them by rules, which may split a summary differently.
    """
    split = [[s.text.strip() for s in nlp(" ".join(row.summary.split())).sents] for row in rows]
    pairs = [(row.document, one) for row, texts in zip(rows, split, strict=True) for one in texts]
    shares = iter(probabilities(network, tokenizer, pairs))
    by_row = [[next(shares) for _ in sentences] for sentences in split]
    labels = [float(row.label or 0.0) for row in rows]
    return {
        "rows": len(rows),
        "sentences": len(pairs),
        "with_people": agreement("classifier", [sum(s) / len(s) for s in by_row], labels).to_dict(),
        # A summary is correct if all of its sentences are.
        "balanced_accuracy": balanced_accuracy(
            [min(s) >= 0.5 for s in by_row],
            [label >= 1 for label in labels],
            [row.document for row in rows],
        ),
    }
