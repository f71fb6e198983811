"""Sections on jobs of many machines."""

from __future__ import annotations

import re

from bench.report.results import Reader, machine_of
from bench.shared.tables import table, where, with_spread
from bench.shared.weights import MODEL

PAIRS = 10_000_000
NODES, NODE_CORES = 100, 16
GPUS = 8


def scale(results: Reader) -> str:
    """Report the rates of the runners on one machine."""
    result = results.where_measured("scale")
    if result is None:
        return "Not measured yet: `python -m bench.scale`."
    first, *_ = result["rows_per_s"]
    rows = [
        {
            "runner": arm,
            "rows a second": with_spread(rate),
            "start, seconds": with_spread(result["start_s"][arm], 1),
            f"largest difference of a score from {first}": (
                f"{result['agreement'][arm]['max_difference']:.0e}"
                if arm in result["agreement"]
                else "-"
            ),
        }
        for arm, rate in result["rows_per_s"].items()
    ]
    return (
        f"{table(rows)}\n\n{result['rows']} rows of the workload `short` in float32. Start: the "
        "time of a job of one row. Rows a second: of the other rows. With Ray, each file of the "
        f"input has batches of its own, so these are smaller. {where(result)}"
    )


def scale_plan(results: Reader) -> str:
    """Work out how long ten million pairs would take."""
    cpu, gpu = results.load("end_to_end"), results.load("throughput_gpu")
    seconds = cpu["cases"][MODEL]["workloads"]["short"]["seconds_per_summary"]["float32"]["median"]
    m = machine_of(cpu, MODEL)
    cores = m["threads"]
    _, batch = gpu["batches"].popitem()
    rate = batch["pairs_per_s"]["median"]
    (dtype,) = re.findall(r"dtype:(\w+)", gpu["signature"])
    on_cpus = PAIRS * seconds * cores / (NODES * NODE_CORES)
    on_gpus = PAIRS / (GPUS * rate)
    rows = [
        {
            "cluster": f"{NODES} nodes of {NODE_CORES} cores, bundled model, float32",
            "one unit, measured": f"{seconds:.2f} s a pair on {cores} cores ({m['cpu']}, "
            "workload `short`)",
            "arithmetic": f"{PAIRS:,} x {seconds:.2f} s x {cores} cores / "
            f"{NODES * NODE_CORES:,} cores",
            "time": _hours(on_cpus),
        },
        {
            "cluster": f"{GPUS} GPUs, a model of BART-large's size, {dtype}",
            "one unit, measured": f"{rate:.0f} pairs a second on one {gpu['machine']['gpu']} "
            "(workload `long`)",
            "arithmetic": f"{PAIRS:,} / ({GPUS} x {rate:.0f} pairs a second)",
            "time": _hours(on_gpus),
        },
    ]
    return table(rows)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours"
