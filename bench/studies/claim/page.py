"""What bench/CLAIM.md says of a result: verdict, plot, arms, decomposition, agreement."""

from __future__ import annotations

import statistics
from itertools import pairwise
from typing import Any

from bench.shared.common import spread
from bench.shared.tables import is_quotable, table, where, with_spread
from bench.shared.weights import listed
from bench.studies.claim import figures
from bench.studies.claim.arms import DESCRIPTIONS
from bench.studies.claim.figures import LIBRARY, RATIOS, STRONGEST, each_case, measured, ratios
from bench.studies.claim.verdict import span, verdict

# How the first arm becomes the last: (arm, what the step to it is).
_ONE_MODEL = ("quals_published", "QUALS as published: one model in place of three")
_ENCODED_ONCE = "documents encoded once, not once a pair"
CHAIN = (
    ("qags_as_shipped", ""),
    ("qags_batched", "batching, sorting by length, no work twice"),
    _ONE_MODEL,
    ("quals_published_onednn", "the engine's library of matrix products"),
    ("quals_once", _ENCODED_ONCE),
    ("quals_once_onednn", _ENCODED_ONCE),
    ("quals_fast_float32", "the engine, at the same precision"),
    ("quals_fast", "lower precision"),
)
# On a GPU what was published is half precision, and so is the engine as it comes.
GPU_CHAIN = (
    *CHAIN[:2],
    ("qags_batched_half", "lower precision"),
    _ONE_MODEL,
    ("quals_once", _ENCODED_ONCE),
    ("quals_fast_eager", "the engine, without its kernels and graphs"),
    ("quals_fast", "its kernels and graphs"),
)
_FORMER_TOKENS = 512  # of the bundled model, in results that do not say


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
        verdict(result),
        f"![seconds a summary, by arm and stage]({name}.svg)",
        "## What the ratio is made of",
        _steps(result),
        _conditions(result),
        "## The arms",
        _how(result),
    ]
    for size, workloads in result["cases"].items():
        first, *_ = workloads.values()
        parts += [f"## {size}", f"{first['networks']}. {_weights(size, first)}"]
        for workload, case in workloads.items():
            parts += [_texts(workload, case), _arms(case)]
    parts += ["## What the scores are worth", agreement, "## Machine", where(result)]
    parts.append(f"Weights: {listed(result['weights'])}.")
    if len(result["commits"]) > 1:
        parts.append(f"The rounds are of several runs, at commits {', '.join(result['commits'])}.")
    return "\n\n".join(filter(None, parts)) + "\n"


def _steps(result: dict[str, Any]) -> str:
    """Tell the factors whose product is the whole ratio, with the FLOPs' part of each."""
    cases = {f"{size}, {workload}": case for size, workload, case in each_case(result["cases"])}
    chain = GPU_CHAIN if result["machine"]["gpu"] else CHAIN
    ran = [step for step in chain if any(step[0] in case["facts"] for case in cases.values())]
    first, last = ran[0][0], ran[-1][0]
    steps = [(before, after, what) for (before, _), (after, what) in pairwise(ran)]
    steps += [(first, last, "product"), (STRONGEST, last, "what is left of it")]
    rows = [
        {"step": f"`{before}` to `{after}`", "what it is": what}
        | {name: _factor(case, before, after) for name, case in cases.items()}
        for before, after, what in steps
    ]
    return (
        f"{table(rows)}\n\nTimes as fast, as geometric means over the rounds; in brackets times "
        f"fewer FLOPs, where they can be counted.{_note(cases)}"
    )


def _factor(case: dict[str, Any], slower: str, faster: str) -> str:
    if measured(case, slower) is None or measured(case, faster) is None:
        return ""
    flops, fewer = case["tflop"], ""
    if slower in flops and faster in flops:
        fewer = f" ({flops[slower] / flops[faster]:.2f})"
    return f"{figures.factor(case, slower, faster):.2f}{fewer}"


def _note(cases: dict[str, Any]) -> str:
    few = [name for name, case in cases.items() if not _is_quotable(case)]
    return f" Preliminary, with too few rounds to quote: {'; '.join(few)}." if few else ""


def _is_quotable(case: dict[str, Any]) -> bool:
    return is_quotable({"n": len(case["rounds"])})


