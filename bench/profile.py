r"""Where does the time of scoring go on a CPU, and how near does each part come to the machine?

    python -m bench.profile --data ../shared/data/docsum_pairs.jsonl.gz

Scores the `long` workload in float32 and in mixed precision, by turns, and takes the time of each
part: of what a part calls, only what is no part of its own counts for it. The products of linear
layers also count their FLOPs, which are held against this machine's rates of large products, in
float32 and in 8-bit integers. Each type's time without the clocks is held against the floor that
`bench.floor` counts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from bench.floor import achieved, rates, works_of
from bench.recipes.grow import folder_of
from bench.shared.arms import EngineArm
from bench.shared.common import finish, spread, texts_of
from bench.shared.engines import torch_engine
from bench.shared.options import command_line
from bench.shared.timing import seconds_of
from bench.shared.weights import weights_of
from bench.shared.workloads import load_workload
from quals_fast.decoding import host_search
from quals_fast.models.integers import Int8Linear, has_fast_int8
from quals_fast.models.linear import OneDnnLinear
from quals_fast.models.slots import DistinctSlots

DTYPES = ("float32", "mixed")
SEARCH, RESCORING, REST = "search", "rescoring", "texts and filter"
HEAD, PRODUCT, ATTENTION, SELECTION = "LM head", "product", "attention", "selection"
NETWORK = "norms, activations, copies"


class Part(NamedTuple):
    """Time and FLOPs of a part."""

    seconds: float
    flops: float


class Clock:
    """Takes the time of nested parts; each second belongs to the innermost."""

    def __init__(self) -> None:
        self._seconds: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._flops: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._inside: tuple[str, ...] = ()
        self._last = time.perf_counter()

    def parts(self) -> dict[tuple[str, ...], Part]:
        """Return what was taken, by the names of the parts that were open, outermost first."""
        self._switch(self._inside)
        return {names: Part(own, self._flops[names]) for names, own in self._seconds.items()}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Take the time of a part."""
        outside = self._inside
        self._switch((*outside, name))
        try:
            yield
        finally:
            self._switch(outside)

    def timed(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that is a part."""

        @wraps(run)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return run(*arguments, **options)

        return timed

    def counted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return the ``forward`` of a linear layer that is a part and counts its FLOPs."""

        @wraps(forward)
        def counted(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
            with self.part(PRODUCT):
                out: torch.Tensor = forward(layer, x)
                self._flops[self._inside] += 2.0 * x.numel() * out.shape[-1]
            return out

        return counted

    def _switch(self, inside: tuple[str, ...]) -> None:
        now = time.perf_counter()
        self._seconds[self._inside] += now - self._last
        self._inside, self._last = inside, now


@contextmanager
def clocked(arm: EngineArm) -> Iterator[Clock]:
    """Give a clock that takes the parts of what the arm scores meanwhile."""
    clock = Clock()
    engine = torch_engine(arm.scorer)
    model = engine.model
    methods: list[tuple[Any, str, str]] = [
        (engine, "search", SEARCH),
        (engine, "rescore", RESCORING),
        *((model.network, name, NETWORK) for name in ("encode", "decode_step")),
        *((model.document_network, name, NETWORK) for name in ("encode_hidden", "decode_packed")),
        *((model.head, name, HEAD) for name in ("topk", "logprob")),
        *((DistinctSlots, name, ATTENTION) for name in ("self_attention", "cross_attention")),
        (F, "scaled_dot_product_attention", ATTENTION),
        (host_search, "group_select_host", SELECTION),
    ]
    with ExitStack() as stack:
        for owner, name, part in methods:
            timed = clock.timed(part, getattr(owner, name))
            if name == "search":  # a generator, which would only begin in its part
                timed = clock.timed(part, _as_list(getattr(owner, name)))
            stack.enter_context(mock.patch.object(owner, name, timed))
        for layer in (OneDnnLinear, Int8Linear, nn.Linear):
            stack.enter_context(mock.patch.object(layer, "forward", clock.counted(layer.forward)))
        yield clock


def _as_list(run: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(run)(lambda *arguments: [*run(*arguments)])


def named(inside: Sequence[str]) -> str:
    """Return the name in the table of the time in these parts, outermost first."""
    if not inside:
        return REST
    stage, *deeper = inside
    if HEAD in deeper:
        return f"{stage}: LM head, {PRODUCT if PRODUCT in deeper else 'softmax and candidates'}"
    for part in (PRODUCT, ATTENTION, NETWORK, SELECTION):
        if part in deeper:
            return f"{stage}: {part if part != PRODUCT else 'products of layers'}"
    return f"{stage}: bookkeeping"


def table_of(clock: Clock) -> dict[str, Part]:
    """Return the parts by their names in the table."""
    found: defaultdict[str, Part] = defaultdict(lambda: Part(0.0, 0.0))
    for inside, part in clock.parts().items():
        one = found[named(inside)]
        found[named(inside)] = Part(one.seconds + part.seconds, one.flops + part.flops)
    return dict(found)


def is_in_int8(part: str, dtype: str) -> bool:
    """Return whether a part's products are in 8-bit integers."""
    return dtype == "mixed" and (HEAD in part or part.startswith(RESCORING))


def main() -> None:
    """Measure, and write bench/results/profile.json."""
    parser = command_line(__doc__, data=None, model="qagen-mini", rows=10, rounds=3)
    arguments = parser.parse_args()
    pairs = load_workload("long", arguments.data, arguments.rows)
    texts = texts_of(pairs)
    folder = folder_of(arguments.model)
    arms = {
        dtype: EngineArm(folder, dtype) for dtype in DTYPES if dtype == "float32" or has_fast_int8()
    }
    for arm in arms.values():
        arm.score(*texts)  # warm-up
    plain: dict[str, list[float]] = {dtype: [] for dtype in arms}
    clocks: dict[str, list[dict[str, Part]]] = {dtype: [] for dtype in arms}
    for _ in range(arguments.rounds):
        for dtype, arm in arms.items():
            plain[dtype].append(seconds_of(arm.score, *texts))
            with clocked(arm) as clock:
                arm.score(*texts)
            clocks[dtype].append(table_of(clock))
    works, measured = works_of(arms["float32"], pairs), rates("cpu", arms)
    result = {
        "model": arguments.model,
        "workload": "long",
        "rows": len(pairs),
        "rates_per_s": measured,
        "dtypes": {
            dtype: {
                "seconds": (own := spread(seconds)),
                "floor_seconds": achieved(folder, works, own["median"], dtype, measured)[
                    "floor_seconds"
                ],
                "parts": _spreads(clocks[dtype], dtype, measured),
            }
            for dtype, seconds in plain.items()
        },
    }
    finish("profile", result, weights=weights_of(arguments.model))


def _spreads(
    rounds: Sequence[dict[str, Part]], dtype: str, measured: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Return each part's seconds, its share of all, and its share of the machine's rate."""
    totals = [sum(part.seconds for part in parts.values()) for parts in rounds]
    found = {}
    for name in rounds[0]:
        own = [parts[name] for parts in rounds]
        rate = measured["int8" if is_in_int8(name, dtype) else "float32"]
        found[name] = {
            "seconds": spread([part.seconds for part in own]),
            "share": spread([part.seconds / all_ for part, all_ in zip(own, totals, strict=True)]),
            "of_rate": spread([part.flops / part.seconds / rate for part in own])
            if own[0].flops
            else None,
        }
    return found


if __name__ == "__main__":
    main()
