"""Which engine settings are fastest on this card? Compares each one with its default.

    python -m bench.gpu.settings --device cuda --model bart-large

A setting is a constant of the engine, patched while its arm runs, or an argument of the scorer.
Each arm has its own scorer; all of them share the loaded model, in one process. Within a round, the
default and the arm score the same rows in turn; a ratio above 1 means that the arm is faster. The
result also has the largest difference of a score. It is written after each setting. Settings that
have been decided are no longer tried; docs/gpu.md lists them.
"""

from __future__ import annotations

import gc
import math
import pkgutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch

from bench.recipes.grow import folder_of
from bench.shared.common import Pair, finish, spread, texts_of
from bench.shared.engines import torch_engine, torch_model
from bench.shared.options import command_line
from bench.shared.timing import ratios
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload
from quals_fast import QualsScorer
from quals_fast.engine.gpu import GpuEngine

WARM_UPS = 5  # a GPU captures its graphs meanwhile, those of smaller batches last
# The first ones matter most, should the time run out.
CONSTANTS: dict[str, tuple[int, ...]] = {
    "quals_fast.models.bart.MAX_FUSED_ROWS": (0, 64, 4096),  # 0: GELU is a kernel of its own
    "quals_fast.engine.fused.MAX_GRAPH_BATCH": (16, 64),
    "quals_fast.decoding.graph.SHRINK": (4, 1000),  # the latter: a batch keeps its size
    "quals_fast.decoding.graph.FIRST_STEPS": (4, 16),
}
ARGUMENTS: dict[str, tuple[int, ...]] = {
    "graph_bytes": (0,),  # no graphs
    "max_batch_tokens": (163_840, 327_680, 655_360),
}
# What makes no difference to a single pair.
OF_BATCHES = (
    "quals_fast.engine.fused.MAX_GRAPH_BATCH",
    "quals_fast.decoding.graph.SHRINK",
    "max_batch_tokens",
)
# What depends on how large a batch is.
OF_LARGE_BATCHES = ("quals_fast.models.bart.MAX_FUSED_ROWS", "max_batch_tokens")


@dataclass(frozen=True, slots=True)
class Arm:
    """A setting: a constant by its full name, or an argument of the engine, and its value."""

    name: str
    value: int

    def __str__(self) -> str:
        return f"{self.name.removeprefix('quals_fast.')}={self.value}"

    @property
    def is_constant(self) -> bool:
        """Whether it is a constant, which must stay patched while the arm runs."""
        return self.name in CONSTANTS

    def run(self, function: Callable[[], Any]) -> Any:
        """Return what a function does under this setting."""
        if not self.is_constant:
            return function()
        with mock.patch(self.name, self.value):
            return function()

    def scorer(self, base: QualsScorer) -> QualsScorer:
        """Return a scorer of the same model with this setting."""
        arguments: dict[str, Any] = {} if self.is_constant else {self.name: self.value}
        return QualsScorer(GpuEngine(torch_model(base), **arguments))


def arms(base: QualsScorer) -> Iterator[Arm]:
    """Yield every setting that is not the default."""
    for name, values in CONSTANTS.items():
        default = pkgutil.resolve_name(name)
        yield from (Arm(name, value) for value in values if value != default)
    for name, values in ARGUMENTS.items():
        default = getattr(base.engine, name, None)
        yield from (Arm(name, value) for value in values if value != default)


def compare(
    base: Callable[[], list[float]], arm: Callable[[], list[float]], rounds: int
) -> dict[str, Any]:
    """Let the default and an arm score the same rows in turn.

    Args:
        base: scores the rows as by default.
        arm: scores them under a setting.
        rounds: that are timed, after the arm has warmed up; the default has done so before.

    Returns:
        Ratio of the seconds, seconds of both, and the largest difference of a score.
    """
    for _ in range(WARM_UPS):
        arm()
    seconds: dict[str, list[float]] = {"default": [], "arm": []}
    scores: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, score in (("default", base), ("arm", arm)):
            start = time.perf_counter()
            scores[name] = score()
            seconds[name].append(time.perf_counter() - start)
    return {
        "speedup_vs_default": ratios(seconds["default"], seconds["arm"]),
        "seconds": {name: spread(own) for name, own in seconds.items()},
        **difference(scores["default"], scores["arm"]),
    }


def difference(expected: Sequence[float], scores: Sequence[float]) -> dict[str, float | int | None]:
    """Return the largest difference of a score, and how many rows have pairs in one list only."""
    both = list(zip(expected, scores, strict=True))
    deltas = [abs(a - b) for a, b in both if not (math.isnan(a) or math.isnan(b))]
    return {
        "max_abs_difference": max(deltas, default=None),
        "rows_with_pairs_in_one_only": sum(math.isnan(a) != math.isnan(b) for a, b in both),
    }


def score_together(scorer: QualsScorer, pairs: Sequence[Pair]) -> list[float]:
    """Return the scores of rows that are scored in one call."""
    return list(scorer.score(*texts_of(pairs)).scores)


def score_singly(scorer: QualsScorer, pairs: Sequence[Pair]) -> list[float]:
    """Return the scores of rows that are scored one by one."""
    return [score for pair in pairs for score in score_together(scorer, [pair])]


def main() -> None:
    """Measure each setting and write bench/results/settings.json."""
    parser = command_line(
        __doc__, data=None, device="cuda", dtype="auto", model="bart-large", rounds=3
    )
    parser.add_argument("--rows", type=int, default=32, help="rows per batch")
    parser.add_argument(
        "--large-rows",
        type=int,
        default=128,
        help="rows per batch if its size is what the setting is about",
    )
    parser.add_argument(
        "--singles", type=int, default=3, help="number of pairs to score one by one"
    )
    arguments = parser.parse_args()
    pairs = load_workload("long", arguments.data, max(arguments.rows, arguments.large_rows))
    base = QualsScorer.from_pretrained(
        folder_of(arguments.model), device=arguments.device, dtype=arguments.dtype
    )
    for _ in range(WARM_UPS):
        score_singly(base, pairs[: arguments.singles])
        score_together(base, pairs[: arguments.rows])
        score_together(base, pairs[: arguments.large_rows])
    settings: dict[str, Any] = {}
    for arm in arms(base):
        scorer = arm.scorer(base)
        rows = arguments.large_rows if arm.name in OF_LARGE_BATCHES else arguments.rows
        settings[str(arm)] = {"rows": rows}
        cases = {"pair": (score_singly, arguments.singles), "batch": (score_together, rows)}
        if arm.name in OF_BATCHES:
            del cases["pair"]
        for what, (score, n) in cases.items():
            settings[str(arm)][what] = compare(
                partial(score, base, pairs[:n]),
                partial(arm.run, partial(score, scorer, pairs[:n])),
                arguments.rounds,
            )
        finish(
            "settings",
            {
                "model": arguments.model,
                "workload": "long",
                "singles": arguments.singles,
                "signature": base.signature,
                "max_batch_tokens": torch_engine(base).max_batch_tokens,
                "settings": settings,
            },
            arguments.device,
            weights=weights_of(arguments.model),
        )
        del scorer  # with its graphs
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
