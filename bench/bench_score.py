"""How fast is the scorer against the slow reference? Checks agreement first, then measures time.

    pytest bench/bench_score.py --benchmark-enable

Both programs score the project's examples with the bundled model, in turn. The ratio of each round,
its median and spread, and the agreement go to bench/results/score.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.shared.common import EXAMPLES, finish, load_pairs, spread, texts_of
from bench.shared.timing import ratios, seconds_of
from bench.shared.weights import MODEL, weights_of
from quals_fast import DecodingConfig, QualsScorer
from quals_fast.config import Rule
from quals_fast.reference.quals import ReferenceScorer
from quals_fast.reference.tolerances import QUALS

ROWS, ROUNDS = 6, 5
PAIRS = load_pairs([EXAMPLES], ROWS)
TEXTS = texts_of(PAIRS)


@pytest.fixture(scope="module")
def result() -> Iterator[dict[str, Any]]:
    """Collect what the rules' cases measured and write it when all have run."""
    measured: dict[str, Any] = {"model": MODEL, "rows": ROWS, "dtype": "float32"}
    yield measured
    if "fairseq09" in measured and "hamming" in measured:
        finish("score", measured, weights=weights_of(MODEL))


@pytest.mark.parametrize("rule", ["fairseq09", "hamming"])
def bench_score(benchmark: BenchmarkFixture, rule: Rule, result: dict[str, Any]) -> None:
    """Time the scorer, and in turn with it the reference, under one rule."""
    decoding = DecodingConfig(rule=rule)
    reference = ReferenceScorer(decoding=decoding)
    scorer = QualsScorer.from_pretrained(
        device="cpu", dtype="float32", backend="eager", decoding=decoding
    )
    expected, scored = reference.score(*TEXTS), scorer.score(*TEXTS)
    deltas = []
    for one, other in zip(expected.flat(), scored.flat(), strict=True):
        assert [p.token_ids for p in one.pairs] == [p.token_ids for p in other.pairs]
        deltas.append(abs(one.score - other.score))
        assert deltas[-1] <= QUALS
    slow: list[float] = []

    def time_reference() -> None:
        slow.append(seconds_of(reference.score, *TEXTS))

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        scorer.score, args=TEXTS, setup=time_reference, rounds=ROUNDS
    )
    if benchmark.stats is None:  # benchmarks are disabled
        return
    fast = list(benchmark.stats.stats.data)
    result[rule] = {
        "speedup_vs_reference": ratios(slow, fast),
        "seconds_per_summary": {
            "reference": spread([seconds / ROWS for seconds in slow]),
            "eager": spread([seconds / ROWS for seconds in fast]),
        },
        "max_abs_delta": max(deltas),
    }
