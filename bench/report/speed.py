"""Sections on speed, memory and equality."""

from __future__ import annotations

from typing import Any

from bench.report.results import Reader, Result, machine_of
from bench.shared.tables import is_quotable, percent, table, where, with_spread
from bench.shared.weights import MODEL

RULES = ("fairseq09", "hamming")
PROGRAMS = {"reference": "published pipeline", "ctranslate2": "CTranslate2 int8, its parts"}


def headline(results: Reader) -> str:
    """Say how fast and how equal the bundled model is; of former models and few rounds nothing."""
    return f"{_headline_of_cpu(results)}{_headline_of_gpu(results)}"


def _headline_of_cpu(results: Reader) -> str:
    result = results.current("end_to_end")
    if result is None:
        return "The speed of the bundled model has not been measured yet."
    of_model = result["cases"][MODEL]
    m = machine_of(result, MODEL)
    quoted = {
        workload: ratio
        for workload, ratio in result["speedup_vs_reference"][MODEL].items()
        if is_quotable(ratio)
    }
    rates, ratios = [], []
    for workload, ratio in quoted.items():
        case = of_model["workloads"][workload]
        rate = _pairs_per_s_and_core(case["seconds_per_summary"][of_model["arm"]], m["threads"])
        rates.append(f"{rate['median']:.2f} on {workload} texts {_lowest(rate, 2)}")
        ratios.append(f"{ratio['median']:.1f} times as fast on {workload} texts {_lowest(ratio)}")
    speed = (
        "With its bundled model and default precision, quals_fast scores this many pairs of a "
        f"document and a summary per second and core: {' and '.join(rates)}, on {m['threads']} "
        f"threads of an {m['cpu']}. Compared with the published pipeline on Hugging Face's "
        f"modules in float32, it is {' and '.join(ratios)}."
        if quoted
        else "The bundled model has been timed in too few rounds to quote a speed-up."
    )
    of_float32 = [
        case["agreement"]["float32_vs_reference"] for case in of_model["workloads"].values()
    ]
    same, rows = (sum(one[what] for one in of_float32) for what in ("identical_rows", "rows"))
    return (
        f"{speed} In float32, it keeps the same question-answer pairs as the published pipeline "
        f"for {same} of {rows} summaries ([benchmarks](docs/benchmarks.md#against-other-programs))."
    )


def _headline_of_gpu(results: Reader) -> str:
    """Say how fast on a GPU, where the bundled model, or it grown, was measured there."""
    names = ("end_to_end", "latency", "throughput")
    speed, latency, throughput = map(results.current_of_gpu, names)
    if speed is None or latency is None or throughput is None:
        return ""
    ((model, ratios),) = speed["speedup_vs_reference"].items()
    (ratio,) = ratios.values()
    _, largest = throughput["batches"].popitem()
    rate, one_pair = largest["pairs_per_s"], latency["one_pair_ms"]
    if not all(map(is_quotable, (ratio, rate, one_pair))):
        return ""
    grown = "" if model == MODEL else f" grown to the size of {model.replace('bart', 'BART')}"
    return (
        f"\n\nOn an {latency['machine']['gpu']}, the bundled model{grown} scores one pair in "
        f"{one_pair['p50']:.0f} ms and, in large batches, {rate['median']:.0f} pairs a second "
        f"{_lowest(rate, 0)}. It is {ratio['median']:.1f} times as fast as the published pipeline "
        f"{_lowest(ratio)}, both in {speed['dtype'][model]}."
    )


def _pairs_per_s_and_core(seconds: dict[str, float], threads: int) -> dict[str, float]:
    """Return the spread of summaries scored per second and thread, from seconds per summary."""
    rate = {
        name: 1 / (threads * seconds[of])
        for name, of in (("median", "median"), ("low", "high"), ("high", "low"))
    }
    return rate | {"n": seconds["n"]}


def _lowest(figure: dict[str, float], digits: int = 1) -> str:
    """Write the lowest of a figure's rounds, to stand behind the median."""
    return f"(at least {figure['low']:.{digits}f} in each of {figure['n']} rounds)"


