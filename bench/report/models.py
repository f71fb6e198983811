"""Sections of README.md on what models and their scores are worth."""

from __future__ import annotations

from bench.report.results import load
from bench.shared.tables import interval, percent, table

SETS = {"cnndm": "QAGS-CNN/DM", "xsum": "QAGS-XSum"}


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
    for name, title in SETS.items():
        metrics = load("model")["with_people"][f"factcons_qags_{name}"]["all"]
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
        verdict = f"By Pearson, above QUALS here: {', '.join(above) or 'no ROUGE'}."
        blocks += [table(rows), verdict]
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
        f"with Spearman {r['spearman']:.3f} between the two; {percent(r['shared_pairs'])} of the "
        f"kept pairs are the same. Pearson with human labels, original and stored: {labels}."
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


def conseq_experiment() -> str:
    """Report what ConSeq with QUALS came to."""
    result = load("conseq_experiment")
    return (
        f"{result['verdict']} Trained on {result['selection']['quals']['chosen']} documents, "
        f"measured on {result['texts']['held_out']}."
    )
