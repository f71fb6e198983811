"""The section on the article's table: what one command says of the ConSeq experiment's systems."""

from __future__ import annotations

from typing import Any

from bench.report.results import Reader
from bench.shared.tables import interval, table
from quals_fast.comparison import ALPHA


def evaluation_table(results: Reader) -> str:
    """Report means and differences of the three systems; nothing where they were not measured."""
    result = results.where_measured("evaluation_table")
    if result is None:
        return ""
    measures, baseline = result["measures"], result["baseline"]
    means = table(
        [
            {"system": system}
            | {one["name"]: f"{one['means'][system]:.{_digits(one)}f}" for one in measures}
            for system in result["systems"]
        ]
    )
    differences = table(
        [
            {f"minus {baseline}": system}
            | {one["name"]: _difference(one, index) for one in measures}
            for index, system in enumerate(result["systems"][1:])
        ]
    )
    left_out = result["n_without_score"]
    return "\n\n".join(
        [
            "<!-- not run: on summaries that the experiment left -->\n"
            f"```sh\n{result['command']}\n```",
            f"Means over {result['n_documents']} documents"
            + (f" ({left_out} more lack a score of some system):" if left_out else ":"),
            means,
            f"Differences to {baseline}, document by document, with 95 % paired bootstrap "
            f"intervals; * where p of the paired randomisation test is below {ALPHA:g}:",
            differences,
        ]
    )


def _difference(measure: dict[str, Any], index: int) -> str:
    one = measure["differences"][index]
    mark = "*" if one["p_value"] < ALPHA else ""
    return interval(one["difference"], _digits(measure), signed=True) + mark


def _digits(measure: dict[str, Any]) -> int:
    return 1 if measure["name"] == "words" else 3