def speed_short(results: Reader) -> str:
    """Report the bundled model against the published pipeline, in a few columns."""
    result = results.load("end_to_end")
    of_model = result["cases"][MODEL]
    rows = [
        {
            "texts, precision": f"{workload}, `{dtype}`",
            "seconds per summary": with_spread(case["seconds_per_summary"][dtype]),
            "published pipeline": with_spread(case["seconds_per_summary"]["reference"]),
            "times as fast": with_spread(ratio, 1),
            "same pairs": f"{percent(agreement['identical_sequences'])} (against {of})",
            "peak MiB": f"{of_model['facts'][dtype]['peak_mib']:.0f}",
        }
        for workload, case in of_model["workloads"].items()
        for dtype, ratio in case["speedup_vs_reference"].items()
        for of, agreement in [_agreement(case, dtype)]
    ]
    sizes = "; ".join(
        f"{workload}: documents of {sizes['document_tokens'][1]:.0f} tokens and summaries of "
        f"{sizes['summary_words'][1]:.0f} words (medians of {case['rows']} pairs)"
        for workload, case in of_model["workloads"].items()
        for sizes in [case["sizes"]]
    )
    here = where({"machine": machine_of(result, MODEL)})
    return f"{table(rows)}\n\n{sizes[0].upper()}{sizes[1:]}. {here}"


def _agreement(case: dict[str, Any], dtype: str) -> tuple[str, dict[str, Any]]:
    """Return what a type of the engine was compared with first, and what came out."""
    name, one = next(
        item for item in case["agreement"].items() if item[0].startswith(f"{dtype}_vs_")
    )
    other = name.removeprefix(f"{dtype}_vs_")
    return PROGRAMS.get(other, f"`{other}`"), one


def speed(results: Reader) -> str:
    """Report the engine against the published pipeline and CTranslate2, model by model."""
    result = results.load("end_to_end")
    rows = [
        _arm(f"{model}, {workload}", arm, case, of_model["facts"][arm], threads)
        for model, of_model in result["cases"].items()
        for threads in [machine_of(result, model)["threads"]]
        for workload, case in of_model["workloads"].items()
        for arm in case["seconds_per_summary"]
    ]
    places: dict[str, list[str]] = {}
    for model in result["cases"]:
        m = machine_of(result, model)
        ctranslate2 = m["versions"].get("ctranslate2")
        place = f"{where({'machine': m})[:-1]}, CTranslate2 {ctranslate2}."
        places.setdefault(place, []).append(f"`{model}`")
    here = [
        place if len(places) == 1 else f"{', '.join(models)}: {place}"
        for place, models in places.items()
    ]
    return (
        f"{table(rows)}\n\nMedian (lowest to highest, n = rounds). Pairs/s: summaries, each with "
        "its document, scored per second and core (thread). Differences: float32 against "
        f"the reference, other types against float32. {' '.join(here)}"
    )


def _arm(
    title: str, arm: str, case: dict[str, Any], facts: dict[str, Any], threads: int
) -> dict[str, str]:
    by_reference, by_ctranslate2 = (
        with_spread(ratios[arm]) if arm in ratios else ""
        for ratios in (case["speedup_vs_reference"], case.get("speedup_vs_ctranslate2", {}))
    )
    same = difference = ""
    if arm in case["speedup_vs_reference"]:
        _, agreement = _agreement(case, arm)
        same = percent(agreement["identical_sequences"])
        difference = f"{agreement['mean_abs_delta']:.1e}, {agreement['max_abs_delta']:.1e}"
    of_floor = case["floor"].get(arm)
    rate = _pairs_per_s_and_core(case["seconds_per_summary"][arm], threads)
    return {
        "model, workload": title,
        "program": PROGRAMS.get(arm, f"quals_fast {arm}"),
        "s a summary": with_spread(case["seconds_per_summary"][arm]),
        "pairs/s and core": f"{rate['median']:.2f} (at least {rate['low']:.2f})",
        "of the floor's speed": "" if of_floor is None else percent(of_floor["share"]),
        "times as fast as the reference": by_reference,
        "as CTranslate2 int8": by_ctranslate2,
        "kept pairs the same": same,
        "mean, max abs. difference of score": difference,
        "peak MiB": f"{facts['peak_mib']:.0f}",
    }


