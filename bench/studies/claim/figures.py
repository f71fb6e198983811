"""What follows from the rounds that were measured: ratios, agreement, the sum of several runs.

A result's ``cases`` holds, by size and workload, what was measured and nothing else:

    weights    "trained" or "random", of QAGS
    networks   sizes of QAGS's networks, in words
    facts      by arm: dtype, and peak memory in MiB (None where it is not known)
    tflop      by arm: those of the first row, where they can be counted
    rounds     of each: seconds and scores by arm, a list with an entry a row; stages by arm,
               where they were timed; questions, kept_pairs, document_tokens and summary_words
               with an entry a row
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.shared.common import spread

BASES = {  # what an arm's scores must agree with
    "qags_as_shipped_onednn": "qags_as_shipped",
    "qags_batched": "qags_as_shipped",
    "qags_batched_half": "qags_batched",
    "quals_published_half": "quals_published",
    "quals_published_onednn": "quals_published",
    "quals_once": "quals_published",
    "quals_once_onednn": "quals_published",
    "quals_fast_float32": "quals_published",
    "quals_fast": "quals_fast_float32",
    "quals_fast_eager": "quals_fast",
}
# An arm that stands for the first of these that was measured.
STRONGEST, ARTICLE = "strongest QAGS", "QUALS as the article ran it"
_STAND_INS = {
    STRONGEST: ("qags_batched_half", "qags_batched"),
    ARTICLE: ("quals_published_half", "quals_published"),
}

# The ratios that the claim is about: by name the slower and the faster arm.
RATIOS = {
    "published_vs_qags_as_shipped": ("qags_as_shipped", ARTICLE),
    "speedup_vs_qags_as_shipped": ("qags_as_shipped", "quals_fast"),
    "speedup_vs_qags_batched": (STRONGEST, "quals_fast"),
    "speedup_vs_quals_published": ("quals_published", "quals_fast"),
}
# What the library of matrix products does to them, where both programs can be run with oneDNN's.
LIBRARY = {
    "onednn_for_qags": ("qags_as_shipped", "qags_as_shipped_onednn"),
    "onednn_for_quals": ("quals_published", "quals_published_onednn"),
    "published_vs_qags_onednn": ("qags_as_shipped_onednn", "quals_published_onednn"),
    "speedup_vs_qags_onednn": ("qags_as_shipped_onednn", "quals_fast"),
    "speedup_vs_quals_onednn": ("quals_published_onednn", "quals_fast"),
}
# What must be the same for rounds of two runs to be put together.
SETUP = ("data", "device", "versions")


def each_case(cases: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield size, workload and case."""
    for size, workloads in cases.items():
        for workload, case in workloads.items():
            yield size, workload, case


def measured(case: dict[str, Any], arm: str) -> str | None:
    """Return an arm's name, or of `STRONGEST` and `ARTICLE` what they stand for.

    None if it was not measured.
    """
    return next((one for one in _STAND_INS.get(arm, (arm,)) if one in case["facts"]), None)


def seconds(case: dict[str, Any], arm: str) -> list[float]:
    """Return an arm's seconds a summary in each round."""
    return [one["seconds"][measured(case, arm)] for one in case["rounds"]]


def measured_ratio(case: dict[str, Any], arms: tuple[str, str]) -> dict[str, float] | None:
    """Return median, lowest and highest of `ratios`; None if an arm was not measured."""
    if any(measured(case, arm) is None for arm in arms):
        return None
    return spread(ratios(case, *arms))


def ratios(case: dict[str, Any], slower: str, faster: str) -> list[float]:
    """Return how many times as fast one arm is as another, in each round."""
    pairs = zip(seconds(case, slower), seconds(case, faster), strict=True)
    return [a / b for a, b in pairs]


def factor(case: dict[str, Any], slower: str, faster: str) -> float:
    """Return the geometric mean of `ratios`: those of successive steps multiply to the whole."""
    return statistics.geometric_mean(ratios(case, slower, faster))


