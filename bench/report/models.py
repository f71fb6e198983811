"""Sections on what models and their scores are worth."""

from __future__ import annotations

from typing import Any

from bench.report.results import Reader, machine_of
from bench.shared.tables import interval, percent, table, with_spread
from bench.studies.conseq_experiment.page import verdict

SETS = {"cnndm": "QAGS-CNN/DM", "xsum": "QAGS-XSum"}
ALL_SETS = {f"qags_{name}": title for name, title in SETS.items()} | {
    "frank_valid_cnndm": "FRANK-CNN/DM",
    "frank_valid_xsum": "FRANK-XSum",
}
# Definitions that are settings, by how they are asked for.
OPTIONS = {
    "published": "as published (default)",
    "over all pairs": "`--max-pairs all`",
    "answers only": "`--tokens answer`",
    "answers only, over all pairs": "`--tokens answer --max-pairs all`",
}
RIVALS = {
    "QUALS, published": "QUALS, bundled model",
    "QUALS, answers only, over all pairs": "QUALS, `--tokens answer --max-pairs all`",
    "QAGS": "QAGS (large models)",
    "FactCC": "FactCC",
    "Dep Entail": "DAE (dependency arc entailment)",
    "FEQA": "FEQA",
    "BertScore P Art": "BERTScore precision, against the article",
    "BertScore F1": "BERTScore F1, against the reference",
    "Rouge 2": "ROUGE-2, against the reference",
    "Rouge L": "ROUGE-L, against the reference",
    "ROUGE-2 precision, against the article": "ROUGE-2 precision, against the article",
}
BESIDE = "ROUGE-2 precision"  # of summary against document: what QUALS has to beat


def examples(results: Reader) -> str:
    """Report the examples."""
    result = results.load("examples")
    n, kinds = result["documents"], result["by_change"].items()
    parts = ", ".join(f"{kind} {good} of {total}" for kind, (good, total) in kinds)
    return (
        f"The faithful summary scores higher than the altered one for "
        f"**{result['faithful_higher']} of the {n} documents** ({parts})."
    )


def spans(results: Reader) -> str:
    """Report how well spans find altered words."""
    result = results.load("spans")
    n = result["summaries"]
    rows = [
        {
            "suspected": name,
            "AUC of characters": f"{one['auc']:.2f}",
            "within a summary": interval(one["auc_within"], 2),
            "worst part is altered": f"{one['hits']:.1f} of {n}",
        }
        for name, one in result["methods"].items()
    ]
    covered = percent(result["covered"])
    return f"{table(rows)}\n\nQuestions ask about {covered} of the altered characters."


def evaluate(results: Reader) -> str:
    """Report the agreement with human judgement on both sets, and what QUALS does not beat."""
    blocks = []
    for name, title in SETS.items():
        metrics = results.load("model")["with_people"][f"factcons_qags_{name}"]["all"]
        quals, *rouge = metrics
        rows = [
            {
                f"{title}, n = {quals['n']}": one["name"],
                "Pearson": interval(one["pearson"], 2),
                "Spearman": interval(one["spearman"], 2),
                "Kendall": interval(one["kendall"], 2),
                "AUC": interval(one["auc"], 2),
            }
            for one in metrics
        ]
        above = [r["name"] for r in rouge if r["pearson"]["value"] > quals["pearson"]["value"]]
        better = f"Higher Pearson correlation than QUALS here: {', '.join(above) or 'none'}."
        blocks += [table(rows), better]
    return "\n\n".join(blocks)


def worth_short(results: Reader) -> str:
    """Report in four rows what the bundled model's scores are worth."""
    with_people, rows = results.load("model")["with_people"], []
    for name, title in SETS.items():
        metrics = {one["name"]: one for one in with_people[f"factcons_qags_{name}"]["all"]}
        quals, other = metrics["QUALS"], metrics[BESIDE]
        for what, measure in (("pearson", "Pearson correlation with people"), ("auc", "AUC")):
            rows.append(
                {
                    "bundled model": f"{measure}, {title} (n = {quals['n']})",
                    "QUALS": interval(quals[what], 2),
                    BESIDE: interval(other[what], 2),
                }
            )
    result = results.load("examples")
    return (
        f"{table(rows)}\n\nWith 95 % bootstrap intervals. The AUC says how often a summary that "
        "people found consistent scores above one that they did not; 0.50 is chance. "
        f"{BESIDE} is the share of the summary's two-word sequences that occur in the document. "
        f"In {result['faithful_higher']} of the project's {result['documents']} examples, the "
        f"faithful summary scores above one with a single fact altered "
        f"({result['documents'] / 2:.0f} by chance)."
    )


