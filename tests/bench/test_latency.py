"""One pair's latency: how engines are compared pair by pair, the section of the page."""

import math

import pytest

from bench.floor import Work
from bench.latency import DEFAULT, Case, agreement, figures, seconds_for
from bench.report.latency import latency
from bench.report.results import Reader
from bench.shared import common
from bench.shared.common import finish
from bench.shared.turns import Turn
from bench.shared.weights import MODEL, weights_of
from quals_fast.models.loading import model_folder

RATES = {"float32": 1e11, "int8": 2e11, "copy": 1e10}


def turn(seconds, score, *kept):
    """What an engine did with one pair."""
    return Turn(seconds, [score], [list(kept)], {})


@pytest.fixture
def case():
    default = [turn(0.1, -1.0, (5, 6), (7,)), turn(0.2, -2.0, (8,)), turn(0.4, math.nan)]
    other = [turn(0.2, -1.25, (7,), (5, 6)), turn(0.6, -9.0, (9,))]
    works = [Work(30, 400, 20, (10, 12))]
    return Case([], works, {DEFAULT: default, "other": other})


def test_scores_are_compared_where_the_pairs_are_the_same(case):
    found = agreement(case.turns["other"], case.turns[DEFAULT][:2])
    assert found["identical_sequences"] == pytest.approx(2 / 3)
    assert (found["rows"], found["rows_same_pairs"]) == (2, 1)  # in any order
    assert (found["max_abs_delta"], found["max_abs_delta_same_pairs"]) == (7.0, 0.25)


def test_nothing_to_compare_has_no_difference():
    found = agreement([turn(0.1, -1.0, (5,))], [turn(0.1, -2.0, (6,))])
    assert found["max_abs_delta_same_pairs"] is None


def test_engines_are_compared_on_the_pairs_that_both_have_scored(case):
    folder = model_folder(MODEL)
    found = figures(case, "other", "float32", folder, RATES)
    assert (found["one_pair_ms"]["n"], found["share_of_floor"]["n"]) == (2, 1)
    assert found["times_as_long_as_default"]["median"] == pytest.approx(2.5)
    own = figures(case, DEFAULT, "mixed", folder, RATES)
    assert own["one_pair_ms"]["p50"] == pytest.approx(200)
    assert own["share_of_floor"]["median"] == pytest.approx(own["floor_ms"]["median"] / 100)
    assert own["floor_ms"]["median"] < found["floor_ms"]["median"]  # with integers
    assert "agreement_with_default" not in own


def test_the_rest_is_estimated_from_the_default_engine(case):
    assert seconds_for([case, case], 10) == pytest.approx(2 * 10 * 0.7 / 3)


def test_the_page_shows_a_result(case, tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert latency(Reader()).startswith("It has not been measured yet")
    engines = {
        name: figures(case, name, dtype, model_folder(MODEL), RATES)
        for name, dtype in ((DEFAULT, "mixed"), ("other", "float32"))
    }
    result = {"workloads": {"short": {"engines": engines}}}
    finish("latency", result, weights=weights_of(MODEL))
    lines = [line for line in latency(Reader()).splitlines() if line.startswith("| short |")]
    assert lines[0].startswith("| short | PyTorch auto (`mixed`) | 3 | 200, 380 | ")
    assert lines[0].endswith(" |  |  |  |")
    assert lines[1].startswith("| short | other | 2 | 400, 580 | ")
    assert lines[1].endswith(" | 2.50 | 66.7 % | 2.5e-01 |")
