"""What bench/CLAIM.md says of a result: verdict, table, plot, decomposition, agreement."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.claim.arms import DESCRIPTIONS, STAGES
from bench.report import spread, table, where

CLAIMED = 55.0  # times as fast as QAGS: Nan et al., ACL 2021, section 5

# How the first arm becomes the last, step by step: (arm before, arm after, what the step is).
CHAIN = (
    ("qags_as_shipped", "qags_batched", "batching, sorting by length, no work twice"),
    ("qags_batched", "quals_published", "one model in place of three"),
    ("quals_published", "quals_once", "documents encoded once, not once a pair"),
    ("quals_once", "quals_fast_float32", "the engine, at the same precision"),
    ("quals_fast_float32", "quals_fast", "lower precision"),
)


def verdict(result: dict[str, Any]) -> str:
    """Say in plain words whether 55 times holds, and against what."""
    lines = []
    for title, ratio in (
        ("QUALS as published against QAGS as shipped (the article's own comparison)", "published"),
        ("quals_fast against QAGS as shipped", "as_shipped"),
        ("quals_fast against the batched QAGS", "batched"),
    ):
        found = {
            f"{size}, {workload}": case["ratios"][ratio]
            for size, of_size in result["cases"].items()
            for workload, case in of_size["workloads"].items()
        }
        medians = {name: one["median"] for name, one in found.items()}
        reached = [name for name, median in medians.items() if median >= CLAIMED]
        lines.append(f"{title}: {span(medians.values())}x; {_holds(reached, medians)}.")
    return " ".join(lines)


def _holds(reached: list[str], medians: dict[str, float]) -> str:
    if len(reached) == len(medians):
        return f"{CLAIMED:.0f}x holds in every case"
    if reached:
        return f"{CLAIMED:.0f}x holds for {' and '.join(reached)}"
    return f"{CLAIMED:.0f}x is not reached"


def span(values: Any) -> str:
    """Write the lowest and highest of some numbers."""
    low, high = min(values), max(values)
    return f"{low:.1f}" if math.isclose(low, high) else f"{low:.1f} to {high:.1f}"


def page(result: dict[str, Any], agreement: str) -> str:
    """Return the whole page.

    Args:
        result: of `python -m bench.claim`.
        agreement: the section on what the scores are worth.
    """
    parts = [
        '# Is it "55 times as fast"?',
        "Written by `python -m bench.claim` from its measurements; do not edit.",
        f"**Verdict.** {verdict(result)}",
        _how(result),
        "![seconds a summary, by arm and stage](claim.svg)",
    ]
    for size, of_size in result["cases"].items():
        for workload, case in of_size["workloads"].items():
            parts += [f"## {size}, {workload}", _sizes(case), _arms(case), _decomposition(case)]
    parts += ["## What the scores are worth", agreement, "## Machine", where(result)]
    return "\n\n".join(parts) + "\n"


def _how(result: dict[str, Any]) -> str:
    arms = "\n".join(f"- `{name}`: {text}" for name, text in DESCRIPTIONS.items())
    return (
        f"Texts: {result['data']}. The arms take turns on the same rows, each in a process of its "
        "own; loading and a first row are not counted. Medians with lowest and highest of the "
        f"rounds; a ratio is formed within a round. FLOPs are those that an arm executes on the "
        f"rows, padding included (bench/flops.py).\n\n{arms}"
    )


def _sizes(case: dict[str, Any]) -> str:
    s = case["sizes"]
    weights = (
        "All weights are trained ones."
        if case["weights"] == "trained"
        else "QAGS has random weights of these sizes and replays what the trained small models did "
        "on these rows: the answers, the number and the lengths of questions. QUALS runs the "
        "bundled model grown to this size, which does the real work."
    )
    return (
        f"{case['rows']} rows, {case['rounds']} rounds; documents of {s['document_tokens'][1]:.0f} "
        f"tokens and summaries of {s['summary_words'][1]:.0f} words (medians). QAGS asks "
        f"{case['questions']:.1f} questions a summary, QUALS keeps {case['kept_pairs']:.1f} pairs. "
        f"{weights}"
    )


def _arms(case: dict[str, Any]) -> str:
    first = case["arms"]["qags_as_shipped"]
    rows = []
    for name, arm in case["arms"].items():
        flops = arm["tflop"]
        rows.append(
            [
                f"`{name}`",
                arm["dtype"],
                spread(arm["seconds"]),
                spread(arm["speedup"], 1),
                "" if flops is None else f"{flops:.3f}",
                "" if flops is None else f"{first['tflop'] / flops:.1f}",
                f"{arm['peak_mib']:.0f}",
            ]
        )
    header = [
        "arm",
        "type",
        "s a summary",
        "times as fast as QAGS as shipped",
        "TFLOP a summary",
        "times fewer",
        "peak MiB",
    ]
    return table(header, rows)


def _decomposition(case: dict[str, Any]) -> str:
    """Tell the factors whose product is the whole ratio, and the FLOPs' part of each."""
    arms, rows, product = case["arms"], [], 1.0
    for before, after, what in CHAIN:
        if before not in arms or after not in arms:
            continue
        factor = arms[before]["seconds"]["median"] / arms[after]["seconds"]["median"]
        product *= factor
        flops, types = ([arms[name][key] for name in (before, after)] for key in ("tflop", "dtype"))
        if types[0] != types[1]:
            what = f"{what} ({types[0]} to {types[1]})"
        fewer = "" if None in flops else f"{flops[0] / flops[1]:.2f}"
        rows.append([f"`{before}` to `{after}`", what, f"{factor:.2f}", fewer])
    rows.append(["product", "", f"{product:.1f}", ""])
    return table(["step", "what it is", "times as fast", "times fewer FLOPs"], rows)


def plot(result: dict[str, Any], target: Path) -> None:
    """Draw one bar an arm, stacked by stage, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "claim"}  # small and stable
    cases = [
        (f"{size}, {workload}", case)
        for size, of_size in result["cases"].items()
        for workload, case in of_size["workloads"].items()
    ]
    slowest = max(a["seconds"]["median"] for _, case in cases for a in case["arms"].values())
    figure, axes = pyplot.subplots(
        len(cases), 1, figsize=(9, 0.8 + 2.4 * len(cases)), sharex=True, squeeze=False
    )
    colours = {stage: f"C{index}" for index, stage in enumerate(STAGES)}
    for axis, (title, case) in zip(axes[:, 0], cases, strict=True):
        for name, arm in reversed(case["arms"].items()):
            left = 0.0
            for stage, seconds in arm["stages"].items():
                axis.barh(name, seconds, left=left, color=colours[stage])
                left += seconds
            axis.text(left * 1.05, name, f"{left:.2f} s", va="center", fontsize=8)
        axis.set(title=title, xscale="log", xlim=(0.01, 2 * slowest))
    axes[-1, 0].set_xlabel("seconds a summary (log scale: the first stages look longest)")
    handles = [Patch(color=colour) for colour in colours.values()]
    figure.legend(handles, [s.replace("_", " ") for s in colours], ncols=4, loc="lower center")
    figure.tight_layout(rect=(0, 0.7 / (0.8 + 2.4 * len(cases)), 1, 1))
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
