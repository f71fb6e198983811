"""What bench/CLAIM.md says of a result: verdict, table, plot, decomposition, agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.claim.arms import DESCRIPTIONS, STAGES
from bench.report import spread, table, where

CLAIMED = 55.0  # times as fast as QAGS: Nan et al., ACL 2021, section 5

# How the first arm becomes the last, step by step: (arm before, arm after, what the step is).
CHAIN = (
    ("qags_as_shipped", "qags_batched", "batching, sorting by length, no work twice"),
    ("qags_batched", "quals_published", "QUALS as published: one model in place of three"),
    ("quals_published", "quals_once", "documents encoded once, not once a pair"),
    ("quals_once", "quals_fast_float32", "the engine, at the same precision"),
    ("quals_fast_float32", "quals_fast", "lower precision"),
)
# On a GPU what was published is half precision, and so is the engine as it comes.
GPU_CHAIN = (
    CHAIN[0],
    ("qags_batched", "qags_batched_half", "lower precision"),
    ("qags_batched_half", "quals_published", "QUALS as published: one model in place of three"),
    CHAIN[2],
    ("quals_once", "quals_fast", "the engine: kernels, graphs, one pass"),
)


def verdict(result: dict[str, Any]) -> str:
    """Say in plain words whether 55 times holds, and against what."""
    rounds = [c["rounds"] for of in result["cases"].values() for c in of["workloads"].values()]
    lines = [f"On {result['device']}, {span(rounds, 0)} rounds:"]
    for title, ratio in (
        ("QUALS as published against QAGS as shipped (the article's comparison)", "published"),
        ("quals_fast against QAGS as shipped", "as_shipped"),
        ("quals_fast against the batched QAGS", "batched"),
    ):
        found = {
            f"{size}, {workload}": case["ratios"][ratio]
            for size, of_size in result["cases"].items()
            for workload, case in of_size["workloads"].items()
        }
        medians = [one["median"] for one in found.values()]
        reached = [name for name, one in found.items() if one["low"] >= CLAIMED]
        lines.append(f"{title}: {span(medians)}x; {_holds(reached, len(found))}.")
    return " ".join(lines)


def _holds(reached: list[str], cases: int) -> str:
    if len(reached) == cases:
        return f"{CLAIMED:.0f}x holds in every case"
    if reached:
        return f"{CLAIMED:.0f}x holds for {' and '.join(reached)}"
    return f"{CLAIMED:.0f}x is not reached"


def span(values: Sequence[float], digits: int = 1) -> str:
    """Write the lowest and highest of some numbers."""
    low, high = min(values), max(values)
    least, most = (f"{value:.{digits}f}" for value in (low, high))
    return least if math.isclose(low, high) else f"{least} to {most}"


def page(result: dict[str, Any], agreement: str, name: str = "claim") -> str:
    """Return the whole page.

    Args:
        result: of `python -m bench.claim`.
        agreement: the section on what the scores are worth.
        name: of the plot's file.
    """
    parts = [
        '# Is it "55 times as fast"?',
        "Written by `python -m bench.claim` from its measurements; do not edit.",
        f"**Verdict.** {verdict(result)}",
        _how(result),
        f"![seconds a summary, by arm and stage]({name}.svg)",
    ]
    for size, of_size in result["cases"].items():
        for workload, case in of_size["workloads"].items():
            parts += [f"## {size}, {workload}", _sizes(case), _arms(case), _decomposition(case)]
    parts += ["## What the scores are worth", agreement, "## Machine", where(result)]
    return "\n\n".join(parts) + "\n"


def _how(result: dict[str, Any]) -> str:
    ran = {
        n for of in result["cases"].values() for c in of["workloads"].values() for n in c["arms"]
    }
    arms = "\n".join(f"- `{name}`: {text}" for name, text in DESCRIPTIONS.items() if name in ran)
    return (
        f"Texts: {result['data']}. The arms take turns on the same rows, each in a process of its "
        "own; loading and a first row are not counted. QAGS runs with its shipped setting (beam 5, "
        "which gives 5 questions an answer and 50 in all). Medians with lowest and highest of the "
        f"rounds; a ratio is formed within a round. FLOPs are those that an arm executes on the "
        f"first row, padding included (bench/flops.py).\n\n{arms}"
    )


def _sizes(case: dict[str, Any]) -> str:
    s = case["sizes"]
    weights = (
        "All weights are trained ones. The bundled model of QUALS cuts documents after 512 tokens; "
        "QAGS reads them whole."
        if case["weights"] == "trained"
        else "QAGS has random weights of these sizes and replays what the trained small models did "
        "on these rows: the answers (found beforehand: spaCy's milliseconds are not in), the "
        "number and the lengths of questions. QUALS runs the bundled model grown to this size, "
        "which does the real work."
    )
    return (
        f"{case['rows']} rows, {case['rounds']} rounds; documents of {s['document_tokens'][1]:.0f} "
        f"tokens and summaries of {s['summary_words'][1]:.0f} words (medians). QAGS asks "
        f"{case['questions']:.1f} questions a summary (20 at most; fewer are kept where the small "
        f"generator repeats itself), QUALS keeps {case['kept_pairs']:.1f} pairs. {weights}"
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
                _agrees(arm),
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
        "scores",
    ]
    return table(header, rows)


def _agrees(arm: dict[str, Any]) -> str:
    found = arm["agreement"]
    if found is None or found["mean_abs_delta"] is None:
        return ""
    return f"{found['mean_abs_delta']:.1e} from `{arm['base']}` on average"


def _decomposition(case: dict[str, Any]) -> str:
    """Tell the factors whose product is the whole ratio, and the FLOPs' part of each."""
    arms, rows, product = case["arms"], [], 1.0
    chain = CHAIN if arms["quals_published"]["dtype"] == "float32" else GPU_CHAIN
    for before, after, what in chain:
        if before not in arms or after not in arms:
            continue
        factor = arms[before]["seconds"]["median"] / arms[after]["seconds"]["median"]
        product *= factor
        flops = [arms[name]["tflop"] for name in (before, after)]
        fewer = "" if None in flops else f"{flops[0] / flops[1]:.2f}"
        rows.append([f"`{before}` to `{after}`", what, f"{factor:.2f}", fewer])
    rows.append(["product", "", f"{product:.1f}", ""])
    # A ratio of medians for each step, so the product may differ a little from the table above.
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
    medians = [a["seconds"]["median"] for _, case in cases for a in case["arms"].values()]
    fastest, slowest = min(medians), max(medians)
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
        axis.set(title=title, xscale="log", xlim=(fastest / 20, 2 * slowest))
    axes[-1, 0].set_xlabel("seconds a summary (log scale: the first stages look longest)")
    handles = [Patch(color=colour) for colour in colours.values()]
    figure.legend(handles, [s.replace("_", " ") for s in colours], ncols=4, loc="lower center")
    figure.tight_layout(rect=(0, 0.7 / (0.8 + 2.4 * len(cases)), 1, 1))
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
