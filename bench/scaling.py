"""How does time grow with document length, beams and rows?

    python -m bench.scaling           100 and 1,000 rows
    python -m bench.scaling --full    5,000 rows, too

Writes bench/results/scaling.json and draws bench/results/scaling.svg. Lengths and beams are
measured in turn, round by round, on workload `short`, with documents cut or joined to each length.
Numbers of rows are measured on workload `short` as it is, with the peak memory of the process so
far, and once each unless `--row-rounds` says otherwise, since thousands of rows take minutes. If
the data has too few rows, they are repeated with rotated sentences (bench/shared/workloads.py), so
use `--data`. With `--row-beams`, many rows become affordable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import RESULTS, Pair, finish, peak_mib, result_name, spread, texts_of
from bench.shared.options import MODELS, command_line
from bench.shared.plots import figure
from bench.shared.timing import in_turn, seconds_of
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload, token_count
from quals_fast import DecodingConfig

LENGTHS = (64, 128, 256, 512, 1024)
BEAMS = (10, 20, 30, 60, 120)
ROWS = (100, 1_000)
FULL_ROWS = 5_000


def seconds_a_pair(
    cases: Mapping[int, tuple[EngineArm, Sequence[Pair]]], rounds: int
) -> dict[str, Any]:
    """Let each case score its rows round by round, after a warm-up; return the seconds a pair."""
    runs = {value: partial(arm.score, *texts_of(rows)) for value, (arm, rows) in cases.items()}
    in_turn(runs, 1)
    return {
        str(value): spread([seconds / len(cases[value][1]) for seconds in own])
        for value, own in in_turn(runs, rounds).items()
    }


def with_length(pairs: Sequence[Pair], tokens: int) -> list[Pair]:
    """Give each row a document of about so many tokens, of the words of its own and the next."""
    adjusted = []
    for index, pair in enumerate(pairs):
        others = [pairs[(index + k) % len(pairs)].document for k in range(len(pairs))]
        words: list[str] = " ".join(others).split()
        while token_count([" ".join(words)])[0] < tokens:
            words += words
        low, high = 1, min(len(words), tokens)  # a word has at least one token
        while low < high:
            middle = (low + high + 1) // 2
            if token_count([" ".join(words[:middle])])[0] <= tokens:
                low = middle
            else:
                high = middle - 1
        adjusted.append(pair._replace(document=" ".join(words[:low])))
    return adjusted


def plot(panels: dict[str, dict[str, Any]], target: Path) -> None:
    """Draw milliseconds a pair over each quantity, with the spread of the rounds."""
    size = (4 * len(panels), 3)
    with figure(target, "scaling", 1, len(panels), figsize=size) as (_, axes):
        for axis, (label, points) in zip(axes[0], panels.items(), strict=True):
            x = [int(value) for value in points]
            y, low, high = (
                [1000 * p[key] for p in points.values()] for key in ("median", "low", "high")
            )
            axis.plot(x, y, "o-", color="tab:blue")
            axis.fill_between(x, low, high, alpha=0.2, color="tab:blue")
            axis.set_xscale("log", base=2)
            axis.set_xticks(x, [f"{value:,}" for value in x])
            axis.minorticks_off()
            axis.set(xlabel=label, ylabel="milliseconds a pair", ylim=(0, 1.15 * max(high)))
            axis.grid(alpha=0.3)


def main() -> None:
    """Measure, write and draw."""
    parser = command_line(__doc__, data=None, device="cpu", dtype="auto", rounds=3)
    parser.add_argument(
        "--model", choices=MODELS, default="qagen-mini", help="as for other benchmarks"
    )
    parser.add_argument("--full", action="store_true", help=f"also measure {FULL_ROWS:,} rows")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=LENGTHS, help="document lengths, in tokens"
    )
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS, help="numbers of beams")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of rows")
    parser.add_argument("--row-beams", type=int, default=60, help="beams when rows are varied")
    parser.add_argument(
        "--row-rounds", type=int, default=1, help="number of rounds when rows are varied"
    )
    parser.add_argument(
        "--batch", type=int, default=20, help="rows when lengths or beams are varied"
    )
    arguments = parser.parse_args()
    sizes = [*arguments.rows, FULL_ROWS] if arguments.full else list(arguments.rows)
    folder = folder_of(arguments.model)
    pairs = load_workload("short", arguments.data, max(*sizes, arguments.batch))
    few = pairs[: arguments.batch]

    def engine(beams: int) -> EngineArm:
        config = DecodingConfig(num_beams=beams, num_beam_groups=beams)
        return EngineArm(folder, arguments.dtype, device=arguments.device, decoding=config)

    arm = engine(arguments.row_beams)
    arm.score(*texts_of(few))
    seconds: dict[int, list[float]] = {n: [] for n in sizes}
    peaks: dict[str, float] = {}
    for _ in range(arguments.row_rounds):  # first, so that the peaks are their own
        for n in sizes:
            seconds[n].append(seconds_of(arm.score, *texts_of(pairs[:n])) / n)
            peaks.setdefault(str(n), peak_mib())
    by_rows = {str(n): spread(own) for n, own in seconds.items()}
    arm = engine(60)
    longest = arm.scorer.engine.model.conventions.max_source_tokens
    lengths = {
        n: (arm, with_length(few, n - 2))  # room for the special tokens
        for n in arguments.lengths
        if n <= longest
    }
    by_length = seconds_a_pair(lengths, arguments.rounds)
    beams = {n: (engine(n), few) for n in arguments.beams}
    by_beams = seconds_a_pair(beams, arguments.rounds)
    medians = [point["median"] for point in by_rows.values()]
    result = {
        "model": arguments.model,
        "dtype": arm.runs_as("dtype"),
        "backend": arm.runs_as("backend"),
        "data": arguments.data.name if arguments.data else "examples",
        "batch": len(few),
        "row_beams": arguments.row_beams,
        "seconds_per_pair": {"document_tokens": by_length, "beams": by_beams, "rows": by_rows},
        "peak_mib": peaks,
        "rows_dearest_over_cheapest": max(medians) / min(medians),
    }
    RESULTS.mkdir(exist_ok=True)
    panels = {
        "document tokens": by_length,
        "beams": by_beams,
        f"rows ({arguments.row_beams} beams)": by_rows,
    }
    plot(panels, RESULTS / f"{result_name('scaling', arguments.device)}.svg")
    finish("scaling", result, arguments.device, weights=weights_of(arguments.model))


if __name__ == "__main__":
    main()
