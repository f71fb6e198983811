"""Paste the numbers of bench/results into the README and docs, between their markers.

    python -m bench.report          writes the pages
    python -m bench.report --check  ends with exit code 1 if a page is not what it would write

A section stands between ``<!-- report:NAME -->`` and ``<!-- /report -->``.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from bench.shared.common import RESULTS, ROOT
from bench.shared.options import command_line

PAGES = (ROOT / "README.md", ROOT / "docs" / "gpu.md")
SECTION = re.compile(r"(<!-- report:(\w+) -->\n).*?(<!-- /report -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """Read one result."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return content


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def where(result: dict[str, Any]) -> str:
    """Say what a result was measured on."""
    m = result["machine"]
    v = m["versions"]
    dirty = " with uncommitted changes" if m["dirty"] else ""
    instructions = f" ({', '.join(m['instructions'])})" if "instructions" in m else ""
    return (
        f"{m['cpu']}{instructions}, {m['threads']} threads; Python {m['python']}, "
        f"torch {v['torch']}, transformers {v['transformers']}; commit {m['commit']}{dirty}."
    )


def spread(numbers: dict[str, float], digits: int = 2) -> str:
    """Write a median with its spread."""
    if numbers["n"] == 1:
        return f"{numbers['median']:.{digits}f} (n = 1)"
    low, high = (f"{numbers[key]:.{digits}f}" for key in ("low", "high"))
    return f"{numbers['median']:.{digits}f} ({low} to {high}, n = {numbers['n']})"


def speed() -> str:
    """Report the engine against the published pipeline and CTranslate2, model by model."""
    result = load("end_to_end")
    rows = []
    for model, found in result["cases"].items():
        for workload, case in found["workloads"].items():
            rows += _arms(model, workload, case, found["facts"])
    header = [
        "model, workload",
        "program",
        "s a summary",
        "times as fast as the reference",
        "as CTranslate2 int8",
        "kept pairs the same",
        "mean, max abs. difference of score",
        "peak MiB",
    ]
    m = result["machine"]
    return (
        f"{table(header, rows)}\n\nMedian (lowest to highest, n = rounds). Differences: float32 "
        f"against the reference, other types against float32. {where(result)[:-1]}, CTranslate2 "
        f"{m['versions'].get('ctranslate2')}."
    )


def _arms(
    model: str, workload: str, case: dict[str, Any], facts: dict[str, Any]
) -> list[list[str]]:
    rows = []
    for arm, seconds in case["seconds_per_summary"].items():
        agreement = next(
            (a for name, a in case["agreement"].items() if name.startswith(f"{arm}_vs_")), None
        )
        ratios = [
            spread(case[f"speedup_vs_{base}"][arm]) if arm in case[f"speedup_vs_{base}"] else ""
            for base in ("reference", "ctranslate2")
        ]
        rows.append(
            [
                f"{model}, {workload}",
                {
                    "reference": "published pipeline",
                    "ctranslate2": "CTranslate2 int8, its parts",
                }.get(arm, f"quals_fast {arm}"),
                spread(seconds),
                *ratios,
                "" if agreement is None else f"{100 * agreement['identical_sequences']:.0f} %",
                ""
                if agreement is None
                else f"{agreement['mean_abs_delta']:.1e}, {agreement['max_abs_delta']:.1e}",
                f"{facts[arm]['peak_mib']:.0f}",
            ]
        )
    return rows


def precision() -> str:
    """Report what each type of numbers costs and brings."""
    result = load("precision")
    rows = [
        [
            f"`{name}`",
            spread(one["speedup_vs_float32"]),
            f"{one['mean_abs_delta']:.4f}",
            f"{one['max_abs_delta']:.3f}",
            f"{one['spearman']:.4f}",
            f"{100 * one['identical']:.0f} %",
            f"{100 * one['shared_pairs']:.0f} %",
        ]
        for name, one in result["dtypes"].items()
    ]
    header = [
        "dtype",
        "times as fast",
        "mean abs. difference",
        "max",
        "Spearman",
        "rows with the same pairs",
        "pairs the same",
    ]
    n = result["dtypes"]["float32"]["rows"]
    return f'{table(header, rows)}\n\n{n} summaries; here `"auto"` is `"{result["auto"]}"`.'