def precision(results: Reader) -> str:
    """Report what each type of numbers costs and brings."""
    result = results.load("precision")
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


def ablation(results: Reader) -> str:
    """Report what each optimisation brings."""
    rows = [
        {
            "without": name,
            "what it does": one["what"],
            "predicted": f"{one['predicted']:.2f}",
            "times as slow without it": with_spread(one["measured"]),
        }
        for name, one in results.load("ablation").items()
        if isinstance(one, dict) and "predicted" in one
    ]
    return table(rows)


def profile(results: Reader) -> str:
    """Report where the time of scoring goes, and how near to this machine's rates."""
    result = results.where_measured("profile")
    if result is None:
        return "Not measured yet: `python -m bench.profile` does it."
    of_dtypes, rates = result["dtypes"], result["rates_per_s"]
    names = dict.fromkeys(name for one in of_dtypes.values() for name in one["parts"])
    rows = [
        {"part": name}
        | {
            column: cell
            for dtype, one in of_dtypes.items()
            for column, cell in _part(dtype, one["parts"].get(name), result["rows"]).items()
        }
        for name in sorted(names, key=lambda name: -_share(of_dtypes, name))
    ]
    floors = "; ".join(
        f"`{dtype}` {1000 * one['floor_seconds'] / result['rows']:.0f} of "
        f"{1000 * one['seconds']['median'] / result['rows']:.0f} ms a summary "
        f"({percent(one['floor_seconds'] / one['seconds']['median'])})"
        for dtype, one in of_dtypes.items()
    )
    speeds = " and ".join(
        f"{rates[numbers] / 1e9:.0f} billion operations a second in {numbers}"
        for numbers in ("float32", "int8")
        if numbers in rates
    )
    return (
        f"{table(rows)}\n\nMedians of {of_dtypes['float32']['seconds']['n']} rounds with "
        f"{result['rows']} pairs. The rate is that of large products: {speeds}. The floor of the "
        f"counted work, each part at the rate of the numbers that it computes in: {floors}. "
        f"{where(result)}"
    )


def _part(dtype: str, part: dict[str, Any] | None, rows: int) -> dict[str, str]:
    """Return the cells of a part of the time in a type of numbers."""
    names = f"`{dtype}`: ms a summary", "share", "of the rate"
    if part is None:
        return dict.fromkeys((names[0], *(f"`{dtype}`: {name}" for name in names[1:])), "")
    rate = part["of_rate"]
    return {
        names[0]: f"{1000 * part['seconds']['median'] / rows:.1f}",
        f"`{dtype}`: share": percent(part["share"]["median"]),
        f"`{dtype}`: of the rate": "" if rate is None else percent(rate["median"]),
    }


def _share(of_dtypes: dict[str, Any], name: str) -> float:
    """Return a part's share of the time in the last type of numbers that has it."""
    shares = [
        one["parts"][name]["share"]["median"] for one in of_dtypes.values() if name in one["parts"]
    ]
    return float(shares[-1])


def parity(results: Reader) -> str:
    """Report the agreement with the reference on real summaries."""
    measured = [(rule, results.load(f"parity_{rule}")) for rule in RULES]
    of_t5 = ((rule, results.where_measured(f"parity_t5_{rule}")) for rule in RULES)
    measured += [(rule, one) for rule, one in of_t5 if one is not None]
    rows = [
        {
            "model": f"`{one['model']}`",
            "rule": rule,
            "summaries": str(one["rows"]),
            "identical": percent(one["identical_sequences"], 1),
            "near ties": str(len(one["near_ties"])),
            "wrong": str(len(one["wrong"])),
            "max abs. difference of score": f"{one['max_abs_delta']:.1e}",
        }
        for rule, one in measured
    ]
    by_model = {one["model"]: one for _, one in measured}
    places = [f"`{model}`: {where(one)}" for model, one in by_model.items()]
    return f"{table(rows)}\n\n{' '.join(places)}"


