"""How many pairs per second in large batches, and what share of the floor is that?

    python -m bench.throughput --device cuda [--rows 64 256] [--model bart-large] [--data FILE]

Texts are the `long` workload; bart-large is the bundled model grown to that size
(bench/recipes/grow.py). Also measures the time of one pair. Warm-up (kernels compiled, graphs
captured) is reported separately. The floor is that of bench/floor.py. The last line printed is
JSON; the result is written after each number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.floor import achieved, rates, works_of
from bench.gpu.pair import seconds_of_each
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import Pair, finish, is_gpu, spread, texts_of
from bench.shared.engines import torch_model
from bench.shared.options import command_line
from bench.shared.timing import percentiles_ms, seconds_of
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload

BATCH, SINGLE = 256, 30  # pairs at once; pairs one after the other
WARM_UPS = 5  # a GPU captures its graphs meanwhile, those of smaller batches last


def measure(
    arm: EngineArm, pairs: Sequence[Pair], rounds: int, folder: Path, rates_per_s: dict[str, float]
) -> dict[str, Any]:
    """Score rows together, round by round; count what they asked for.

    Args:
        arm: the engine.
        pairs: the rows.
        rounds: that are timed.
        folder: of its model.
        rates_per_s: of the machine, as `bench.floor.rates` measures them.
    """
    texts = texts_of(pairs)
    times = [seconds_of(arm.score, *texts) for _ in range(WARM_UPS + rounds)]
    timed = spread(times[WARM_UPS:])
    dtype = arm.runs_as("dtype") or "float32"
    return {
        "warm_up_s": times[:WARM_UPS],
        "pairs_per_s": spread([len(pairs) / seconds for seconds in times[WARM_UPS:]]),
        "floor": achieved(folder, works_of(arm, pairs), timed["median"], dtype, rates_per_s),
    }


def main() -> None:
    """Measure and write bench/results/throughput.json."""
    parser = command_line(
        __doc__, data=None, device="auto", dtype="auto", model="bart-large", rounds=3
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[BATCH], help="pairs at once")
    arguments = parser.parse_args()
    pairs = load_workload("long", arguments.data, max(arguments.rows))
    folder = folder_of(arguments.model)
    arm = EngineArm(folder, arguments.dtype, device=arguments.device)
    device = torch_model(arm.scorer).device.type
    measured = rates(device, [arm.runs_as("dtype") or "float32"])
    weights = weights_of(arguments.model)
    batches: dict[int, dict[str, Any]] = {}
    result = {
        "model": arguments.model,
        "workload": "long",
        "signature": arm.scorer.signature,
        "batches": batches,
    }
    for rows in arguments.rows:
        batches[rows] = measure(arm, pairs[:rows], arguments.rounds, folder, measured)
        if is_gpu(device):
            result["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        finish("throughput", result, device, weights=weights)
    for _ in range(2):
        seconds_of_each(arm, pairs[:SINGLE])
    result["one_pair_ms"] = percentiles_ms(seconds_of_each(arm, pairs[:SINGLE]))
    finish("throughput", result, device, weights=weights)


if __name__ == "__main__":
    main()
