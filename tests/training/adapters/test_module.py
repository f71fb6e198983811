"""QualsModule, with the interface of `evaluate`."""

import math

import pytest
from tiny_trainers import DOCUMENTS, SUMMARIES

from quals_fast.evaluation import mean_interval
from quals_fast.training import QualsModule


def test_one_call_and_added_batches_give_the_same(scorer):
    module = QualsModule(scorer)
    found = module.compute(predictions=SUMMARIES, references=DOCUMENTS)
    assert found["scores"] == scorer.score(DOCUMENTS, SUMMARIES).scores
    assert found["quals"] == pytest.approx(sum(found["scores"]) / 4)
    assert found["quals_low"] < found["quals"] < found["quals_high"]
    assert (found["statuses"], found["signature"]) == (["ok"] * 4, scorer.signature)
    module.add(prediction=SUMMARIES[0], reference=DOCUMENTS[0])
    module.add_batch(predictions=SUMMARIES[1:], references=DOCUMENTS[1:])
    assert module.compute()["scores"] == found["scores"]
    assert module.compute()["scores"] == []


def test_rows_without_a_score(scorer):
    found = QualsModule(scorer).compute(predictions=["", "?", 7], references=["a", "the town", "b"])
    assert found["statuses"] == ["empty_summary", "no_pairs", "error"]
    assert all(map(math.isnan, [found["quals"], found["quals_low"], *found["scores"]]))
    assert [found[f"quals_{n}"] for n in ("scored", "no_pairs", "empty", "error")] == [0, 1, 1, 1]


def test_wrong_arguments(scorer):
    module = QualsModule(scorer)
    with pytest.raises(ValueError, match="`predictions` and `references` must have the same leng"):
        module.compute(predictions=["a"])
    with pytest.raises(TypeError, match="`predictions` must be a list of strings, but got str"):
        module.compute(predictions="a", references="b")


def test_the_interval_of_a_mean():
    found = mean_interval([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5 and 1.0 <= found.low < 2.5 < found.high <= 4.0
    assert mean_interval([1.0, 2.0, 3.0, 4.0]) == found
    one = mean_interval([2.0])
    assert (one.value, one.low, one.high) == (2.0, 2.0, 2.0)
    assert math.isnan(mean_interval([]).value)