def memory(results: Reader) -> str:
    """Report peak memory by rows."""
    result = results.load("memory")
    peaks = [f"{peak:.0f} MiB at {rows} rows" for rows, peak in result["peak_mib"].items()]
    formats = {"jsonl": "JSON lines", "jsonl.gz": "JSON lines, gzip", "parquet": "Parquet"}
    files = [
        {"MiB by rows": formats[form]}
        | {f"{int(rows):,}": f"{peak:.0f}" for rows, peak in peaks_of_form.items()}
        for form, peaks_of_form in result["file_peak_mib"].items()
    ]
    return (
        f"Peak resident memory of `quals-fast score`: {', '.join(peaks)}.\n\n"
        "The same with empty summaries, so that rows are read and written, but nothing is scored "
        f"(the model is loaded):\n\n{table(files)}"
    )


def scaling(results: Reader) -> str:
    """Report time and memory by rows, with the plot over lengths and beams beside it."""
    result = results.load("scaling")
    rows = ", ".join(
        f"{1000 * seconds['median']:.0f} ms a pair and {result['peak_mib'][n]:.0f} MiB at most in "
        f"{int(n):,} rows"
        for n, seconds in result["seconds_per_pair"]["rows"].items()
    )
    rounds = min(seconds["n"] for seconds in result["seconds_per_pair"]["rows"].values())
    return (
        f"With {result['row_beams']} beams: {rows} (n = {rounds}). The slowest of these takes "
        f"{result['rows_dearest_over_cheapest']:.2f} times as long a pair as the fastest.\n\n"
        "![milliseconds a pair over document tokens, beams and rows](bench/results/scaling.svg)"
    )


def training_cost(results: Reader) -> str:
    """Report what scoring costs in a training."""
    return _training_cost(results.load("training_cost"))


def training_cost_of_t5(results: Reader) -> str:
    """Report the same for a T5 that is trained, where it was measured."""
    result = results.where_measured("training_cost_t5")
    return "" if result is None else _training_cost(result)


def _training_cost(result: Result) -> str:
    of_step, of_evaluation = (
        result[f"share_of_{what}"][result["policy"]] for what in ("step", "evaluation")
    )
    rows = [
        {
            "trained model, workload": f"{result['policy']}, {workload}",
            "scoring": arm.replace("_", ", cache "),
            "% of a step": _percent(share),
            "% of an evaluation": _percent(of_evaluation[workload][arm]),
        }
        for workload, shares in of_step.items()
        for arm, share in shares.items()
    ]
    return (
        f"{table(rows)}\n\nStep: {result['documents']} documents with {result['completions']} "
        f"completions each. Evaluation: {result['summaries']} summaries. {where(result)}"
    )


def train_qagen(results: Reader) -> str:
    """Report how fast generators are trained, where it was measured."""
    measured = [
        result
        for name in ("train_qagen", "train_qagen_gpu")
        if (result := results.where_measured(name)) is not None
    ]
    if not measured:
        return "Not measured yet: `python -m bench.train_qagen` does it."
    rows = [
        {
            "model": name,
            "on": m["gpu"] or f"{m['threads']} threads of an {m['cpu']}",
            "tokens of source, target": ", ".join(f"{n:.0f}" for n in case["tokens_of_example"]),
            "questions per second": with_spread(case["examples_per_s"], 1),
            "TFLOP/s": with_spread(case["tflop_per_s"], 3),
            "peak GiB": f"{case['peak_mib'] / 1024:.1f}",
        }
        for result in measured
        for m in [result["machine"]]
        for name, case in result["cases"].items()
    ]
    return (
        f"Measured with `python -m bench.train_qagen`; speed does not depend on the weights:\n\n"
        f"{table(rows)}\n\n{' '.join(map(where, measured))}"
    )


def _percent(share: dict[str, float]) -> str:
    return with_spread({key: n if key == "n" else 100 * n for key, n in share.items()}, 0)
