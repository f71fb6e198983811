"""What choices in training are worth: what is altered, what is counted, and the page."""

import math
import re

import pytest
import tiny_models
from town import BRIDGE, RIVER

from bench.shared.common import Pair
from bench.studies import choices
from bench.studies.model.page import _choices
from bench.studies.model.quality import rise
from quals_fast import QualsScorer
from quals_fast.training.qagen.corpus import Corpus, Question

DOCUMENT = (
    "On Monday the bridge at Newtown was opened by Queen Anne, not by King Robert. It took 12 "
    "years and 340 men from Oldtown, and it has 15 arches."
)


def pair(summary, number=0):
    return Pair(str(number), DOCUMENT, summary, None)


def test_a_name_or_a_number_becomes_another_of_the_document():
    summaries = ["They say Queen Anne opened it.", "It took 12 years.", "Men of Newtown came."]
    pairs = [pair(text, n) for n, text in enumerate(summaries)]
    found = choices.altered(pairs, 9)
    assert len(found) == 3
    for before, after in found:
        assert before.summary in summaries
        assert after.document == before.document
        changed = {
            "They say King Robert opened it.",
            "It took 15 years.",
            "Men of Monday came.",
            "Men of Oldtown came.",
        }
        assert after.summary in changed
    assert choices.altered(pairs, 2) == found[:2]


@pytest.mark.parametrize(
    "summary",
    ["it has 340 men", "It has 15,000 arches.", "They say " * 30 + "Queen Anne opened it."],
    ids=["no other", "part of a number", "too long"],
)
def test_what_cannot_be_altered_is_passed_over(summary):
    assert choices.altered([pair(summary)], 1) == []


def test_a_rise_is_that_of_the_correlation_on_the_same_rows():
    labels = [0.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 5
    good = [label + n % 3 / 10 for n, label in enumerate(labels)]
    bad = [n % 7 for n in range(30)]
    same = rise(good, good, labels)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0}
    up, down = rise(bad, good, labels), rise(good, bad, labels)
    assert up["value"] == pytest.approx(-down["value"])
    assert 0 < up["low"] < up["value"] < up["high"]
    # A row that one of them has no score for does not count.
    missing = rise([*bad, math.nan], [*good, 5.0], [*labels, 0.0])
    assert missing["value"] == pytest.approx(up["value"])


def test_nats_are_those_of_the_engine(tmp_path):
    folder = tiny_models.write_checkpoint(tmp_path / "m")
    scorer = QualsScorer.from_pretrained(folder, device="cpu", dtype="float32")
    question = Question("who won ?", "1962", RIVER.find("1962"), 0, ("1962",))
    corpus = Corpus([RIVER, BRIDGE], [question], {"T": [0, 1]}, ["T", "T"])
    found = choices.nats(scorer, corpus)
    assert found.keys() == {"short", "long"}
    target = (*scorer.engine.model.tokenizer.encode(["who won ?"])[0].text_ids, 1)
    answer = (*scorer.engine.model.tokenizer.encode(["1962"])[0].text_ids, 4)
    by_text = {}
    for text in (f"{RIVER} {BRIDGE}", f"{BRIDGE} {RIVER}"):
        ((logprobs,),) = scorer.rescore([text], [[target + answer]])
        by_text[text] = {
            "question": -sum(logprobs[: len(target)]) / len(target),
            "answer": -sum(logprobs[len(target) :]) / len(answer),
        }
    assert any(found["long"] == pytest.approx(one, abs=1e-5) for one in by_text.values())
    assert found["short"] != pytest.approx(found["long"], abs=1e-3)


def test_the_page_has_a_row_for_each_model():
    estimate = {"value": 0.5, "low": 0.25, "high": 0.75}
    one = {
        "signature": "s",
        "nats": {part: {"question": 2.0, "answer": 1.0} for part in ("short", "long")},
        "altered": {"n": 10, "higher": 7},
        "tokens": 16.24,
        "with_people": {"set_a": {"pearson": estimate, "rise": estimate | {"value": 0.125}}},
    }
    text = _choices(
        {
            "questions": 1000,
            "data": "dev.jsonl",
            "weights": {"before": {"digest": "0a1b2c"}, "after": {"digest": "3d4e5f"}},
            "models": {"before": one, "after": one},
        }
    )
    rows = [row for row in text.split("\n") if re.match(r"\| (before|after) ", row)]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    shared = ["2.000", "1.000", "2.000", "1.000", "7 of 10", "16.2", "0.500 [0.25, 0.75]"]
    assert cells == [["before", *shared, "-"], ["after", *shared, "0.125 [0.25, 0.75]"]]
    assert "its rise over before" in text
    assert _choices(None) == "Not measured yet: `python -m bench.choices`."
