"""Speed of the scorer against the reference on the bundled model; agreement first, then time.

    pytest bench/bench_score.py --benchmark-enable

Inputs are the project's examples. The ratio of medians, with spread and agreement, goes to
bench/results/score.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.common import EXAMPLES, finish, load_pairs, spread
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.reference.quals import ReferenceScorer

ROWS, ROUNDS, MAX_DELTA = 6, 5, 1e-4
PAIRS = load_pairs([EXAMPLES], ROWS)
TEXTS = [p.document for p in PAIRS], [p.summary for p in PAIRS]
RULES = ("fairseq09", "hamming")
ARMS = ("reference", "eager")


@pytest.fixture(scope="module")
def seconds() -> Iterator[dict[tuple[str, str], list[float]]]:
    """Collect the seconds of each arm and write the result when all have run."""
    measured: dict[tuple[str, str], list[float]] = {}
    yield measured
    result: dict[str, Any] = {"model": "qagen-mini", "rows": ROWS, "dtype": "float32"}
    for rule in RULES:
        arms = {arm: measured[rule, arm] for arm in ARMS if (rule, arm) in measured}
        if len(arms) == len(ARMS):
            ratios = [slow / fast for slow, fast in zip(*arms.values(), strict=True)]
            result[rule] = {
                "speedup_vs_reference": spread(ratios),
                "seconds_per_summary": {
                    arm: spread([value / ROWS for value in values]) for arm, values in arms.items()
                },
                "max_abs_delta": DELTAS[rule],
            }
    finish("score", result)


DELTAS: dict[str, float] = {}


@pytest.fixture(scope="module", params=RULES)
def scorers(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Load both programs under one rule and check that they agree: no agreement, no number."""
    decoding = DecodingConfig(rule=request.param)
    arms: dict[str, Any] = {
        "reference": ReferenceScorer(decoding=decoding),
        "eager": QualsScorer.from_pretrained(device="cpu", backend="eager", decoding=decoding),
    }
    expected, found = (arms[arm].score(*TEXTS) for arm in ARMS)
    for one, other in zip(expected.flat(), found.flat(), strict=True):
        assert [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
    delta = max(abs(a - b) for a, b in zip(expected.scores, found.scores, strict=True))
    assert delta <= MAX_DELTA
    DELTAS[request.param] = delta
    return request.param, arms


@pytest.mark.parametrize("arm", ARMS)
def bench_score(
    benchmark: BenchmarkFixture,
    scorers: tuple[str, dict[str, Any]],
    arm: str,
    seconds: dict[tuple[str, str], list[float]],
) -> None:
    """Time one program on all rows."""
    rule, arms = scorers
    benchmark.group = rule
    benchmark.pedantic(  # type: ignore[no-untyped-call]
        arms[arm].score, args=TEXTS, rounds=ROUNDS, warmup_rounds=1
    )
    if benchmark.stats is not None:  # None where benchmarks are disabled
        seconds[rule, arm] = list(benchmark.stats.stats.data)
