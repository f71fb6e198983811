"""Sections of README.md on speed, memory and equality."""

from __future__ import annotations

from typing import Any

from bench.report.results import load, of_gpu
from bench.shared.tables import percent, table, where, with_spread

PROGRAMS = {"reference": "published pipeline", "ctranslate2": "CTranslate2 int8, its parts"}
CLAIMS = {
    "published_vs_qags_as_shipped": "QUALS as published against QAGS as shipped",
    "speedup_vs_qags_as_shipped": "quals_fast against QAGS as shipped",
    "speedup_vs_qags_batched": "quals_fast against the strongest QAGS",
    "speedup_vs_quals_published": "quals_fast against QUALS as published",
}


def headline() -> str:
    """Say in a sentence how fast and how equal."""
    result = load("end_to_end")
    speedups = result["speedup_vs_reference"]
    mini, base = (speedups[model]["long"]["median"] for model in ("qagen-mini", "bart-base"))
    parities = [load(f"parity_{rule}") for rule in ("fairseq09", "hamming")]
    same = min(one["identical_sequences"] for one in parities)
    return (
        f"On two CPU cores it is {mini:.1f} times as fast as the published pipeline on Hugging "
        f"Face's modules with the bundled model, {base:.1f} times at the size of BART-base (news "
        f"articles, summaries of 50 words), with {percent(same, 1)} identical question-answer "
        f"sequences in float32 on {parities[0]['rows']} real summaries{_headline_of_gpu()} "
        "([numbers](#speed-memory-and-agreement), [files](bench/results))."
    )


def _headline_of_gpu() -> str:
    """Say how fast on a GPU, where that has been measured."""
    results = [of_gpu(name) for name in ("end_to_end", "latency", "throughput")]
    if None in results:
        return ""
    speed, latency, throughput = (result for result in results if result is not None)
    ((model, ratios),) = speed["speedup_vs_reference"].items()
    (ratio,) = ratios.values()
    _, largest = throughput["batches"].popitem()
    return (
        f"; on an {latency['machine']['gpu']}, at the size of {model}, "
        f"{ratio['median']:.1f} times as fast as that pipeline, {speed['dtype'][model]} both, "
        f"with {latency['one_pair_ms']['p50']:.0f} ms for one pair and "
        f"{largest['pairs_per_s']['median']:.0f} pairs a second in large batches"
    )


def speed() -> str:
    """Report the engine against the published pipeline and CTranslate2, model by model."""
    result = load("end_to_end")
    rows = [
        _arm(f"{model}, {workload}", arm, case, of_model["facts"][arm])
        for model, of_model in result["cases"].items()
        for workload, case in of_model["workloads"].items()
        for arm in case["seconds_per_summary"]
    ]
    return (
        f"{table(rows)}\n\nMedian (lowest to highest, n = rounds). Differences: float32 against "
        f"the reference, other types against float32. {where(result)[:-1]}, CTranslate2 "
        f"{result['machine']['versions'].get('ctranslate2')}."
    )


def _arm(title: str, arm: str, case: dict[str, Any], facts: dict[str, Any]) -> dict[str, str]:
    by_reference, by_ctranslate2 = (
        with_spread(ratios[arm]) if arm in ratios else ""
        for ratios in (case["speedup_vs_reference"], case["speedup_vs_ctranslate2"])
    )
    of_arm = [one for name, one in case["agreement"].items() if name.startswith(f"{arm}_vs_")]
    same = difference = ""
    if of_arm:
        same = percent(of_arm[0]["identical_sequences"])
        difference = f"{of_arm[0]['mean_abs_delta']:.1e}, {of_arm[0]['max_abs_delta']:.1e}"
    return {
        "model, workload": title,
        "program": PROGRAMS.get(arm, f"quals_fast {arm}"),
        "s a summary": with_spread(case["seconds_per_summary"][arm]),
        "times as fast as the reference": by_reference,
        "as CTranslate2 int8": by_ctranslate2,
        "kept pairs the same": same,
        "mean, max abs. difference of score": difference,
        "peak MiB": f"{facts['peak_mib']:.0f}",
    }


