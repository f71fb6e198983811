"""The section on cross-encoders, which users might pick instead."""

from __future__ import annotations

from bench.cross_encoder import ENCODERS, READERS
from bench.report.results import Reader
from bench.shared.tables import table, where, with_spread
from bench.shared.workloads import WORKLOADS

SHAPES = {"roberta-base": "RoBERTa-base", "flan-t5-base": "FLAN-T5-base"}


def cross_encoder(results: Reader) -> str:
    """Report time and memory of cross-encoders beside QUALS, and what each gives."""
    result = results.where_measured("cross_encoder")
    if result is None:
        return "Not measured yet: `python -m bench.cross_encoder` does it."
    cases = {name: result["workloads"][name] for name in WORKLOADS}
    rows = []
    for name, facts in result["arms"].items():
        row = {"program": f"{_named(name)} (`{facts['dtype']}`)"}
        for workload, case in cases.items():
            row[f"{workload}: seconds per pair"] = with_spread(case["seconds_per_pair"][name])
            longer = case["times_as_long_as_quals"][name]
            row[f"{workload}: times as long as QUALS"] = with_spread(longer)
        if name in ENCODERS:
            reads = [case["work"][name] for case in cases.values()]
            read = "; ".join(f"{one['passes']:.1f}, {one['tokens']:.0f}" for one in reads)
            gives = READERS[ENCODERS[name][0]].gives
        else:
            kept = " or ".join(f"{case['kept_pairs'][name]:.0f}" for case in cases.values())
            read, gives = "", f"a number, {kept} questions with answers, spans of the summary"
        row |= {
            f"passes, tokens ({'; '.join(cases)})": read,
            "peak MiB": f"{facts['peak_mib']:.0f}",
            "gives": gives,
        }
        rows.append(row)
    quals = _named(next(iter(result["arms"])))
    number = next(iter(cases.values()))["rows"]
    return (
        f"{table(rows)}\n\n{number} pairs of each workload, scored together. QUALS in the columns "
        f"of ratios is {quals}. {where(result)}"
    )


def _named(arm: str) -> str:
    if arm not in ENCODERS:
        program, model = arm.split(", ")
        return f"{program}, `{model}`"
    reader = READERS[ENCODERS[arm][0]]
    return f"{SHAPES[reader.shape]}, like {reader.like}"