def ablation() -> str:
    """Report what each optimisation brings."""
    result = load("ablation")
    rows = [
        [name, one["what"], f"{one['predicted']:.2f}", spread(one["measured"])]
        for name, one in result.items()
        if isinstance(one, dict) and "predicted" in one
    ]
    return table(["taken out", "what it does", "predicted", "times as slow without it"], rows)


def parity() -> str:
    """Report the agreement with the reference on real summaries."""
    rows = [
        [
            rule,
            str(one["rows"]),
            f"{100 * one['identical_sequences']:.1f} %",
            str(len(one["near_ties"])),
            str(len(one["wrong"])),
            f"{one['max_abs_delta']:.1e}",
        ]
        for rule in ("fairseq09", "hamming")
        for one in [load(f"parity_{rule}")]
    ]
    header = [
        "rule",
        "summaries",
        "identical",
        "near ties",
        "wrong",
        "max abs. difference of score",
    ]
    return table(header, rows)


def storage() -> str:
    """Report what int8 storage costs."""
    r = load("storage")
    labels = " and ".join(
        f"{p['original']:.3f} and {p['stored']:.3f} on {name} (n = {p['n']})"
        for name, p in r["pearson_with_labels"].items()
    )
    return (
        f"On {r['rows']} human-judged summaries, scores with the stored weights differ from those "
        f"with the original by {r['mean_abs_delta']:.3f} on average (at most "
        f"{r['max_abs_delta']:.2f}; the scores' own standard deviation is {r['score_std']:.2f}), "
        f"with Spearman {r['spearman']:.3f} between the two; {100 * r['shared_pairs']:.0f} % of "
        f"the kept pairs are the same. Pearson with human labels, original and stored: {labels}."
    )


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


def examples() -> str:
    """Report the examples."""
    result = load("examples")
    n, kinds = result["documents"], result["by_change"].items()
    parts = ", ".join(f"{kind} {good} of {total}" for kind, (good, total) in kinds)
    return (
        f"The faithful summary scores higher than the altered one for "
        f"**{result['faithful_higher']} of the {n} documents** ({parts})."
    )


def evaluate() -> str:
    """Report the agreement with human judgement on both sets, and what QUALS does not beat."""
    blocks = []
    for name, title in (("cnndm", "QAGS-CNN/DM"), ("xsum", "QAGS-XSum")):
        quals, *rouge = found = load("model")["with_people"][f"factcons_qags_{name}"]["all"]
        rows = [
            [
                one["name"],
                *(_estimate(one[key]) for key in ("pearson", "spearman", "kendall", "auc")),
            ]
            for one in found
        ]
        header = [f"{title}, n = {quals['n']}", "Pearson", "Spearman", "Kendall", "AUC"]
        above = [r["name"] for r in rouge if r["pearson"]["value"] > quals["pearson"]["value"]]
        verdict = f"By Pearson, above QUALS here: {', '.join(above) or 'no ROUGE'}."
        blocks += [table(header, rows), verdict]
    return "\n\n".join(blocks)


def preset() -> str:
    """Report what the preset `fast` is worth."""
    result = load("model_settings")
    default, fast = "default", "30 beams"

    def pearson(name: str, part: str) -> str:
        values = [one[part]["pearson"]["value"] for one in result["quality"][name].values()]
        return " and ".join(f"{value:.2f}" for value in values)

    odd, even = (
        f"{pearson(fast, part)} against {pearson(default, part)}" for part in ("odd", "even")
    )
    return (
        f"Pearson with people, CNN/DM and XSum, against the published 60 beams: {odd} on the rows "
        f"that chose it, {even} on the others, at {result['cost'][fast]['median']:.2f} of the time."
    )


