"""The section on the classifier that stands in for FactCC."""

from __future__ import annotations

from bench.report.models import ALL_SETS
from bench.report.results import Reader
from bench.shared.tables import interval, table


def classifier(results: Reader) -> str:
    """Report how good the classifier is; nothing where it has not been measured."""
    result = results.where_measured("classifier")
    if result is None:
        return ""
    trained, held_out = result["trained_on"], result["held_out"]
    claims = table(
        [
            {
                "made incorrect by": name,
                "incorrect claims": str(one["incorrect"]),
                "balanced accuracy": interval(one["balanced_accuracy"], 2),
            }
            for name, one in held_out["by_rule"].items()
        ]
    )
    summaries = table(
        [
            {
                "summaries that people judged": ALL_SETS[name]
                + (", even rows" if name.startswith("qags") else ""),
                "rows": str(one["rows"]),
                "Pearson": interval(one["with_people"]["pearson"], 2),
                "Spearman": interval(one["with_people"]["spearman"], 2),
                "AUC": interval(one["with_people"]["auc"], 2),
                "balanced accuracy": interval(one["balanced_accuracy"], 2),
            }
            for name, one in result["judged"].items()
        ]
    )
    return "\n\n".join(
        [
            f"Trained on {trained['pairs_seen']:,} pairs of a correct and an incorrect claim, of "
            f"{trained['documents']:,} documents. On {held_out['claims']} correct claims of "
            f"{held_out['documents']} other documents, and what the rules made of them:",
            claims,
            "Chance is 0.5. The score of a summary is the mean probability of its sentences:",
            summaries,
            "For the balanced accuracy, a summary is called correct if all of its sentences are, "
            "and is correct if its label is 1. Intervals are 95 % bootstrap intervals; those of "
            "balanced accuracies are over documents.",
        ]
    )
