"""Paste the numbers of bench/results into README.md, between its markers.

    python -m bench.report          writes the README
    python -m bench.report --check  ends with exit code 1 if the README is not what it would write

A section stands between ``<!-- report:NAME -->`` and ``<!-- /report -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from typing import Any

from bench.common import RESULTS, ROOT

README = ROOT / "README.md"
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
    return (
        f"{m['cpu']}, {m['threads']} threads; Python {m['python']}, torch {v['torch']}, "
        f"transformers {v['transformers']}; commit {m['commit']}{dirty}."
    )


def spread(numbers: dict[str, float], digits: int = 2) -> str:
    """Write a median with its spread."""
    low, high = (f"{numbers[key]:.{digits}f}" for key in ("low", "high"))
    return f"{numbers['median']:.{digits}f} ({low} to {high}, n = {numbers['n']})"


def speed() -> str:
    """Report the scorer against the reference."""
    result = load("score")
    rows = []
    for rule in ("fairseq09", "hamming"):
        one = result[rule]
        rows += [
            [
                rule,
                arm,
                spread(one["seconds_per_summary"][arm]),
                "1" if arm == "reference" else spread(one["speedup_vs_reference"]),
                "0" if arm == "reference" else f"{one['max_abs_delta']:.1e}",
            ]
            for arm in ("reference", "eager")
        ]
    header = ["rule", "program", "s a summary", "times as fast", "max abs. difference of score"]
    return f"{table(header, rows)}\n\n{result['rows']} examples, float32. {where(result)}"


def parity() -> str:
    """Report the agreement with the reference on real summaries."""
    result = load("parity")
    rows = [
        [
            rule,
            str(one["rows"]),
            f"{100 * one['identical_sequences']:.0f} %",
            str(len(one["near_ties"])),
            str(len(one["wrong"])),
            f"{one['max_abs_delta']:.1e}",
        ]
        for rule in ("fairseq09", "hamming")
        for one in [result[rule]]
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
        f"with the float16 original by {r['mean_abs_delta']:.3f} on average (at most "
        f"{r['max_abs_delta']:.2f}; the scores' own standard deviation is {r['score_std']:.2f}), "
        f"with Spearman {r['spearman']:.3f} between the two; {100 * r['shared_pairs']:.0f} % of "
        f"the kept pairs are the same. Pearson with human labels, original and stored: {labels}."
    )


def memory() -> str:
    """Report peak memory by rows."""
    result = load("memory")
    peaks = [f"{peak:.0f} MiB at {rows} rows" for rows, peak in result["peak_mib"].items()]
    return f"Peak resident memory of `quals-fast score`: {', '.join(peaks)}."


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
        quals, *rouge = found = load(f"evaluate_qags_{name}")["agreement"]
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


def headline() -> str:
    """Say in a sentence how fast and how equal."""
    one = load("score")["fairseq09"]
    parity = load("parity")
    same = 100 * min(parity[rule]["identical_sequences"] for rule in ("fairseq09", "hamming"))
    return (
        f"On two CPU cores it is {one['speedup_vs_reference']['median']:.1f} times as fast as the "
        f"reference program, which runs the published steps on Hugging Face's modules, with "
        f"{same:.0f} % identical question-answer sequences on {parity['fairseq09']['rows']} real "
        "summaries ([numbers](#speed-memory-and-agreement), [files](bench/results))."
    )


def _estimate(one: dict[str, float]) -> str:
    return f"{one['value']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"


SECTIONS: dict[str, Callable[[], str]] = {
    section.__name__: section
    for section in (headline, speed, parity, storage, memory, examples, evaluate)
}


def render(text: str) -> str:
    """Return the README with its numbers."""
    return SECTION.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    old = README.read_text("utf-8")
    new = render(old)
    if arguments.check:
        sys.exit(old != new and "README.md is out of date: run python -m bench.report")
    README.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