def onnx() -> str:
    """Report the exported graphs, where they have been measured."""
    if not (RESULTS / "onnx.json").is_file():
        return "Not measured yet: `python -m bench.onnx --quick` does it."
    result = load("onnx")
    rows = [
        [
            f"{model}, {workload}",
            arm,
            spread(case["seconds_per_summary"][arm]),
            spread(case["speedup_vs_eager_float32"][arm]),
            "" if agreement["spearman"] is None else f"{agreement['spearman']:.4f}",
            f"{agreement['mean_abs_delta']:.1e}, {agreement['max_abs_delta']:.1e}",
            f"{agreement['identical_rows']} of {agreement['rows']}",
        ]
        for model, found in result["cases"].items()
        for workload, case in found["workloads"].items()
        for arm, agreement in case["agreement"].items()
    ]
    header = [
        "model, workload",
        "program",
        "s a summary",
        "times as fast as eager float32",
        "Spearman with it",
        "mean, max abs. difference of score",
        "rows with the same pairs",
    ]
    starts = [
        f"{model}: {spread(one['onnx int8']['seconds'])} s and "
        f"{one['onnx int8']['peak_mib']['median']:.0f} MiB without PyTorch, "
        f"{spread(one['torch']['seconds'])} s and {one['torch']['peak_mib']['median']:.0f} MiB "
        f"with it ({one['slim_of_torch']['seconds']['median']:.2f} and "
        f"{one['slim_of_torch']['peak_mib']['median']:.2f} of these)"
        for model, found in result["cases"].items()
        for one in [found["start_up"]]
    ]
    return (
        f"{table(header, rows)}\n\nFrom the start of a process to the score of one short pair, and "
        f"its peak memory: {'; '.join(starts)}. {_onnx_aims(result)} {where(result)[:-1]}, ONNX "
        f"Runtime {result['versions']['onnxruntime']}."
    )


def _onnx_aims(result: dict[str, Any]) -> str:
    """Say which of the aims for exported graphs are reached, over all models and workloads."""
    cases = [case for found in result["cases"].values() for case in found["workloads"].values()]
    slim = [found["start_up"]["slim_of_torch"] for found in result["cases"].values()]
    speed = min(case["speedup_vs_eager_float32"]["onnx int8"]["median"] for case in cases)
    spearman = min(case["agreement"]["onnx int8"]["spearman"] for case in cases)
    seconds, memory = (max(one[what]["median"] for one in slim) for what in ("seconds", "peak_mib"))
    aims = {
        f"int8 at least 2 times as fast as eager float32 ({speed:.2f})": speed >= 2,
        f"with Spearman of at least 0.99 ({spearman:.4f})": spearman >= 0.99,
        f"without PyTorch under half of the start-up time ({seconds:.2f})": seconds < 0.5,
        f"and of the memory ({memory:.2f})": memory < 0.5,
    }
    said = (f"{aim} {'reached' if is_reached else 'missed'}" for aim, is_reached in aims.items())
    earlier = load("onnx_before_onednn")  # when eager float32 was torch's own products, by MKL
    of_torch = earlier["speedup_vs_eager_float32"]["qagen-mini"]
    speeds = " and ".join(f"{one['onnx int8']['median']:.2f}" for one in of_torch.values())
    return (
        f"Aims: {', '.join(said)}. Against torch's own products in float32, which the engine has "
        f"left since (commit {earlier['machine']['commit']}), int8 was {speeds} times as fast."
    )


def onnx_exports() -> str:
    """Report exports at larger sizes: what they take, and what their own check found."""
    rows = [
        [
            f"{model}, {dtype}",
            f"{one['seconds']:.0f}",
            f"{one['weights_bytes'] / 1e6:,.0f}",
            f"{one['largest_graph_bytes'] / 1e6:.2f}",
            f"{one['parity']['mean_abs_delta']:.1e}, {one['parity']['max_abs_delta']:.1e}",
            f"{100 * one['parity']['identical_sequences']:.0f} %",
        ]
        for model, by_dtype in load("onnx_exports")["exports"].items()
        for dtype, one in by_dtype.items()
    ]
    header = [
        "model, type",
        "s to export and check",
        "MB of weights",
        "of the largest graph",
        "mean, max abs. difference of a log-probability, nats",
        "sequences the same",
    ]
    return table(header, rows)