def _conditions(result: dict[str, Any]) -> str:
    """Say what the ratio depends on, with the figures that show it."""
    cases = {
        (size, workload): case
        for size, workload, case in each_case(result["cases"])
        if _is_quotable(case)
    }
    if not cases:
        return ""
    sizes = list(dict.fromkeys(size for size, _ in cases))
    workloads = list(dict.fromkeys(workload for _, workload in cases))

    def factors(slower: str, faster: str) -> dict[tuple[str, str], float]:
        return {
            name: figures.factor(case, slower, faster)
            for name, case in cases.items()
            if measured(case, slower) and measured(case, faster)
        }

    whole = factors(*RATIOS["speedup_vs_qags_as_shipped"])
    lines = ["The ratio of quals_fast to QAGS as shipped depends on:"]
    short, long = workloads[0], workloads[-1]
    longer = [
        whole[s, long] / whole[s, short] for s in sizes if {(s, short), (s, long)} <= {*cases}
    ]
    if longer and len(workloads) > 1:
        lines.append(
            f"- **Length.** With `{long}` texts it is {span(longer)} times what it is with "
            f"`{short}` ones: QAGS reads the document once for each of up to 20 questions, in "
            "windows of 384 tokens that overlap by two thirds; the engine reads it once."
        )
    small, large = sizes[0], sizes[-1]
    larger = [
        whole[large, w] / whole[small, w] for w in workloads if {(small, w), (large, w)} <= {*cases}
    ]
    if larger and len(sizes) > 1:
        lines.append(f"- **Size.** With {large} it is {span(larger)} times that of {small}.")
    if gain := factors("qags_as_shipped", STRONGEST):
        rest = factors(STRONGEST, "quals_fast")
        lines.append(
            "- **The baseline.** Batching and half precision, which QAGS can use too, make it "
            f"{span(gain.values())} times as fast; {span(rest.values())} times are left."
        )
    if not result["machine"]["gpu"]:
        of_qags = factors(*LIBRARY["onednn_for_qags"])
        of_quals = factors(*LIBRARY["onednn_for_quals"])
        library = (
            f"With oneDNN, QAGS as shipped is {span(of_qags.values())} times as fast as with MKL, "
            f"QUALS as published {span(of_quals.values())} times. "
            if of_qags and of_quals
            else ""
        )
        lines.append(
            "- **The processor.** In float32, torch computes the products of Hugging Face's "
            f"modules with MKL, which has AVX2 only on processors that are not Intel's, and the "
            f"engine with oneDNN. {library}In bfloat16, all arms use oneDNN."
        )
    return "\n".join(lines)


def _how(result: dict[str, Any]) -> str:
    ran = {name for _, _, case in each_case(result["cases"]) for name in case["facts"]}
    arms = "\n".join(f"- `{name}`: {text}" for name, text in DESCRIPTIONS.items() if name in ran)
    others = "" if result["machine"]["gpu"] else "; the next round has other texts"
    return (
        f"{arms}\n\nTexts: {result['data']}. The arms take turns: in a round, each scores the "
        f"same texts once, in a process of its own{others}. Loading and a first row are not "
        "timed. QAGS runs with its shipped setting: beam 5, which gives 5 questions an answer and "
        "50 in all, of which it asks 20, or fewer where they repeat themselves. Ratios are formed "
        "within a round; tables give the median, lowest and highest of the n rounds. FLOPs are "
        "those that an arm executes on the first row, padding included (bench/shared/flops.py). "
        "Peak memory is that of an arm over all rounds; the cell is empty where it is not "
        "known.\n\n"
        "Batched QAGS is what an expert gets from Hugging Face's modules: all answers of all "
        "summaries in one beam search that shares the source's keys and values, questions and "
        "windows that occur twice computed once, windows batched by length in the size that is "
        "fastest on this kind of machine, SDPA attention, and bfloat16 or float16 where that is "
        "faster. Not tried: compiled graphs, 8-bit weights, ONNX Runtime. The engine screens its "
        "vocabulary in 8 bits; the arms in float32 show its speed without that.\n\n"
        "The article compares QAGS as shipped with QUALS as published, at the size of BART-large, "
        "on a GPU and with QUALS in float16. Rounds of fewer than 5 texts do not fill the batches "
        "of QUALS as published."
    )


def _weights(size: str, case: dict[str, Any]) -> str:
    if case["weights"] == "trained":
        tokens = case.get("source_tokens", _FORMER_TOKENS)
        return (
            "All weights are trained ones. The bundled model of QUALS cuts documents after "
            f"{tokens} tokens; QAGS reads them whole."
        )
    return (
        "QAGS has random weights and replays what the trained small models did on these texts: the "
        "answers (found beforehand: spaCy's milliseconds are not in), the number and the lengths "
        f"of questions. QUALS runs the bundled model grown to the size of {size}, which does the "
        "real work."
    )


def _texts(workload: str, case: dict[str, Any]) -> str:
    tokens, words, questions, pairs = (
        figures.all_of(case, what)
        for what in ("document_tokens", "summary_words", "questions", "kept_pairs")
    )
    n = len(case["rounds"])
    return (
        f"**{workload}**: {n} round{'s' * (n > 1)} of {len(tokens) // n} "
        f"text{'s' * (len(tokens) > n)}; documents of {statistics.median(tokens):.0f} tokens and "
        f"summaries of {statistics.median(words):.0f} words (medians). QAGS asks "
        f"{statistics.fmean(questions):.1f} questions a summary, QUALS keeps "
        f"{statistics.fmean(pairs):.1f} pairs."
    )


def _arms(case: dict[str, Any]) -> str:
    rows = []
    for name in DESCRIPTIONS:
        if name not in case["facts"]:
            continue
        facts, flops = case["facts"][name], case["tflop"].get(name)
        difference = figures.mean_difference(case, name)
        times = spread(ratios(case, "qags_as_shipped", name))
        rows.append(
            {
                "arm": f"`{name}`",
                "type": facts["dtype"],
                "s a summary": with_spread(spread(figures.seconds(case, name))),
                "times as fast as QAGS as shipped": with_spread(times, 1),
                "TFLOP": "" if flops is None else f"{flops:.3f}",
                "peak MiB": "" if facts["peak_mib"] is None else f"{facts['peak_mib']:.0f}",
                "mean difference of score": ""
                if difference is None
                else f"{difference:.1e} from `{figures.BASES[name]}`",
            }
        )
    return table(rows)