def definitions(results: Reader) -> str:
    """Report the offered definitions' agreement with people, on rows that chose none of them."""
    result = results.load("model")["definitions"]
    columns = {
        f"{title}, n = {ones[0]['n']}": {one["name"]: one for one in ones}
        for name, title in ALL_SETS.items()
        for part, ones in result["sets"][f"factcons_{name}"].items()
        if part != "odd"
    }
    rows = [
        {"Pearson correlation with people": OPTIONS[name]}
        | {title: interval(ones[name]["pearson"], 2) for title, ones in columns.items()}
        for name in result["offered"]
    ]
    return (
        f"{table(rows)}\n\nWith 95 % bootstrap intervals. Of QAGS, these are the even rows; the "
        "odd ones decided which definitions are offered."
    )


def rivals(results: Reader) -> str:
    """Report QUALS and published metrics on the same summaries of FRANK."""
    blocks = []
    for name, metrics in results.load("model")["rivals"].items():
        title = ALL_SETS[name.removeprefix("factcons_")]
        of_name = {one["name"]: one for one in metrics}
        first = metrics[0]
        rows = [
            {
                f"{title}, n = {first['n']}": shown,
                "Pearson": interval(one["pearson"], 2),
                "Spearman": interval(one["spearman"], 2),
                "AUC": interval(one["auc"], 2),
                "Pearson minus QUALS": "-" if one is first else interval(one["rise"], 2),
            }
            for key, shown in RIVALS.items()
            for one in [of_name[key]]
        ]
        blocks.append(table(rows))
    return "\n\n".join(blocks)


def preset(results: Reader) -> str:
    """Report what the preset `fast` is worth."""
    result = results.load("model_settings")
    default, fast = "default", "30 beams"

    def pearson(name: str, part: str) -> str:
        values = [one[part]["pearson"]["value"] for one in result["quality"][name].values()]
        return " and ".join(f"{value:.2f}" for value in values)

    odd, even = (
        f"{pearson(fast, part)} against {pearson(default, part)}" for part in ("odd", "even")
    )
    return (
        f"Pearson correlation with people on CNN/DM and XSum, against the published 60 beams: "
        f"{odd} on the rows that chose it, {even} on the others. It takes "
        f"{with_spread(result['cost'][fast])} of the time."
    )


def storage(results: Reader) -> str:
    """Report what int8 storage costs."""
    r = results.load("storage")
    labels = " and ".join(
        f"{p['original']:.3f} and {p['stored']:.3f} on {name} (n = {p['n']})"
        for name, p in r["pearson_with_labels"].items()
    )
    return (
        f"On {r['rows']} human-judged summaries, scores with the stored weights differ from those "
        f"with the original by {r['mean_abs_delta']:.3f} on average (at most "
        f"{r['max_abs_delta']:.2f}; the scores' own standard deviation is {r['score_std']:.2f}), "
        f"with Spearman {r['spearman']:.3f} between the two; {percent(r['shared_pairs'])} of the "
        f"kept pairs are the same. Pearson with human labels, original and stored: {labels}."
    )


def qags_models(results: Reader) -> str:
    """Report what QAGS's bundled networks can do."""
    result = results.load("qags_models")
    answering, asking = result["question_answering"], result["question_generation"]
    never = answering["no_answer_never"]
    return (
        f"On {answering['questions']:,} questions of SQuAD dev, its question-answering network "
        f"reaches exact match {never['exact_match']:.1f} and F1 {never['f1']:.1f}; on "
        f"{asking['passages']['questions']:,} of them, its question generator has a perplexity "
        f"of {asking['passages']['perplexity']:.1f} a token."
    )


