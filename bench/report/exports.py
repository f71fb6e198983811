"""Sections on exported graphs."""

from __future__ import annotations

from typing import Any

from bench.report.results import Reader, commits
from bench.shared.tables import percent, table, where, with_spread


def onnx(results: Reader) -> str:
    """Report the exported graphs."""
    result = results.load("onnx")
    rows = [
        {
            "model, workload": f"{model}, {workload}",
            "program": arm,
            "s a summary": with_spread(case["seconds_per_summary"][arm]),
            "times as fast as eager float32": with_spread(case["speedup_vs_eager_float32"][arm]),
            "Spearman with it": "" if one["spearman"] is None else f"{one['spearman']:.4f}",
            "mean, max abs. difference of score": f"{one['mean_abs_delta']:.1e}, "
            f"{one['max_abs_delta']:.1e}",
            "rows with the same pairs": f"{one['identical_rows']} of {one['rows']}",
        }
        for model, of_model in result["cases"].items()
        for workload, case in of_model["workloads"].items()
        for arm, one in case["agreement"].items()
    ]
    starts = [
        f"{model}: {with_spread(one['onnx int8']['seconds'])} s and "
        f"{one['onnx int8']['peak_mib']['median']:.0f} MiB without PyTorch, "
        f"{with_spread(one['torch']['seconds'])} s and "
        f"{one['torch']['peak_mib']['median']:.0f} MiB with it "
        f"({one['slim_of_torch']['seconds']['median']:.2f} and "
        f"{one['slim_of_torch']['peak_mib']['median']:.2f} of these)"
        for model, of_model in result["cases"].items()
        for one in [of_model["start_up"]]
    ]
    return (
        f"{table(rows)}\n\nFrom the start of a process to the score of one short pair, and its "
        f"peak memory: {'; '.join(starts)}. {_aims(result)} {where(result)[:-1]}, ONNX Runtime "
        f"{result['versions']['onnxruntime']}."
    )


def _aims(result: dict[str, Any]) -> str:
    """Say which of the aims for exported graphs are reached, over all models and workloads."""
    models = result["cases"].values()
    cases = [case for of_model in models for case in of_model["workloads"].values()]
    slim = [of_model["start_up"]["slim_of_torch"] for of_model in models]
    speed = min(case["speedup_vs_eager_float32"]["onnx int8"]["median"] for case in cases)
    spearman = min(case["agreement"]["onnx int8"]["spearman"] for case in cases)
    seconds, memory = (max(one[what]["median"] for one in slim) for what in ("seconds", "peak_mib"))
    aims = {
        f"int8 at least 2 times as fast as eager float32 ({speed:.2f})": speed >= 2,
        f"with Spearman of at least 0.99 ({spearman:.4f})": spearman >= 0.99,
        f"without PyTorch under half of the start-up time ({seconds:.2f})": seconds < 0.5,
        f"and of the memory ({memory:.2f})": memory < 0.5,
    }
    said = (f"{aim} {'reached' if is_reached else 'missed'}" for aim, is_reached in aims.items())
    return f"Aims: {', '.join(said)}."


def onnx_exports(results: Reader) -> str:
    """Report exports at larger sizes: what they take, and what their own check found."""
    rows = [
        {
            "model, type": f"{model}, {dtype}",
            "s to export and check": f"{one['seconds']:.0f}",
            "MB of weights": f"{one['weights_bytes'] / 1e6:,.0f}",
            "of the largest graph": f"{one['largest_graph_bytes'] / 1e6:.2f}",
            "mean, max abs. difference of a log-probability, nats": (
                f"{one['parity']['mean_abs_delta']:.1e}, {one['parity']['max_abs_delta']:.1e}"
            ),
            "sequences the same": percent(one["parity"]["identical_sequences"]),
        }
        for model, by_dtype in results.load("onnx_exports")["exports"].items()
        for dtype, one in by_dtype.items()
    ]
    return table(rows)


def install_size(results: Reader) -> str:
    """Report what the slim and the full install take on disk."""
    result = results.load("install_size")
    sizes, python = result["megabytes"], result["machine"]["python"]
    return (
        f"That is {sizes['slim']:,.0f} MB on disk (Python {python}, the virtual environment "
        f"included), against {sizes['full']:,.0f} MB with PyTorch for CPUs "
        f"(`python -m bench.install_size`, commit {', '.join(commits(result))})."
    )