def install_size() -> str:
    """Report what the slim and the full install take on disk."""
    result = load("install_size")
    sizes, python = result["megabytes"], result["machine"]["python"]
    return (
        f"That is {sizes['slim']:,.0f} MB on disk (Python {python}, the virtual environment "
        f"included), against {sizes['full']:,.0f} MB with PyTorch for CPUs "
        "(`python -m bench.install_size`)."
    )


def training_cost() -> str:
    """Report what scoring costs in a training, where it has been measured."""
    if not (RESULTS / "training_cost.json").is_file():
        return "Not measured yet: `python -m bench.training_cost` does it."
    result = load("training_cost")
    rows = [
        [
            f"{result['policy']}, {workload}",
            what,
            arm.replace("_", ", cache "),
            spread({k: v if k == "n" else 100 * v for k, v in share.items()}, 0),
        ]
        for what in ("step", "evaluation")
        for workload, shares in result[f"share_of_{what}"][result["policy"]].items()
        for arm, share in shares.items()
    ]
    header = ["trained model, workload", "of a", "scoring", "% of its time"]
    return (
        f"{table(header, rows)}\n\nStep: {result['documents']} documents with "
        f"{result['completions']} completions each. Evaluation: {result['summaries']} summaries. "
        f"{where(result)}"
    )


def conseq_experiment() -> str:
    """Report what ConSeq with QUALS came to, where it has been tried."""
    if not (RESULTS / "conseq_experiment.json").is_file():
        return "Not measured yet: `python -m bench.conseq_experiment --data FILE` does it."
    result = load("conseq_experiment")
    return (
        f"{result['verdict']} Trained on {result['selection']['quals']['chosen']} documents, "
        f"measured on {result['texts']['held_out']}."
    )


def headline() -> str:
    """Say in a sentence how fast and how equal."""
    result = load("end_to_end")
    speedups = result["speedup_vs_reference"]
    mini, base = (speedups[model]["long"]["median"] for model in ("qagen-mini", "bart-base"))
    parity = [load(f"parity_{rule}") for rule in ("fairseq09", "hamming")]
    same = 100 * min(one["identical_sequences"] for one in parity)
    return (
        f"On two CPU cores it is {mini:.1f} times as fast as the published pipeline on Hugging "
        f"Face's modules with the bundled model, {base:.1f} times at the size of BART-base (news "
        f"articles, summaries of 50 words), with {same:.1f} % identical question-answer sequences "
        f"in float32 on {parity[0]['rows']} real summaries{_gpu_headline()} "
        "([numbers](#speed-memory-and-agreement), [files](bench/results))."
    )


def _gpu_headline() -> str:
    """Say how fast on a GPU, where that has been measured."""
    results = [_of_gpu(name) for name in ("end_to_end", "latency", "throughput")]
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


def claim() -> str:
    """Report the test of "55 times as fast"."""
    result = load("claim")
    names = {
        "published_vs_qags_as_shipped": "QUALS as published against QAGS as shipped",
        "speedup_vs_qags_as_shipped": "quals_fast against QAGS as shipped",
        "speedup_vs_qags_batched": "quals_fast against the strongest QAGS",
        "speedup_vs_quals_published": "quals_fast against QUALS as published",
    }
    rows = [
        [f"{size}, {workload}", *(spread(result[name][size][workload], 1) for name in names)]
        for size, workloads in result["cases"].items()
        for workload in workloads
    ]
    on_gpu = _of_gpu("claim")
    verdicts = [result["verdict"]]
    if on_gpu is not None:
        verdicts.append(f"{on_gpu['verdict']} ([details](bench/CLAIM_GPU.md))")
        rows += [
            [
                f"{size}, {workload}, GPU",
                *(spread(on_gpu[name][size][workload], 1) for name in names),
            ]
            for size, workloads in on_gpu["cases"].items()
            for workload in workloads
        ]
    return "\n\n".join(
        [
            *verdicts,
            table(["times as fast", *names.values()], rows),
            "The strongest QAGS is batched, without double work and in half precision.",
        ]
    )


