"""Sections on what models and their scores are worth."""

from __future__ import annotations

from bench.report.results import Reader
from bench.shared.tables import interval, percent, table, with_spread
from bench.studies.conseq_experiment.page import verdict

SETS = {"cnndm": "QAGS-CNN/DM", "xsum": "QAGS-XSum"}
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
