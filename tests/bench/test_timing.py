"""How benchmarks take time: what runs when, and when rounds end."""

from functools import partial

import pytest

from bench.shared import timing


def test_cases_run_in_turn_and_ratios_are_formed_within_a_round(monkeypatch):
    clock, seconds = [0.0], {"slow": [4.0, 9.0], "fast": [2.0, 3.0]}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    ran = []

    def run(name):
        clock[0] += seconds[name][ran.count(name)]
        ran.append(name)

    taken = timing.in_turn({name: partial(run, name) for name in seconds}, 2)
    assert ran == ["slow", "fast", "slow", "fast"]
    assert taken == seconds
    ratios = timing.ratios(taken["slow"], taken["fast"])
    assert ratios == {"median": 2.5, "low": 2.0, "high": 3.0, "n": 2}


def test_rounds_begin_as_long_as_they_would_end_in_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def rounds(seconds, rounds):
        for number in timing.rounds_within(seconds, rounds):
            clock[0] += 3.0
            yield number

    assert list(rounds(0.0, 5)) == [0]  # the first one in any case
    assert list(rounds(8.9, 5)) == [0, 1]
    assert list(rounds(9.0, 5)) == [0, 1, 2]
    assert list(rounds(99.0, 2)) == [0, 1]


def test_percentiles_are_in_milliseconds():
    found = timing.percentiles_ms([i / 1000 for i in range(101)])
    assert (found["p50"], found["p95"], found["n"]) == pytest.approx((50, 95, 101))


def test_each_begins_in_turn():
    assert [timing.rotated("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert timing.rotated("abc", 1) == ["b", "c", "a"]
