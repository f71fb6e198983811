"""The section on two jobs at once."""

from __future__ import annotations

from bench.report.results import Reader
from bench.shared.tables import table, where, with_spread


def two_jobs(results: Reader) -> str:
    """Report how fast one job is alone and beside a second one."""
    result = results.where_measured("two_jobs")
    if result is None:
        return "Not measured yet: `python -m bench.two_jobs` does it."
    rows = [
        {
            "program": program,
            "threads of each job": threads,
            "one job alone, pairs per second": with_spread(one["alone"]),
            "each of two jobs": with_spread(one["each"]),
            "both together": with_spread(one["both"]),
            "slower job, of one alone": with_spread(one["slower_over_alone"]),
        }
        for program, by_threads in result["pairs_per_s"].items()
        for threads, one in by_threads.items()
    ]
    return (
        f"{table(rows)}\n\nTexts of the workload `long`, {result['cores']} cores. If nothing were "
        "lost, each of two jobs would have half of the speed of one alone with a thread per core, "
        f"and all of it with half as many threads. {where(result)}"
    )
