"""What bench/CLAIM.md says of a result: verdict, table, plot, decomposition, agreement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.shared.common import spread
from bench.shared.plots import figure
from bench.shared.tables import table, where, with_spread
from bench.shared.weights import listed
from bench.studies.claim import figures
from bench.studies.claim.arms import DESCRIPTIONS, STAGES
from bench.studies.claim.figures import RATIOS, STRONGEST, each_case, ratios

CLAIMED = 55.0  # times as fast as QAGS: Nan et al., ACL 2021

# How the first arm becomes the last: (arm, what the step to it is).
_ONE_MODEL = ("quals_published", "QUALS as published: one model in place of three")
_ENCODED_ONCE = ("quals_once", "documents encoded once, not once a pair")
CHAIN = (
    ("qags_as_shipped", ""),
    ("qags_batched", "batching, sorting by length, no work twice"),
    _ONE_MODEL,
    _ENCODED_ONCE,
    ("quals_fast_float32", "the engine, at the same precision"),
    ("quals_fast", "lower precision"),
)
# On a GPU what was published is half precision, and so is the engine as it comes.
GPU_CHAIN = (
    *CHAIN[:2],
    ("qags_batched_half", "lower precision"),
    _ONE_MODEL,
    _ENCODED_ONCE,
    ("quals_fast_eager", "the engine, without its kernels and graphs"),
    ("quals_fast", "its kernels and graphs"),
)
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
_FORMER_TOKENS = 512  # of the bundled model, in results that do not say
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
SENTENCES = {
    "published_vs_qags_as_shipped": "QUALS as published is {} times as fast as QAGS as shipped, "
    "which is the comparison in the article",
    "speedup_vs_qags_as_shipped": "quals_fast is {} times as fast as QAGS as shipped",
    "speedup_vs_qags_batched": "quals_fast is {} times as fast as the strongest QAGS",
}


def verdict(result: dict[str, Any]) -> str:
    """Say in plain words whether 55 times holds, and against what."""
    lines = []
    for name, sentence in SENTENCES.items():
        of_cases = {
            f"{size}, {workload}": spread(ratios(case, *RATIOS[name]))
            for size, workload, case in each_case(result["cases"])
        }
        medians = {case: one["median"] for case, one in of_cases.items()}
        reached = [f"{c} (n = {one['n']})" for c, one in of_cases.items() if one["low"] >= CLAIMED]
        times = span(list(medians.values()))
        lines.append(f"{sentence.format(times)}; {_holds(reached, medians)}.")
    counts = [len(case["rounds"]) for _, _, case in each_case(result["cases"])]
    few, many = min(counts), max(counts)
    rounds = f"{few}" if few == many else f"{few} to {many}"
    return f"On {result['device']} (medians, n = {rounds}): {' '.join(lines)}"


def _holds(reached: list[str], medians: dict[str, float]) -> str:
    if len(reached) == len(medians):
        return f"it reaches {CLAIMED:.0f} in every round"
    if reached:
        return f"it reaches {CLAIMED:.0f} in every round only for {' and '.join(reached)}"
    most = max(medians, key=lambda case: medians[case])
    if medians[most] >= CLAIMED:
        return f"it reaches {CLAIMED:.0f} for {most}, but not in every round"
    closest = f" (closest: {most})" if len(medians) > 1 else ""
    return f"it does not reach {CLAIMED:.0f}{closest}"


def span(values: Sequence[float]) -> str:
    """Write the lowest and highest of some numbers."""
    low, high = (f"{value:.1f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


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
        "The authors of QUALS report that it is 55 times as fast as QAGS, the metric that preceded "
        "it. Here both run on the same texts and the same machine, and the ratio is broken down "
        "into its causes.",
        f"**Verdict.** {verdict(result)}",
        _conditions(result),
        f"![seconds a summary, by arm and stage]({name}.svg)",
        "## The arms",
        _how(result),
    ]
    for size, workload, case in each_case(result["cases"]):
        parts += [f"## {size}, {workload}", _sizes(case), _arms(case), _decomposition(case)]
    parts += ["## What the scores are worth", agreement, "## Machine", where(result)]
    parts.append(f"Weights: {listed(result['weights'])}.")
    if len(result["commits"]) > 1:
        parts.append(f"The rounds are of several runs, at commits {', '.join(result['commits'])}.")
    return "\n\n".join(parts) + "\n"


def _conditions(result: dict[str, Any]) -> str:
    """Say what the ratio depends on, with the figures that show it."""
    cases = {(size, workload): case for size, workload, case in each_case(result["cases"])}
    sizes = list(dict.fromkeys(size for size, _ in cases))
    workloads = list(dict.fromkeys(workload for _, workload in cases))

    def whole(size: str, workload: str) -> float:
        ratio = RATIOS["speedup_vs_qags_as_shipped"]
        return figures.factor(cases[size, workload], *ratio)

    lines = ["What the ratio of quals_fast to QAGS as shipped depends on:"]
    if len(workloads) > 1:
        longer = [whole(size, workloads[-1]) / whole(size, workloads[0]) for size in sizes]
        lines.append(
            f"- **Length.** With `{workloads[-1]}` texts it is {span(longer)} times what it is "
            f"with `{workloads[0]}` ones: QAGS reads the document once for each of up to 20 "
            "questions, in windows of 384 tokens that overlap by two thirds; the engine reads it "
            "once."
        )
    if len(sizes) > 1:
        larger = [whole(sizes[-1], w) / whole(sizes[0], w) for w in workloads]
        lines.append(f"- **Size.** With {sizes[-1]} it is {span(larger)} times that of {sizes[0]}.")
    gain = [figures.factor(case, "qags_as_shipped", STRONGEST) for case in cases.values()]
    rest = [figures.factor(case, STRONGEST, "quals_fast") for case in cases.values()]
    lines.append(
        f"- **The baseline.** Batching and half precision, which QAGS can use too, make it "
        f"{span(gain)} times as fast; {span(rest)} times are left."
    )
    if not result["machine"]["gpu"]:
        lines.append(
            "- **The processor.** The published programs run large models on a GPU. This page is "
            "about a CPU, so the engine's GPU kernels and graphs are not in its figures; "
            "`python -m bench.claim --quick --device cuda` measures them. On a CPU, the engine's "
            "float32 products use another library than the other arms' (see below); on Intel "
            "processors the ratio may be smaller."
        )
    return "\n".join(lines)


def _how(result: dict[str, Any]) -> str:
    ran = {name for _, _, case in each_case(result["cases"]) for name in case["facts"]}
    arms = "\n".join(f"- `{name}`: {text}" for name, text in DESCRIPTIONS.items() if name in ran)
    others = (
        ""
        if result["machine"]["gpu"]
        else "; the next round has other texts, so the spread is that of texts as well"
    )
    return (
        f"{arms}\n\nTexts: {result['data']}. The arms take turns: in a round, each scores the "
        f"same texts once, in a process of its own{others}. Loading and a first row are not "
        "timed. QAGS runs with its shipped setting (beam 5, which gives 5 questions an answer "
        "and 50 in all). Ratios are formed within a round; tables give the median, lowest and "
        "highest of the n rounds. FLOPs are those that an arm executes on the first row, padding "
        "included (bench/shared/flops.py). Peak memory is that of an arm over all rounds; the "
        "cell is empty where it is not known.\n\n"
        "Batched QAGS is what an expert gets from Hugging Face's modules: all answers of all "
        "summaries in one beam search that shares the source's keys and values, questions and "
        "windows that occur twice computed once, windows batched by length in the size that is "
        "fastest on this kind of machine, SDPA attention, and bfloat16 or float16 where that is "
        "faster. Not tried: compiled graphs, 8-bit weights, ONNX Runtime. The engine screens its "
        "vocabulary in 8 bits; the arms in float32 show its speed without that. Not all arms use "
        "the same library for matrix products: the engine uses oneDNN, Hugging Face's modules what "
        "torch chooses, which in float32 is MKL and slower on processors that are not Intel's "
        "(row oneDNN products of bench.ablation). The engine's step below includes this; in "
        "bfloat16 all arms use oneDNN."
    )


def _sizes(case: dict[str, Any]) -> str:
    tokens, words, questions, pairs = (
        figures.all_of(case, what)
        for what in ("document_tokens", "summary_words", "questions", "kept_pairs")
    )
    weights = (
        "All weights are trained ones. The bundled model of QUALS cuts documents after "
        f"{case.get('source_tokens', _FORMER_TOKENS)} tokens; QAGS reads them whole."
        if case["weights"] == "trained"
        else "QAGS has random weights and replays what the trained small models did on these "
        "texts: the answers (found beforehand: spaCy's milliseconds are not in), the number and "
        "the lengths of questions. QUALS runs the bundled model grown to this size, which does the "
        "real work."
    )
    n = len(case["rounds"])
    return (
        f"{n} round{'s' * (n > 1)} of {len(tokens) // n} text{'s' * (len(tokens) > n)}; documents "
        f"of {statistics.median(tokens):.0f} tokens and summaries of "
        f"{statistics.median(words):.0f} words (medians). {case['networks']}; it asks "
        f"{statistics.fmean(questions):.1f} questions a summary (20 at most; fewer are kept where "
        f"the small generator repeats itself). QUALS keeps {statistics.fmean(pairs):.1f} pairs. "
        f"{weights}"
    )


def _arms(case: dict[str, Any]) -> str:
    shipped = case["tflop"].get("qags_as_shipped")
    rows = []
    for name, facts in case["facts"].items():
        flops = case["tflop"].get(name)
        fewer = "" if flops is None or shipped is None else f"{shipped / flops:.1f}"
        difference = figures.mean_difference(case, name)
        times = spread(ratios(case, "qags_as_shipped", name))
        rows.append(
            {
                "arm": f"`{name}`",
                "type": facts["dtype"],
                "s a summary": with_spread(spread(figures.seconds(case, name))),
                "times as fast as QAGS as shipped": with_spread(times, 1),
                "TFLOP": "" if flops is None else f"{flops:.3f}",
                "times fewer": fewer,
                "peak MiB": "" if facts["peak_mib"] is None else f"{facts['peak_mib']:.0f}",
                "mean difference of score": ""
                if difference is None
                else f"{difference:.1e} from `{figures.BASES[name]}`",
            }
        )
    return table(rows)


def _decomposition(case: dict[str, Any]) -> str:
    """Tell the factors whose product is the whole ratio, and the FLOPs' part of each."""
    facts, tflop, rows, product = case["facts"], case["tflop"], [], 1.0
    whole = CHAIN if facts["quals_published"]["dtype"] == "float32" else GPU_CHAIN
    chain = [step for step in whole if step[0] in facts]
    for (before, _), (after, what) in pairwise(chain):
        factor = figures.factor(case, before, after)
        product *= factor
        counted = before in tflop and after in tflop
        fewer = f"{tflop[before] / tflop[after]:.2f}" if counted else ""
        rows.append([f"`{before}` to `{after}`", what, f"{factor:.2f}", fewer])
    rows.append(["product", "", f"{product:.1f}", ""])
    against = figures.factor(case, STRONGEST, "quals_fast")
    columns = ("step", "what it is", "times as fast", "times fewer FLOPs")
    return (
        f"{table([dict(zip(columns, row, strict=True)) for row in rows])}\n\n"
        f"Geometric means over the rounds. From `{figures.strongest(case)}` to `quals_fast` it is "
        f"{against:.1f} times."
    )


def plot(result: dict[str, Any], target: Path) -> None:
    """Draw one bar an arm, stacked by stage, on a logarithmic axis.

    A bar's end is its seconds on that axis; its stages divide its drawn length by their shares,
    since on the axis itself the first ones would look longest.
    """
    from matplotlib.patches import Patch

    cases = list(each_case(result["cases"]))
    medians = [
        statistics.median(figures.seconds(case, arm))
        for _, _, case in cases
        for arm in case["facts"]
    ]
    begin, end = min(medians) / 4, max(medians) * 3
    heights = [len(case["facts"]) + 1.5 for _, _, case in cases]
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
        for axis, (size, workload, case) in zip(axes[:, 0], cases, strict=True):
            for name in reversed(case["facts"]):
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
