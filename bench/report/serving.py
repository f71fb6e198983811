"""Sections on the service."""

from __future__ import annotations

from bench.report.results import Reader
from bench.shared.tables import table, where, with_spread


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
            latency = one["latency_ms"]
            rows.append({
                "workload": name,
                "clients": clients,
                "program": arm,
                "requests a second": with_spread(one["requests_per_s"]),
                "ms: median, 95th, 99th percentile": ", ".join(
                    f"{latency[key]:.0f}" for key in ("p50", "p95", "p99")
                ),
            })  # fmt: skip
    ratios = "; ".join(
        f"{name}: " + ", ".join(f"{with_spread(one)} with {n}" for n, one in of_n.items())
        for name, case in result["workloads"].items()
        for of_n in [case["times_as_fast"]]
    )
    added = "; ".join(
        f"{ms:.1f} ms with {n} ({name})"
        for name, case in result["workloads"].items()
        for n, ms in case["added_ms"].items()
    )
    most = max(case["max_abs_delta"] for case in result["workloads"].values())
    starts = ", ".join(f"{with_spread(one)} s {n}" for n, one in result["start_up_s"].items())
    return (
        f"{table(rows)}\n\nTimes as many requests a second as without batching, by clients: "
        f"{ratios}. What the server adds to the library's time of the same pair (median), by "
        f"clients: {added}. Scores differ from the library's by at most {most:.1e} "
        f"({result['dtype']}). From the command to ready: {starts}. {where(result)}"
    )


def memory(results: Reader) -> str:
    """Report the resident memory of a server by number of requests."""
    result = results.where_measured("serve_memory")
    if result is None:
        return ""
    steps = ", ".join(f"{mib:.0f} after {n}" for n, mib in result["resident_mib"].items())
    first = steps.replace(" after", " MiB after", 1)
    return (
        f"Resident memory, with few beams, all requests different, {result['clients']} clients: "
        f"{first} requests (`python -m bench.serve_memory`, commit {result['machine']['commit']})."
    )


def container(results: Reader) -> str:
    """Report the sizes of the slim service."""
    result = results.where_measured("container")
    if result is None:
        return "`python -m bench.container` measures its size, which has not been done yet."
    sizes = result["megabytes"]
    return (
        f"Beside the base image, it holds an environment of {sizes['environment']:,.0f} MB and a "
        f"model of {sizes['model']:,.0f} MB (`python -m bench.container`)."
    )