def qags_models() -> str:
    """Report what QAGS's bundled networks can do."""
    result = load("qags_models")
    answering, asking = result["question_answering"], result["question_generation"]
    never = answering["no_answer_never"]
    return (
        f"Its question-answering network: exact match {never['exact_match']:.1f}, F1 "
        f"{never['f1']:.1f} on {answering['questions']:,} questions of SQuAD dev; its question "
        f"generator: perplexity {asking['passages']['perplexity']:.1f} a token there."
    )


def gpu_speed() -> str:
    """Report the engine's speed on a GPU, as far as it has been measured."""
    measured = {name: _of_gpu(name) for name in ("latency", "throughput", "end_to_end")}
    found = {name: result for name, result in measured.items() if result is not None}
    if not found:
        return (
            "Nothing has been measured on a GPU yet. On a machine with one, `bench/gpu.sh` "
            "measures everything in under 9 minutes."
        )
    rows, notes = [], []
    if "latency" in found:
        result = found["latency"]
        ms, share = result["one_pair_ms"], result["share_of_floor"]["median"]
        speed = f"{ms['p50']:.1f} ms, {ms['p95']:.1f} ms"
        rows.append(["one pair alone: median, 95th percentile", speed, _percent(share)])
    if "throughput" in found:
        for n, one in found["throughput"]["batches"].items():
            speed = f"{spread(one['pairs_per_s'], 1)} pairs a second"
            rows.append([f"{n} pairs in one call", speed, _percent(one["floor"]["share"])])
    if "end_to_end" in found:
        more_rows, note = _against_published(found["end_to_end"])
        rows += more_rows
        notes.append(note)
    header = ["BART-large's size, workload `long`", "speed", "of the speed at the floor"]
    notes += [
        "The model is the bundled one, grown to that size (`bench/recipes/grow.py`). The floor is "
        "the time of the least work at the rates measured on the same card (`bench/floor.py`).",
        _measured_on(found.values()),
    ]
    return f"{table(header, rows)}\n\n{' '.join(notes)}"


def _against_published(result: dict[str, Any]) -> tuple[list[list[str]], str]:
    """Return the rows of the comparison with the published pipeline, and what is compared."""
    (found,) = result["cases"].values()
    (case,) = found["workloads"].values()
    rows = [
        [
            f"{case['rows']} pairs in one call, {dtype}, against the published pipeline, float16",
            f"{spread(ratio, 1)} times as fast",
            _percent(case["floor"][dtype]["share"]),
        ]
        for dtype, ratio in sorted(case["speedup_vs_reference"].items())
    ]
    agreement = "; ".join(
        f"{_compared(name)}: {_percent(one['identical_sequences'])} of the kept pairs the same, "
        f"mean difference of a score {one['mean_abs_delta']:.2f} ({one['rows']} rows)"
        for name, one in case["agreement"].items()
    )
    return rows, (
        "The published pipeline runs on Hugging Face's modules in batches of 5 summaries and 30 "
        "pairs and, on a GPU, in float16, as its authors ran it. Agreement with float16 on either "
        f"side, which is no test of equality: {agreement}."
    )


def _compared(name: str) -> str:
    """Say which programs an agreement is of; the reference computes in float16 on a GPU."""
    one, other = name.split("_vs_")
    return f"{one} against {'the pipeline in float16' if other == 'reference' else other}"


