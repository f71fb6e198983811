"""How long does one pair take on a GPU, scored alone, and what share of the floor is that?

    python -m bench.gpu.pair --device cuda [--model bart-large] [--data FILE]

Texts are the `long` workload. All pairs are scored twice beforehand, since a GPU captures its
graphs when a shape occurs for the second time; that time is reported separately. For a CPU, which
has no such first calls, there is `python -m bench.latency`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.floor import achieved, rates, works_of
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import Pair, finish, spread
from bench.shared.options import command_line
from bench.shared.timing import percentiles_ms, seconds_of
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload


def seconds_of_each(arm: EngineArm, pairs: Sequence[Pair]) -> list[float]:
    """Score pairs one after the other; return the seconds of each."""
    return [seconds_of(arm.score, [pair.document], [pair.summary]) for pair in pairs]


def main() -> None:
    """Measure and write bench/results/latency_gpu.json."""
    parser = command_line(__doc__, data=None, device="cpu", dtype="auto", model="bart-large")
    parser.add_argument("--rows", type=int, default=20, help="number of different pairs")
    parser.add_argument("--rounds", type=int, default=5, help="how often each pair is timed")
    arguments = parser.parse_args()
    pairs = load_workload("long", arguments.data, arguments.rows)
    folder = folder_of(arguments.model)
    arm = EngineArm(folder, arguments.dtype, device=arguments.device)
    warm_up = [sum(seconds_of_each(arm, pairs)) for _ in range(2)]
    timed = [seconds for _ in range(arguments.rounds) for seconds in seconds_of_each(arm, pairs)]
    dtype = arm.runs_as("dtype") or "float32"
    measured = rates(arguments.device, [dtype])
    of_pairs = []
    for index, pair in enumerate(pairs):
        arm.score([pair.document], [pair.summary])
        own = statistics.median(timed[index :: len(pairs)])
        of_pairs.append(achieved(folder, works_of(arm, [pair]), own, dtype, measured))
    finish(
        "latency",
        {
            "model": arguments.model,
            "workload": "long",
            "rows": len(pairs),
            "signature": arm.scorer.signature,
            "warm_up_s": warm_up,
            "one_pair_ms": percentiles_ms(timed),
            "share_of_floor": spread([one["share"] for one in of_pairs]),
            "floors": of_pairs,
        },
        arguments.device,
        weights=weights_of(arguments.model),
    )


if __name__ == "__main__":
    main()
