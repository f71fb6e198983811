"""Sections on what the bundled calibration's probabilities are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.report.results import Reader, Result
from bench.shared.tables import interval, percent, table

SETS = {
    "qags_cnndm": "QAGS-CNN/DM, even rows",
    "qags_xsum": "QAGS-XSum, even rows",
    "frank_valid_cnndm": "FRANK-CNN/DM, half of the documents",
    "frank_valid_xsum": "FRANK-XSum, half of the documents",
    "all": "all of these",
}
KINDS = (("qags_cnndm", "frank_valid_cnndm"), ("qags_xsum", "frank_valid_xsum"))
SHIPPED, QAGS = "both", "qags"


def probability(results: Reader) -> str:
    """Report the bundled calibration on documents that it has not seen, beside base rates."""
    result = results.load("calibration")
    shipped = {name: result["unseen"][name][SHIPPED] for name in SETS}
    fitted = result["fitted"][SHIPPED]
    figures = table(
        [
            {
                "summaries of documents not seen": title,
                "rows": str(shipped[name]["calibration"]["n"]),
                "people": percent(shipped[name]["mean_label"]),
                "Brier score": f"{shipped[name]['calibration']['brier']:.3f}",
                "log loss": f"{shipped[name]['calibration']['log_loss']:.3f}",
                "ECE": f"{shipped[name]['calibration']['ece']:.3f}",
                "saved on one constant": _saved(shipped[name], "base_rate"),
                "saved on the set's own": _saved(shipped[name], "base_rate_of_set"),
            }
            for name, title in SETS.items()
        ]
    )
    helped = [name for name in SETS if name != "all" and _low(shipped[name]) > 0]
    others = [name for name in SETS if name not in (*helped, "all")]
    one_constant = shipped["all"]["base_rate"]
    of_qags = result["unseen"]["qags_xsum"][QAGS]["calibration"]
    return "\n\n".join(
        [
            figures,
            "People: the mean label. Saved: the Brier score of a probability that is always the "
            "same, minus the calibration's; positive is better than the constant; with 95 % "
            f"bootstrap intervals over documents. One constant: {one_constant['probability']:.2f}, "
            "the mean label of the rows that the curve was fitted to. The set's own: their mean "
            "within that set, for those who know which set a summary is of.",
            "Over all of these rows, the Brier score of one constant is "
            f"{one_constant['brier']:.3f}, that of the best constant for either kind of summary, "
            f"CNN/DM and XSum, is {_best_by_kind(shipped):.3f}, and the calibration's is "
            f"{shipped['all']['calibration']['brier']:.3f}.",
            f"For those who know the set, the score adds something measurable on {_named(helped)}, "
            f"but not on {_named(others)}.",
            table(
                [
                    {
                        "probability": f"{one['low']:.1f} to {one['high']:.1f}",
                        "rows": str(one["n"]),
                        "mean probability": f"{one['probability']:.2f}",
                        "people": f"{one['share']:.2f}",
                    }
                    for one in shipped["all"]["calibration"]["bins"]
                ]
            ),
            f"Fitted to {fitted['rows']} summaries of {fitted['documents']} documents, "
            f"{result['form']}, which was chosen by cross-validated log loss on QAGS's odd rows. "
            "A curve fitted to QAGS's odd rows alone has a Brier score of "
            f"{result['unseen']['all'][QAGS]['calibration']['brier']:.3f} on all of these rows "
            f"and {of_qags['brier']:.3f} on QAGS-XSum.",
        ]
    )


def _best_by_kind(shipped: Mapping[str, Any]) -> float:
    """Return the Brier score of the best constant for each kind: its mean label on these rows."""
    total = 0.0
    for names in KINDS:
        counts = [shipped[name]["calibration"]["n"] for name in names]
        labels = [shipped[name]["mean_label"] for name in names]
        mean = float(np.average(labels, weights=counts))
        total += sum(counts) * mean * (1 - mean)
    return total / shipped["all"]["calibration"]["n"]


def _saved(measured: Result, constant: str) -> str:
    """Write how much lower the Brier score is than a constant's."""
    if constant not in measured:
        return ""
    return interval(measured[constant]["brier_saved"], 3, signed=True)


def _low(measured: Result) -> float:
    low: float = measured["base_rate_of_set"]["brier_saved"]["low"]
    return low


def _named(names: list[str]) -> str:
    titles = [SETS[name].partition(",")[0] for name in names]
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if titles[1:] else titles) or "none"
