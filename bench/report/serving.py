"""Sections on the service."""

from __future__ import annotations

from typing import Any

from bench.report.results import Reader
from bench.shared.tables import interval, table, where, with_spread

PERCENTILES = ("p50", "p95", "p99")
AIMS, STARTS, MOST_ADDED = "1.2 for pairs and 2 for documents", "1.5 and 0.5 s", "5 ms"


def serve(results: Reader) -> str:
    """Report throughput and latency by clients, and start-up."""
    result = results.where_measured("serve")
    if result is None:
        return "It has not been measured yet."
    rows = []
    for name, case in result["workloads"].items():
        arms = [("1", "library in a loop", case["library"])]
        arms += [(n, arm, one) for n, of_n in case["clients"].items() for arm, one in of_n.items()]
        for clients, arm, one in arms:
            rows.append({
                "workload": name,
                "clients": clients,
                "program": arm,
                "requests a second": with_spread(one["requests_per_s"]),
                "of requests": f"{one['latency_ms']['n']}",
                "ms: median, 95th percentile": _ms(one["latency_ms"], "p50", "p95"),
            })  # fmt: skip
    ratios = "; ".join(
        f"{name}: " + ", ".join(f"{with_spread(one)} with {n}" for n, one in of_n.items())
        for name, case in result["workloads"].items()
        for of_n in [case["times_as_fast"]]
    )
    most = max(case["max_abs_delta"] for case in result["workloads"].values())
    starts = ", ".join(f"{with_spread(one)} s {n}" for n, one in result["start_up_s"].items())
    parts = [
        table(rows),
        "Times as many requests a second as without batching, by clients: "
        f"{ratios}; aims with 16: {AIMS}. Scores differ from the library's by at most {most:.1e} "
        f"({result['dtype']}). From the command to ready: {starts}; aims: {STARTS}. "
        f"{where(result)}",
    ]
    if short := result.get("short_requests"):
        parts.insert(1, _short(short))
    return "\n\n".join(parts)


def _short(result: dict[str, Any]) -> str:
    """Say what the server adds to the library's time, and the latency of short requests."""
    added = result["added_ms"]
    clients = "; ".join(
        f"{_ms(one, *PERCENTILES)} ms with {n}" for n, one in result["latency_ms"].items()
    )
    return (
        f"With short requests (documents of {result['document_words']} words, "
        f"{result['settings']['num_beams']} beams), the server adds {interval(added, 1)} ms to the "
        f"library's time of the same pair (median of {added['n']} differences, with its 95 % "
        f"interval; aim: at most {MOST_ADDED}). Median, 95th and 99th percentile of such requests, "
        f"by clients: {clients} (n = {added['n']} each)."
    )


def _ms(latency: dict[str, float], *percentiles: str) -> str:
    return ", ".join(f"{latency[one]:.0f}" for one in percentiles)


def memory(results: Reader) -> str:
    """Report the resident memory of a server by number of requests."""
    result = results.where_measured("serve_memory")
    if result is None:
        return ""
    steps = ", ".join(f"{mib:.0f} after {n}" for n, mib in result["resident_mib"].items())
    first = steps.replace(" after", " MiB after", 1)
    return (
        f"Resident memory with few beams, a cache of {result['settings']['cache_mib']} MiB, "
        f"{result['clients']} clients, nearly all requests different: "
        f"{first} requests (`python -m bench.serve_memory`, commit {result['machine']['commit']})."
    )


def container(results: Reader) -> str:
    """Report the sizes of the slim service."""
    result = results.where_measured("container")
    if result is None:
        return "`python -m bench.container` measures its size, which has not been done yet."
    sizes = result["megabytes"]
    base = result["base_image"].rpartition("/")[2]
    rows = [
        {"part": f"base image, `{base}`", "MB": "not measured: that takes a registry"},
        {"part": "virtual environment", "MB": f"{sizes['environment']:,.0f}"},
        {"part": "exported model, int8", "MB": f"{sizes['model']:,.0f}"},
    ]
    return (
        f"{table(rows)}\n\n`python -m bench.container` ran the file's steps in a new virtual "
        f"environment, and its command gave a score. Python {result['machine']['python']}, commit "
        f"{result['machine']['commit']}."
    )
