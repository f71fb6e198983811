"""What the measures come to: means and paired differences with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

from bench.studies.conseq_experiment.measures import Column
from quals_fast.evaluation import agreement, mean_interval

Runs = Sequence[Mapping[str, Column]]  # the measures of an arm, one run a seed
COMPARED = (("ConSeq-QUALS", "MLE"), ("ConSeq-ROUGE", "MLE"), ("ConSeq-QUALS", "ConSeq-ROUGE"))


def summarise(arms: Mapping[str, Runs]) -> dict[str, Any]:
    """Return means, differences and the agreement of QUALS with QAGS.

    A document's value for an arm is the mean over its seeds; intervals are of the documents.

    Args:
        arms: by name; those of `COMPARED` among them.
    """
    merged = {name: _merge(runs) for name, runs in arms.items()}
    measures = list(merged["MLE"])
    return {
        "means": {
            name: {
                measure: _interval(columns[measure])
                | {"of_seeds": [_mean(run[measure]) for run in arms[name]]}
                for measure in measures
            }
            for name, columns in merged.items()
        },
        "differences": {
            f"{one} - {other}": {
                measure: _interval(_subtract(merged[one][measure], merged[other][measure]))
                for measure in measures
            }
            for one, other in COMPARED
        },
        "quals_with_qags": _quals_with_qags(arms),
    }


def _merge(runs: Runs) -> dict[str, Column]:
    """Average each document's values over the seeds that have one."""
    return {
        measure: [_mean(values) for values in zip(*(run[measure] for run in runs), strict=True)]
        for measure in runs[0]
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _subtract(one: Column, other: Column) -> Column:
    return [None if a is None or b is None else a - b for a, b in zip(one, other, strict=True)]


def _interval(values: Column) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return asdict(mean_interval(known)) | {"n": len(known)}


def _quals_with_qags(arms: Mapping[str, Runs]) -> dict[str, Any]:
    """Say how far QUALS, which ConSeq raises, goes with QAGS, by which it is judged.

    ``spearman`` is over all summaries of all summarisers; ``of_pairs`` is the share of pairs of
    different summaries of one document that both put in the same order, ties left out.
    """
    columns = [
        [
            (quals, qags) if quals is not None and qags is not None else None
            for quals, qags in zip(run["QUALS"], run["QAGS"], strict=True)
        ]
        for name, of_arm in arms.items()
        if name != "reference"
        for run in of_arm
    ]
    known = [scores for column in columns for scores in column if scores is not None]
    orders = [
        (one[0] - other[0]) * (one[1] - other[1]) > 0
        for of_document in zip(*columns, strict=True)
        for one, other in combinations([scores for scores in of_document if scores], 2)
        if one[0] != other[0] and one[1] != other[1]
    ]
    quals, qags = zip(*known, strict=True)
    return {
        "spearman": agreement("QUALS", quals, qags).spearman.to_dict(),
        "of_pairs": sum(orders) / max(1, len(orders)),
        "pairs": len(orders),
        "n": len(known),
    }