def conseq_experiment(results: Reader) -> str:
    """Report what ConSeq with QUALS came to."""
    result = results.load("conseq_experiment")
    return (
        f"{verdict(result)} Trained on {result['selection']['quals']['chosen']} documents, "
        f"measured on {result['texts']['held_out']}."
    )


# Tokens of a batch by default, on a CPU and a GPU; and fewer for a small GPU.
_BUDGETS = {"CPU": 32_768, "16 GB GPU": 65_536, "80 GB GPU": 327_680}
_SMALL_GPU = 1 / 20  # of the large GPU's rate: assumed


def model_costs(results: Reader) -> str:
    """Report what models of full size would cost, by counts and the rates of other benchmarks."""
    result = results.load("model_costs")
    timed, model = results.load("end_to_end"), "bart-base"
    here = machine_of(timed, model)
    on_cpu = timed["cases"][model]["workloads"]["long"]["floor"]["float32"]
    on_gpu = results.load("throughput_gpu")
    largest = on_gpu["batches"][max(on_gpu["batches"], key=int)]["floor"]
    cpu, gpu = (sum(one["gflop"].values()) / one["seconds"] for one in (on_cpu, largest))
    rates = {"CPU": cpu, "16 GB GPU": _SMALL_GPU * gpu, "80 GB GPU": gpu}

    def cell(name: str, one: dict[str, Any]) -> str:
        memory = _gigabytes(name, one)
        if name == "16 GB GPU" and memory > 16:
            return f"{memory:.1f} GB do not fit"
        return f"{_time(sum(one['gflop_a_pair'].values()) / rates[name])}, {memory:.1f} GB"

    rows = [
        {
            "model": name,
            "parameters": f"{one['parameters'] / 1e6:,.0f} M",
            "GFLOP a pair": f"{sum(one['gflop_a_pair'].values()):,.0f}",
            **{
                f"{machine}, {'float32' if machine == 'CPU' else '16 bits'}": cell(machine, one)
                for machine in rates
            },
        }
        for name, one in result["models"].items()
    ]
    mean, bart = result["lengths"], result["models"]["BART-large"]
    return (
        f"{table(rows)}\n\n**Computed from counts, not measured.** A pair has the mean lengths of "
        f"the workload `long` (n = {result['rows']}): {mean['document']:.0f} tokens of document "
        f"(T5 reads 512 at most), {mean['summary']:.0f} of summary, {mean['steps']:.0f} steps of "
        f"60 beams, {mean['pairs']:.0f} kept pairs. Times are for large batches, at the rates that "
        f"this program sustained: {cpu:.0f} GFLOP/s in float32 on {here['threads']} "
        f"cores of an {here['cpu']} (BART-base), which stand for a laptop, and "
        f"{gpu / 1e3:.0f} TFLOP/s in float16 on an {on_gpu['machine']['gpu']} (BART-large). The "
        f"16 GB GPU is assumed to reach a twentieth of that; a T5 needs bfloat16 for it, which "
        f"GPUs before compute capability 8.0 lack. Memory is that of the weights, and of "
        f"the keys and values of a full batch (`--max-batch-tokens`: "
        f"{', '.join(f'{tokens:,} on the {name}' for name, tokens in _BUDGETS.items())}). What "
        f"layers compute in passing comes on top: BART-large was measured at "
        f"{on_gpu['peak_gpu_mib'] / 1024:.0f} GiB on the 80 GB GPU, where this counts "
        f"{_gigabytes('80 GB GPU', bart) * 1e9 / 2**30:.0f}."
    )


def _gigabytes(machine: str, one: dict[str, Any]) -> float:
    """Return the memory of weights, and of keys and values of a full batch, GB."""
    kept = _BUDGETS[machine] * one["kept_of_a_token"]
    if machine == "CPU":  # the LM head is a copy of the embedding, in another order
        return 4 * float(one["parameters"] + one["lm_head"] + kept) / 1e9
    return 2 * float(one["parameters"] + kept) / 1e9


def _time(seconds: float) -> str:
    """Write a time with about two significant digits."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
