"""Sections on what was measured on a GPU, and what was counted without one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.report.results import Reader, Result
from bench.shared.tables import percent, table, with_spread


def settings(results: Reader) -> str:
    """Report the engine's settings against their defaults."""
    result = results.of_gpu("settings")
    if result is None:
        return ""
    rows = [
        {
            "setting": f"`{name}`",
            "one pair: times as fast as the default": _ratio_of_setting(case, "pair"),
            "many pairs in one call": _ratio_of_setting(case, "batch"),
        }
        for name, case in result["settings"].items()
    ]
    return f"{table(rows)}\n\n{_measured_on([result])}"


def remarks(results: Reader) -> str:
    """Report in a line each what else was measured on a GPU."""
    return "\n".join(
        f"- {say(result)}"
        for name, say in (
            ("launches", _profile),
            ("parity_fairseq09", _parity),
            ("attention", _attention),
            ("training_cost", _training),
            ("training_cost_t5", _training),
        )
        if (result := results.of_gpu(name)) is not None
    )


def speed(results: Reader) -> str:
    """Report the engine's speed on a GPU, as far as it has been measured."""
    names = ("latency", "throughput", "end_to_end")
    latency, throughput, end_to_end = map(results.of_gpu, names)
    measured = [one for one in (latency, throughput, end_to_end) if one is not None]
    if not measured:
        return (
            "Nothing has been measured on a GPU yet. On a machine with one, `bench/gpu.sh` "
            "measures everything in under 9 minutes."
        )
    rows, notes = [], []
    if latency is not None:
        ms, share = latency["one_pair_ms"], latency["share_of_floor"]["median"]
        both = f"{ms['p50']:.1f} ms, {ms['p95']:.1f} ms"
        rows.append(_speed_row("one pair alone: median, 95th percentile", both, share))
    if throughput is not None:
        for n, one in throughput["batches"].items():
            speed = f"{with_spread(one['pairs_per_s'], 1)} pairs a second"
            rows.append(_speed_row(f"{n} pairs in one call", speed, one["floor"]["share"]))
    if end_to_end is not None:
        more_rows, note = _against_published(end_to_end)
        rows += more_rows
        notes.append(note)
    notes += [
        "The model is the bundled one, grown to that size (`bench/recipes/grow.py`). The floor is "
        "the time of the least work at the rates measured on the same card (`bench/floor.py`).",
        _measured_on(measured),
    ]
    return f"{table(rows)}\n\n{' '.join(notes)}"


def _speed_row(what: str, speed: str, share: float) -> dict[str, str]:
    return {
        "BART-large's size, workload `long`": what,
        "speed": speed,
        "of the speed at the floor": percent(share),
    }


def _against_published(result: dict[str, Any]) -> tuple[list[dict[str, str]], str]:
    """Return the rows of the comparison with the published pipeline, and what is compared."""
    (of_model,) = result["cases"].values()
    (case,) = of_model["workloads"].values()
    rows = [
        _speed_row(
            f"{case['rows']} pairs in one call, {dtype}, against the published pipeline, float16",
            f"{with_spread(ratio, 1)} times as fast",
            case["floor"][dtype]["share"],
        )
        for dtype, ratio in sorted(case["speedup_vs_reference"].items())
    ]
    agreement = "; ".join(
        f"{_compared(name)}: {percent(one['identical_sequences'])} of the kept pairs the same, "
        f"mean difference of a score {one['mean_abs_delta']:.2f} ({one['rows']} rows)"
        for name, one in case["agreement"].items()
    )
    return rows, (
        "The published pipeline runs on Hugging Face's modules in batches of 5 summaries and 30 "
        "pairs and, on a GPU, in float16, as its authors ran it. Agreement with float16 on either "
        f"side, which is no test of equality: {agreement}."
    )


def _compared(name: str) -> str:
    """Say which programs an agreement is of; the reference computes in float16 on a GPU."""
    one, other = name.split("_vs_")
    return f"{one} against {'the pipeline in float16' if other == 'reference' else other}"


def _ratio_of_setting(case: dict[str, Any], what: str) -> str:
    if what not in case:
        return "not tried"
    rows = "" if what == "pair" else f"{case['rows']} pairs: "
    delta = case[what]["max_abs_difference"]
    changed = f"; scores differ by {delta:.0e}" if delta else ""
    return f"{rows}{with_spread(case[what]['speedup_vs_default'])}{changed}"


def _profile(result: dict[str, Any]) -> str:
    parts = []
    for n, seen in result.get("profiles", {}).items():
        plain = seen.get("plain_seconds")
        total = f"{1000 * (plain or seen['seconds']):,.0f} ms"
        total += "" if plain else " under the profiler"
        parts.append(
            f"{n} {'pair' if n == '1' else 'pairs'}, {seen['steps']} steps: "
            f"{1000 * seen['busy_seconds']:,.0f} of {total} ({seen['kernels']:,} kernels)"
        )
    return f"How long the GPU is busy: {'; '.join(parts)}."