def precision() -> str:
    """Report what each type of numbers costs and brings."""
    result = load("precision")
    rows = [
        {
            "dtype": f"`{name}`",
            "times as fast": with_spread(one["speedup_vs_float32"]),
            "mean abs. difference": f"{one['mean_abs_delta']:.4f}",
            "max": f"{one['max_abs_delta']:.3f}",
            "Spearman": f"{one['spearman']:.4f}",
            "rows with the same pairs": percent(one["identical"]),
            "pairs the same": percent(one["shared_pairs"]),
        }
        for name, one in result["dtypes"].items()
    ]
    n = result["dtypes"]["float32"]["rows"]
    return f'{table(rows)}\n\n{n} summaries; here `"auto"` is `"{result["auto"]}"`.'


def ablation() -> str:
    """Report what each optimisation brings."""
    rows = [
        {
            "taken out": name,
            "what it does": one["what"],
            "predicted": f"{one['predicted']:.2f}",
            "times as slow without it": with_spread(one["measured"]),
        }
        for name, one in load("ablation").items()
        if isinstance(one, dict) and "predicted" in one
    ]
    return table(rows)


def parity() -> str:
    """Report the agreement with the reference on real summaries."""
    rows = [
        {
            "rule": rule,
            "summaries": str(one["rows"]),
            "identical": percent(one["identical_sequences"], 1),
            "near ties": str(len(one["near_ties"])),
            "wrong": str(len(one["wrong"])),
            "max abs. difference of score": f"{one['max_abs_delta']:.1e}",
        }
        for rule in ("fairseq09", "hamming")
        for one in [load(f"parity_{rule}")]
    ]
    return table(rows)


def memory() -> str:
    """Report peak memory by rows."""
    result = load("memory")
    peaks = [f"{peak:.0f} MiB at {rows} rows" for rows, peak in result["peak_mib"].items()]
    return f"Peak resident memory of `quals-fast score`: {', '.join(peaks)}."


def scaling() -> str:
    """Report time and memory by rows, with the plot over lengths and beams beside it."""
    result = load("scaling")
    rows = ", ".join(
        f"{1000 * seconds['median']:.0f} ms a pair and {result['peak_mib'][n]:.0f} MiB at most in "
        f"{int(n):,} rows"
        for n, seconds in result["seconds_per_pair"]["rows"].items()
    )
    return (
        f"With {result['row_beams']} beams: {rows} (one run of each; the dearest pair costs "
        f"{result['rows_dearest_over_cheapest']:.2f} times the cheapest).\n\n"
        "![milliseconds a pair over document tokens, beams and rows](bench/results/scaling.svg)"
    )


def claim() -> str:
    """Report the test of "55 times as fast"."""
    result, result_of_gpu = load("claim"), of_gpu("claim")
    verdicts, rows = [result["verdict"]], _claimed(result)
    if result_of_gpu is not None:
        verdicts.append(f"{result_of_gpu['verdict']} ([details](bench/CLAIM_GPU.md))")
        rows += _claimed(result_of_gpu, ", GPU")
    strongest = "The strongest QAGS is batched, without double work and in half precision."
    return "\n\n".join([*verdicts, table(rows), strongest])


def _claimed(result: dict[str, Any], place: str = "") -> list[dict[str, str]]:
    return [
        {"times as fast": f"{size}, {workload}{place}"}
        | {title: with_spread(result[name][size][workload], 1) for name, title in CLAIMS.items()}
        for size, workloads in result["cases"].items()
        for workload in workloads
    ]


def training_cost() -> str:
    """Report what scoring costs in a training."""
    result = load("training_cost")
    rows = [
        {
            "trained model, workload": f"{result['policy']}, {workload}",
            "of a": what,
            "scoring": arm.replace("_", ", cache "),
            "% of its time": with_spread(
                {key: n if key == "n" else 100 * n for key, n in share.items()}, 0
            ),
        }
        for what in ("step", "evaluation")
        for workload, shares in result[f"share_of_{what}"][result["policy"]].items()
        for arm, share in shares.items()
    ]
    return (
        f"{table(rows)}\n\nStep: {result['documents']} documents with {result['completions']} "
        f"completions each. Evaluation: {result['summaries']} summaries. {where(result)}"
    )