def all_of(case: dict[str, Any], what: str) -> list[float]:
    """Return what was noted of every row."""
    return [value for one in case["rounds"] for value in one[what]]


def mean_difference(case: dict[str, Any], arm: str) -> float | None:
    """Return an arm's mean absolute difference of score from its base.

    None where there is no base, or random weights, whose scores mean nothing.
    """
    base = BASES.get(arm)
    if base not in case["facts"] or (case["weights"] == "random" and arm.startswith("qags")):
        return None
    differences = [
        abs(a - b)
        for one in case["rounds"]
        for a, b in zip(one["scores"][arm], one["scores"][base], strict=True)
        if a is not None and b is not None  # without questions or pairs
    ]
    return statistics.fmean(differences) if differences else None


def stages(case: dict[str, Any], arm: str) -> dict[str, float]:
    """Return an arm's seconds by stage: its median, divided as in the rounds that timed them."""
    timed = [one["stages"][arm] for one in case["rounds"] if arm in one["stages"]]
    sums = {stage: math.fsum(one[stage] for one in timed) for stage in timed[0]}
    whole = math.fsum(sums.values())
    median = statistics.median(seconds(case, arm))
    return {stage: median * value / whole for stage, value in sums.items()}


def flops_ratio(tflop: dict[str, float]) -> dict[str, float]:
    """Return how many times the FLOPs of the other arms QAGS as shipped executes."""
    shipped = tflop.get("qags_as_shipped")
    return {
        f"qags_as_shipped_over_{name}": shipped / other
        for name in ("qags_batched", "quals_published", "quals_fast_float32")
        if shipped and (other := tflop.get(name))
    }


def summarise(cases: dict[str, Any]) -> dict[str, Any]:
    """Return the figures that the claim is about, by size and workload."""
    figures: dict[str, Any] = {name: {} for name in (*RATIOS, *LIBRARY, "flops_ratio")}
    for size, workload, case in each_case(cases):
        for name, arms in (RATIOS | LIBRARY).items():
            ratio = measured_ratio(case, arms)
            if ratio is not None:
                figures[name].setdefault(size, {})[workload] = ratio
        figures["flops_ratio"].setdefault(size, {})[workload] = flops_ratio(case["tflop"])
    return figures


def check_same_setup(
    old: dict[str, Any], new: dict[str, Any], rows: Mapping[str, int], arms: Sequence[str]
) -> None:
    """Refuse to put rounds of different inputs, machines, versions, weights or arms together.

    Args:
        old: a result.
        new: what a run's result will say.
        rows: that the run scores in a round, by size.
        arms: that run.

    Raises:
        ValueError: something differs.
    """
    for what in SETUP:
        _check_same(what, old.get(what), new[what])
    for name, described in new["weights"].items():
        _check_same(f"weights of {name}", old["weights"].get(name, described), described)
    for size, workload, case in each_case(old["cases"]):
        if size in rows:
            cell = f"{size}, {workload}"
            _check_same(f"arms for {cell}", sorted(case["facts"]), sorted(arms))
            before = sorted({len(one["document_tokens"]) for one in case["rounds"]})
            _check_same(f"rows a round for {cell}", before, [rows[size]])


def _check_same(what: str, old: object, new: object) -> None:
    if old != new:
        raise ValueError(
            f"rounds can only be added to a result with the same {what}, but it has {old} and this "
            f"run {new}; leave out --add to start over"
        )


def add_cases(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of two runs: all rounds, FLOPs of the first, peak memory of the last."""
    merged = {size: dict(workloads) for size, workloads in old.items()}
    for size, workload, case in each_case(new):
        before = merged.setdefault(size, {}).get(workload)
        if before is not None:
            case = case | {
                "tflop": before["tflop"],
                "rounds": [*before["rounds"], *case["rounds"]],
            }
        merged[size][workload] = case
    return merged