def gpu() -> str:
    """Report all that was measured on a GPU besides kernels and launches."""
    blocks = [gpu_speed()]
    settings = _of_gpu("settings")
    if settings is not None:
        rows = [
            [f"`{name}`", *(_ratio_of_setting(case, what) for what in ("pair", "batch"))]
            for name, case in settings["settings"].items()
        ]
        header = ["setting", "one pair: times as fast as the default", "many pairs in one call"]
        blocks += [table(header, rows), _measured_on([settings])]
    lines = [
        f"- {say(result)}"
        for name, say in (
            ("launches", _gpu_profile),
            ("parity_fairseq09", _gpu_parity),
            ("attention", _gpu_attention),
            ("training_cost", _gpu_training),
        )
        if (result := _of_gpu(name)) is not None
    ]
    return "\n\n".join([*blocks, "\n".join(lines)] if lines else blocks)


def _ratio_of_setting(case: dict[str, Any], what: str) -> str:
    if what not in case:
        return "not tried"
    rows = "" if what == "pair" else f"{case['rows']} pairs: "
    delta = case[what]["max_abs_difference"]
    changed = f"; scores differ by {delta:.0e}" if delta else ""
    return f"{rows}{spread(case[what]['speedup_vs_default'])}{changed}"


def _gpu_profile(result: dict[str, Any]) -> str:
    parts = []
    for n, seen in result.get("profiles", {}).items():
        plain = seen.get("plain_seconds")
        total = f"{1000 * (plain or seen['seconds']):,.0f} ms"
        total += "" if plain else " under the profiler"
        parts.append(
            f"{n} {'pair' if n == '1' else 'pairs'}, {seen['steps']} steps: "
            f"{1000 * seen['busy_seconds']:,.0f} of {total} ({seen['kernels']:,} kernels)"
        )
    return f"How long the GPU is busy: {'; '.join(parts)}."


def _gpu_parity(result: dict[str, Any]) -> str:
    half = result["float16_vs_float32"]
    return (
        f"Equality, {result['model']}: in float32, {_percent(result['identical_sequences'])} of "
        f"{result['rows']} summaries get the same sequences as from the slow reference, which "
        f"runs on the CPU; scores differ by {result['max_abs_delta']:.0e} at most. "
        f"float16 against float32, {half['rows']} rows: Spearman {half['spearman']:.3f}, mean "
        f"difference {half['mean_abs_delta']:.3f} (at most {half['max_abs_delta']:.2f}), "
        f"{_percent(half['shared_pairs'])} of the kept pairs the same."
    )


def _gpu_attention(result: dict[str, Any]) -> str:
    with_, without = (result["seconds_a_pair"][f"with{out}_cudnn"] for out in ("", "out"))
    return (
        f"cuDNN's attention: a pair of a new shape takes {with_['first_s']:.2f} s with it and "
        f"{without['first_s']:.2f} s without ({result['first_ratio']:.1f} times as long), a shape "
        f"met before {1000 * with_['later_s']['median']:.1f} and "
        f"{1000 * without['later_s']['median']:.1f} ms ({result['model']})."
    )


def _gpu_training(result: dict[str, Any]) -> str:
    (shares,) = result["share_of_step"].values()
    parts = (
        f"{_percent(share['median'])} ({workload}, cache {arm.removeprefix('cache_')})"
        for workload, arms in shares.items()
        for arm, share in arms.items()
    )
    return f"Scoring's share of a training step of {result['policy']}: {', '.join(parts)}."