def _parity(result: dict[str, Any]) -> str:
    half = result["float16_vs_float32"]
    return (
        f"Equality, {result['model']}: in float32, {percent(result['identical_sequences'])} of "
        f"{result['rows']} summaries get the same sequences as from the slow reference, which "
        f"runs on the CPU; scores differ by {result['max_abs_delta']:.0e} at most. "
        f"float16 against float32, {half['rows']} rows: Spearman {half['spearman']:.3f}, mean "
        f"difference {half['mean_abs_delta']:.3f} (at most {half['max_abs_delta']:.2f}), "
        f"{percent(half['shared_pairs'])} of the kept pairs the same."
    )


def _attention(result: dict[str, Any]) -> str:
    with_, without = (result["seconds_a_pair"][f"with{out}_cudnn"] for out in ("", "out"))
    return (
        f"cuDNN's attention: a pair of a new shape takes {with_['first_s']:.2f} s with it and "
        f"{without['first_s']:.2f} s without ({result['first_ratio']:.1f} times as long, n = 1); a "
        f"shape seen before takes {1000 * with_['later_s']['median']:.1f} and "
        f"{1000 * without['later_s']['median']:.1f} ms ({result['model']})."
    )


def _training(result: dict[str, Any]) -> str:
    (shares,) = result["share_of_step"].values()
    parts = (
        f"{percent(share['median'])} ({workload}, {arm.replace('_', ', cache ')})"
        for workload, arms in shares.items()
        for arm, share in arms.items()
    )
    return f"Scoring's share of a training step of {result['policy']}: {', '.join(parts)}."


def gpu_kernels(results: Reader) -> str:
    """Report the kernels against the fastest of their alternatives in PyTorch."""
    timings = results.operations()
    if not timings:
        return "Not measured yet: `bench/gpu.sh ops` does it."
    cases: dict[tuple[str, str], dict[str, float]] = {}
    for one in timings:
        name = (f"`{one['op']}`, {one['dtype']}", one["config"])
        cases.setdefault(name, {})[one["provider"]] = float(one["p50"])
    ratios: dict[str, dict[str, float]] = {}
    for (op, config), ms in cases.items():
        others = [own for provider, own in ms.items() if provider != "triton"]
        ratios.setdefault(op, {})[config] = min(others) / ms["triton"]
    rows = []
    for op, by_config in ratios.items():
        least, most = (
            f"{by_config[c]:.1f} ({c}; {cases[op, c]['triton']:.3f} ms)"
            for c in (choose(by_config, key=by_config.__getitem__) for choose in (min, max))
        )
        rows.append(
            {
                "kernel": op,
                "sizes": str(len(by_config)),
                "least times as fast (size; its time)": least,
                "most": most,
            }
        )
    every = [ratio for by_config in ratios.values() for ratio in by_config.values()]
    lost = sum(ratio < 1 for ratio in every)
    verdict = f"{lost or 'none'} of them {'lose' if lost > 1 else 'loses'}"
    first = timings[0]
    return (
        f"{table(rows)}\n\nAgainst the fastest of its alternatives in PyTorch, in "
        f"{len(every)} cases: {verdict}. {first['device']}, torch {first['torch']}, "
        f"Triton {first['triton']}, {_commits(timings)}."
    )


def _commits(timings: list[Result]) -> str:
    """Say at which commits the operations were timed."""
    of_op = {one["op"]: one["commit"] for one in timings}
    usual = timings[0]["commit"]
    others = [f"`{op}` {commit}" for op, commit in of_op.items() if commit != usual]
    return f"commit {usual}" + (f" ({', '.join(others)})" if others else "")


def launches(results: Reader) -> str:
    """Report the kernels that the pass of a GPU launches, as counted without one."""
    result = results.load("launches")
    rows = []
    for pairs, of in result["counts"].items():
        parts = ", ".join(f"{part} {n}" for part, n in of["outside"].items() if n)
        rows.append(
            {
                "pairs": pairs,
                "kernels a step before an end is allowed": str(of["step_early"]),
                "a step after that": str(of["step"]),
                "of these matrix products": str(of["step_products"]),
                "to test for the end, a graph or step": str(of["stop"]),
                "outside of the steps": f"{sum(of['outside'].values())} ({parts})",
                "blocking reads": str(of["blocking_reads"]),
                "graphs hold": f"{of['graph_mib']:,.0f} MiB" if of["graph_mib"] else "no graphs",
            }
        )
    m = result["machine"]
    return (
        f"{table(rows)}\n\nBART-large's shape with a byte-level tokenizer, 60 beams. "
        "cuBLAS may split a product, which adds a kernel that sums the parts. "
        f"torch {m['versions']['torch']}, commit {m['commit']}."
    )


def _measured_on(results: Iterable[dict[str, Any]]) -> str:
    """Say what results were measured on; they may be of several machines or commits."""
    places = []
    for result in results:
        m = result["machine"]
        v = m["versions"]
        places.append(
            f"{m['gpu']}, driver {m['driver']}, torch {v['torch']}, Triton {v['triton']}, commit "
            f"{m['commit']}{' with uncommitted changes' if m['dirty'] else ''}"
        )
    return f"{'; '.join(dict.fromkeys(places))}."
