"""Sections on the claim that QUALS is 55 times as fast as QAGS."""

from __future__ import annotations

from bench.report.results import Reader, Result
from bench.shared.tables import table, with_spread
from bench.studies.claim.figures import LIBRARY, RATIOS, each_case, measured_ratio
from bench.studies.claim.verdict import verdict

_COLUMNS = {
    "published_vs_qags_as_shipped": (
        "the article: QUALS as published ({half}) against QAGS as shipped"
    ),
    "speedup_vs_qags_as_shipped": "quals_fast against QAGS as shipped",
    "speedup_vs_qags_batched": "quals_fast against the strongest QAGS",
    "speedup_vs_quals_published": "quals_fast against QUALS as published ({exact})",
}
_WITH_ONEDNN = {
    "onednn_for_qags": "QAGS as shipped against itself with MKL",
    "onednn_for_quals": "QUALS as published against itself with MKL",
    "published_vs_qags_onednn": "QUALS as published against QAGS as shipped",
    "speedup_vs_qags_onednn": "quals_fast against QAGS as shipped",
    "speedup_vs_quals_onednn": "quals_fast against QUALS as published",
}


def claim(results: Reader) -> str:
    """Report the test of "55 times as fast" on a CPU; its verdict is of a GPU as well."""
    result = results.load("claim")
    parts = [
        claim_short(results),
        table(_rows(result, _COLUMNS)),
        "The strongest QAGS is batched, does no work twice and runs in half precision. The "
        "article's programs ran large models on a GPU, QUALS in float16.",
    ]
    if library := _rows(result, _WITH_ONEDNN):
        parts += [
            "In float32, Hugging Face's modules compute matrix products with MKL, and the engine "
            "with oneDNN. So that the library is told from the engine, both programs once more, in "
            "float32 with oneDNN's products:",
            table(library),
        ]
    return "\n\n".join(parts)


def claim_of_gpu(results: Reader) -> str:
    """Report the test on a GPU, where it was made."""
    result = results.of_gpu("claim")
    if result is None:
        return ""
    short = claim_short_of_gpu(results)
    details = "[All arms on the GPU](bench/CLAIM_GPU.md)."
    return "\n\n".join(filter(None, [short, table(_rows(result, _COLUMNS, ", GPU")), details]))


def claim_short(results: Reader) -> str:
    """Answer in a paragraph, of the GPU as well if neither result is of a former model."""
    on_cpu = results.load("claim")
    on_gpu = None if results.former else results.current_of_gpu("claim")
    return verdict(on_cpu) if on_gpu is None else verdict(on_cpu, on_gpu)


def claim_short_of_gpu(results: Reader) -> str:
    """Answer for a GPU, where the paragraph of the CPU does not."""
    result = results.of_gpu("claim")
    is_said = results.current("claim") is not None and not results.former
    return "" if result is None or is_said else verdict(result)


def _rows(result: Result, columns: dict[str, str], place: str = "") -> list[dict[str, str]]:
    """Return a row for each size and workload; none if no column was measured."""
    rows = []
    for size, workload, case in each_case(result["cases"]):
        published = case["facts"]["quals_published"]
        types = {
            "half": case["facts"].get("quals_published_half", published)["dtype"],
            "exact": published["dtype"],
        }
        ratios = {name: measured_ratio(case, (RATIOS | LIBRARY)[name]) for name in columns}
        if any(ratios.values()):
            rows.append(
                {"times as fast": f"{size}, {workload}{place}"}
                | {
                    title.format(**types): "" if ratio is None else with_spread(ratio, 1)
                    for title, ratio in zip(columns.values(), ratios.values(), strict=True)
                }
            )
    return rows