def gpu_kernels() -> str:
    """Report the kernels against the fastest of their alternatives in PyTorch."""
    path = RESULTS / "ops_gpu.csv"
    if not path.is_file():
        return "Not measured yet: `bench/gpu.sh ops` does it."
    with path.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    cases: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        name = (f"`{line['op']}`, {line['dtype']}", line["config"])
        cases.setdefault(name, {})[line["provider"]] = float(line["p50"])
    ratios: dict[str, dict[str, float]] = {}
    for (op, config), ms in cases.items():
        others = [own for provider, own in ms.items() if provider != "triton"]
        ratios.setdefault(op, {})[config] = min(others) / ms["triton"]
    rows = []
    for op, found in ratios.items():
        least, most = (choose(found, key=lambda c: found[c]) for choose in (min, max))
        times = (f"{cases[op, c]['triton']:.3f} ms" for c in (least, most))
        rows.append(
            [op, str(len(found))]
            + [f"{found[c]:.1f} ({c}; {ms})" for c, ms in zip((least, most), times, strict=True)]
        )
    every = [ratio for found in ratios.values() for ratio in found.values()]
    lost = sum(ratio < 1 for ratio in every)
    verdict = f"{lost or 'none'} of them {'lose' if lost > 1 else 'loses'}"
    first = lines[0]
    header = ["kernel", "sizes", "least times as fast (size; its time)", "most"]
    return (
        f"{table(header, rows)}\n\nAgainst the fastest of its alternatives in PyTorch, in "
        f"{len(every)} cases: {verdict}. {first['device']}, torch {first['torch']}, "
        f"Triton {first['triton']}, {_commits(lines)}."
    )


def _commits(lines: list[dict[str, str]]) -> str:
    """Say at which commits the operations were timed."""
    of_op = {line["op"]: line["commit"] for line in lines}
    usual = lines[0]["commit"]
    others = [f"`{op}` {commit}" for op, commit in of_op.items() if commit != usual]
    return f"commit {usual}" + (f" ({', '.join(others)})" if others else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _of_gpu(name: str) -> dict[str, Any] | None:
    """Return a result that was measured on a GPU, where there is one."""
    return load(f"{name}_gpu") if (RESULTS / f"{name}_gpu.json").is_file() else None


def _measured_on(results: Iterable[dict[str, Any]]) -> str:
    """Say what results were measured on; they may be of several machines or commits."""
    places = []
    for result in results:
        m = result["machine"]
        v = m["versions"]
        places.append(
            f"{m['gpu']}, driver {m['driver']}, torch {v['torch']}, Triton {v['triton']}, commit "
            f"{m['commit']}{' with uncommitted changes' if m['dirty'] else ''}"
        )
    return f"{'; '.join(dict.fromkeys(places))}."


def launches() -> str:
    """Report the kernels that the pass of a GPU launches, as counted without one."""
    result = load("launches")
    rows = []
    for pairs, of in result["counts"].items():
        parts = ", ".join(f"{part} {n}" for part, n in of["outside"].items() if n)
        held = f"{of['graph_mib']:,.0f} MiB" if of["graph_mib"] else "no graphs"
        outside = f"{sum(of['outside'].values())} ({parts})"
        steps = [str(of[what]) for what in ("step_early", "step", "step_products", "stop")]
        rows.append([pairs, *steps, outside, str(of["blocking_reads"]), held])
    header = [
        "pairs", "kernels a step before an end is allowed", "a step after that",
        "of these matrix products", "to test for the end, a graph or step", "outside of the steps",
        "blocking reads", "graphs hold",
    ]  # fmt: skip
    m = result["machine"]
    return (
        f"{table(header, rows)}\n\nBART-large's shape with a byte-level tokenizer, 60 beams. "
        "cuBLAS may split a product, which adds a kernel that sums the parts. "
        f"torch {m['versions']['torch']}, commit {m['commit']}."
    )


def _estimate(one: dict[str, float]) -> str:
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


SECTIONS: dict[str, Callable[[], str]] = {
    section.__name__: section
    for section in (
        headline,
        speed,
        precision,
        ablation,
        parity,
        storage,
        memory,
        scaling,
        examples,
        evaluate,
        preset,
        onnx,
        onnx_exports,
        install_size,
        training_cost,
        conseq_experiment,
        claim,
        qags_models,
        gpu,
        gpu_kernels,
        launches,
    )
}


def render(text: str) -> str:
    """Return a page with its numbers."""
    return SECTION.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Write or check."""
    parser = command_line(__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for page in PAGES:
        old = page.read_text("utf-8")
        new = render(old)
        if arguments.check and old != new:
            sys.exit(f"{page.relative_to(ROOT)} is out of date: run python -m bench.report")
        page.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
