"""What examples/conseq_report.md says of a result: verdict, tables, plot, reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.shared.common import is_gpu
from bench.shared.plots import figure
from bench.shared.tables import interval, table, where
from bench.studies.conseq_experiment.outcome import COMPARED

DIGITS = {  # of each measure, after the point
    "QUALS": 3,
    "QAGS": 3,
    "classifier": 3,  # if one was given
    "ROUGE-1": 3,
    "ROUGE-2": 3,
    "ROUGE-L": 3,
    "words": 1,
    "copied bigrams": 3,
    "copied trigrams": 3,
}
JUDGE = "QAGS"  # it had no part in the training
_TEMPLATES = Path(__file__).parent / "templates"


def page(result: dict[str, Any], picture: str) -> str:
    """Return the whole page.

    Args:
        result: of `python -m bench.conseq_experiment`.
        picture: name of the plot's file.
    """
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    arms = {name: of_arm for name, of_arm in result["means"].items() if name != "reference"}
    text = templates.get_template("report.md.j2").render(
        r=result,
        verdict=verdict(result),
        picture=picture,
        quals=result["selection"]["quals"],
        rouge=result["selection"]["rouge"],
        people=result["means"]["reference"],
        mle=result["means"]["MLE"],
        means=_table("summaries of", {"people": result["means"]["reference"], **arms}),
        of_seeds=f"{JUDGE} of each seed: {_by_seed(arms)}.",
        differences=_table("difference", result["differences"], signed=True),
        together=result["quals_with_qags"],
        spearman=interval(result["quals_with_qags"]["spearman"], 2),
        unchanged="; ".join(
            f"{arm} {', '.join(map(str, numbers))}"
            for arm, numbers in result["as_before"].items()
            if arm != "MLE"
        ),
        machine=where(result),
        written_on=_written_on(result),
    )
    return text.rstrip() + "\n"


def verdict(result: dict[str, Any]) -> str:
    """Say whether the article's direction came out, in QAGS, and what else moved."""
    against = {
        other: result["differences"][f"{one} - {other}"]
        for one, other in COMPARED
        if one == "ConSeq-QUALS"
    }
    came_out = all(difference[JUDGE]["low"] > 0 for difference in against.values())
    moved = " and ".join(_moved(difference[JUDGE], other) for other, difference in against.items())
    of_mle = against["MLE"]
    by_classifier = ""
    if "classifier" in of_mle:
        by_classifier = f"By the classifier, it {_moved(of_mle['classifier'], 'MLE')}. "
    return (
        f"The article's direction, QUALS-trained above both baselines in QAGS, "
        f"{'came out' if came_out else 'did not come out'}: ConSeq with QUALS {moved}. "
        f"{by_classifier}In QUALS, which it was trained for, it {_moved(of_mle['QUALS'], 'MLE')}. "
        f"Against MLE, the share of trigrams copied from the document changed by "
        f"{interval(of_mle['copied trigrams'], 3, signed=True)}, the length by "
        f"{interval(of_mle['words'], 1, signed=True)} words."
    )


def _written_on(result: dict[str, Any]) -> str | None:
    """Say on which GPU all but QAGS and ROUGE was done, if it was on one."""
    if not is_gpu(result.get("device", "cpu")):
        return None
    m = result["written_on"]
    return f"{m['gpu']}, driver {m['driver']}; {where({'machine': m})}"


def _moved(difference: dict[str, float], other: str) -> str:
    """Say how something compares with another, by their difference."""
    if difference["low"] > 0:
        compares = "scores above"
    elif difference["high"] < 0:
        compares = "scores below"
    else:
        compares = "does not differ measurably from"
    return f"{compares} {other} ({interval(difference, 3, signed=True)})"


def _table(title: str, rows: dict[str, Any], *, signed: bool = False) -> str:
    return table(
        [
            {title: name}
            | {m: interval(of[m], digits, signed=signed) for m, digits in DIGITS.items() if m in of}
            for name, of in rows.items()
        ]
    )


def _by_seed(arms: dict[str, Any]) -> str:
    return "; ".join(
        f"{arm} {', '.join(f'{value:.3f}' for value in of_arm[JUDGE]['of_seeds'])}"
        for arm, of_arm in arms.items()
    )


def plot(result: dict[str, Any], target: Path) -> None:
    """Draw the differences, a panel for each measure."""
    names = list(reversed(result["differences"]))
    measures = [m for m in DIGITS if m in result["means"]["MLE"]]
    columns = (len(measures) + 1) // 2
    with figure(target, "conseq", 2, columns, figsize=(3 * columns, 4), sharey=True) as (_, axes):
        for axis in axes.flat[len(measures) :]:
            axis.set_axis_off()
        for axis, measure in zip(axes.flat, measures, strict=False):
            for place, name in enumerate(names):
                one = result["differences"][name][measure]
                axis.plot([one["low"], one["high"]], [place, place], color="C0", linewidth=2)
                axis.plot(one["value"], place, "o", color="C0")
            axis.axvline(0, color="grey", linewidth=0.8)
            axis.set(title=measure, yticks=range(len(names)), yticklabels=names)
            axis.margins(y=0.3)
