"""The plot of the claim's page: one bar an arm, stacked by stage."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.shared.plots import figure
from bench.studies.claim import figures
from bench.studies.claim.arms import DESCRIPTIONS, STAGES
from bench.studies.claim.figures import each_case, ratios

STAGE_TITLES = {
    "answer_extraction": "QAGS: answer extraction (milliseconds)",
    "question_generation": "QAGS: question generation",
    "summary_answering": "QAGS: answering on the summary",
    "document_answering": "QAGS: answering on the document",
    "generation": "QUALS: generation",
    "filter": "QUALS: filter (milliseconds)",
    "rescoring": "QUALS: rescoring",
    "all_in_one": "QUALS in one pass",
}
# QAGS in blues, QUALS in warm colours.
COLOURS = {
    "answer_extraction": "#0b2545",
    "question_generation": "#2a6fbb",
    "summary_answering": "#9ecae9",
    "document_answering": "#5aa0d6",
    "generation": "#d9480f",
    "filter": "#6b4226",
    "rescoring": "#f7b267",
    "all_in_one": "#d9480f",
}


def plot(result: dict[str, Any], target: Path) -> None:
    """Draw one bar an arm, stacked by stage, on a logarithmic axis.

    A bar's end is its seconds on that axis; its stages divide its drawn length by their shares,
    since on the axis itself the first ones would look longest.
    """
    from matplotlib.patches import Patch

    cases = list(each_case(result["cases"]))
    arms = [[name for name in DESCRIPTIONS if name in case["facts"]] for _, _, case in cases]
    medians = [
        statistics.median(figures.seconds(case, arm))
        for (_, _, case), of_case in zip(cases, arms, strict=True)
        for arm in of_case
    ]
    begin, end = min(medians) / 4, max(medians) * 3
    heights = [len(of_case) + 1.5 for of_case in arms]
    legend, axis_label = 0.9, 0.5  # inches
    drawn: set[str] = set()
    with figure(
        target,
        "claim",
        len(cases),
        1,
        figsize=(9, legend + axis_label + 0.3 * sum(heights)),
        sharex=True,
        height_ratios=heights,
        layout="constrained",
    ) as (drawing, axes):
        for axis, (size, workload, case), of_case in zip(axes[:, 0], cases, arms, strict=True):
            for name in reversed(of_case):
                stages = figures.stages(case, name)
                total = sum(stages.values())
                drawn |= stages.keys()
                left, share = begin, 0.0
                for stage, seconds in stages.items():
                    share += seconds / total
                    right = begin * (total / begin) ** share
                    axis.barh(name, right - left, left=left, color=COLOURS[stage], height=0.75)
                    left = right
                speedup = statistics.median(ratios(case, "qags_as_shipped", name))
                label = f"{total:.2f} s" + (
                    f"  ({speedup:.1f}x)" if name != "qags_as_shipped" else ""
                )
                axis.text(total * 1.06, name, label, va="center", fontsize=8)
            axis.set(xscale="log", xlim=(begin, end))
            axis.set_title(f"{size}, {workload}", loc="left", fontsize=10, fontweight="bold")
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(axis="y", length=0, labelsize=8)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.grid(axis="x", alpha=0.3)
            axis.set_axisbelow(True)
        axes[-1, 0].set_xlabel(
            "seconds a summary (log scale for whole bars; colours divide a bar by its stages' "
            "shares)\nin brackets: times as fast as QAGS as shipped"
        )
        shown = [stage for stage in STAGES if stage in drawn]
        handles = [Patch(color=COLOURS[stage], label=STAGE_TITLES[stage]) for stage in shown]
        drawing.legend(
            handles=handles, ncols=3, loc="outside upper center", fontsize=8, frameon=False
        )
