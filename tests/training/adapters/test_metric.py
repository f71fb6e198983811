"""QualsMetric in torchmetrics: sums, processes, pickles."""

import copy
import logging
import math
import pickle
import sys

import pytest
from tiny_trainers import DOCUMENTS, SUMMARIES

from quals_fast import training
from quals_fast.training import QualsMetric


def test_batches_give_the_mean_of_all(scorer):
    metric = QualsMetric(scorer)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(metric.compute())
    of_first = metric(SUMMARIES[:1], DOCUMENTS[:1])
    metric.update(SUMMARIES[1:], DOCUMENTS[1:])
    scores = scorer.score(DOCUMENTS, SUMMARIES).scores
    assert of_first == pytest.approx(scores[0], abs=1e-6)
    assert metric.compute() == pytest.approx(sum(scores) / 4, abs=1e-6)
    metric.reset()
    metric.update(SUMMARIES[0], DOCUMENTS[0])
    assert metric.compute() == pytest.approx(scores[0], abs=1e-6)


def test_rows_without_a_score_are_counted_and_not_in_the_mean(scorer, caplog):
    metric = QualsMetric(scorer)
    with caplog.at_level(logging.WARNING, "quals_fast.training"):
        metric.update(["?", "", SUMMARIES[0], 7], ["the town", TOWN, DOCUMENTS[0], TOWN])
    assert metric.compute() == pytest.approx(scorer.score(DOCUMENTS[:1], SUMMARIES[:1]).scores[0])
    assert metric.status_counts() == {
        "ok": 1, "no_pairs": 1, "empty_summary": 1, "empty_document": 0, "unknown_text": 0,
        "error": 1,
    }  # fmt: skip
    assert "1 of 4 rows have no score; row 3: `summary` must be a string, but got int" in (
        caplog.text
    )


TOWN = "the town"


def test_a_failing_row_costs_no_other_its_score(failing_scorer, scorer, caplog):
    metric = QualsMetric(failing_scorer)
    metric.update([*SUMMARIES, "the king"], [*DOCUMENTS, TOWN])
    expected = scorer.score(DOCUMENTS, SUMMARIES).scores
    assert metric.compute() == pytest.approx(sum(expected) / 4, abs=1e-6)
    assert metric.status_counts()["error"] == 1
    assert "row 4: RuntimeError: no memory for the king" in caplog.text
    with pytest.raises(RuntimeError, match="no memory for the king"):
        QualsMetric(failing_scorer, on_error="raise").update(["the king"], [TOWN])


def test_wrong_arguments(scorer):
    with pytest.raises(ValueError, match="must have the same length, but got 1 and 2"):
        QualsMetric(scorer).update(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="`on_error` must be 'skip' or 'raise', but got 'none'"):
        QualsMetric(scorer, on_error="none")
    with pytest.raises(ValueError, match="row 0: `summary` must be a string, but got list"):
        QualsMetric(scorer, on_error="raise").update([["a"]], ["c"])


def test_the_model_is_no_part_of_its_state_and_pickles_are_small(scorer):
    metric = QualsMetric(scorer)
    metric.persistent(True)
    metric.update(SUMMARIES[:2], DOCUMENTS[:2])
    assert set(metric.state_dict()) == {"total", "count", "statuses"}
    pickled = pickle.dumps(metric)
    assert len(pickled) < 20_000
    again = pickle.loads(pickled)
    assert copy.deepcopy(metric).scorer is metric.clone().scorer is scorer
    for one in (metric, again):
        one.update(SUMMARIES[2:], DOCUMENTS[2:])
    assert again.compute() == metric.compute()


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "quals_fast.training.adapters.metric")
    with pytest.raises(ModuleNotFoundError, match=r"QualsMetric needs torchmetrics.*\[train\]"):
        _ = training.QualsMetric
