"""Shares of votes, agreement between annotators, and a metric's agreement with them."""

import json
import math
from pathlib import Path

import pytest
from messages import says
from studies import SYSTEMS, pairs, study, write_votes

from quals_fast.errors import InputError
from quals_fast.study.design import draw
from quals_fast.study.outcome import attribute_outcome, metric_outcome, reliability
from quals_fast.study.votes import read_study

NAN = None  # in a file
BART, PEGASUS = SYSTEMS
SIGNATURE = "quals|model:toy@0123"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def key(of):
    Path("key.json").write_text(json.dumps(of.to_dict()))
    return "key.json"


# The examples of Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), sections A to C.
@pytest.mark.parametrize(
    ("observers", "alpha"),
    [
        (["0100000010", "1110010000"], 0.095),
        (["aabbdcccedda", "babbbccceddd"], 0.692),
        (["123321412   ", "1233224125  ", " 33323422513", "12332441251 "], 0.743),
    ],
    ids=["binary", "nominal", "missing"],
)
def test_alpha_is_that_of_the_published_examples(observers, alpha):
    units = [[value for value in unit if value != " "] for unit in zip(*observers, strict=True)]
    assert reliability(units)[1] == pytest.approx(alpha, abs=0.0005)


def test_agreement_of_votes():
    assert reliability([[1, 1], [0, 0], [1]]) == (1, 1)
    assert reliability([[1, 1, 0]])[0] == pytest.approx(1 / 3)
    same, alpha = reliability([[0, 0], [0, 0]])  # nothing to agree on
    assert same == 1 and math.isnan(alpha)
    assert all(map(math.isnan, reliability([[1], []])))


def outcome_of(of, *ballots, attribute="consistency"):
    files = [write_votes(of, number, *answers) for number, answers in enumerate(ballots, start=1)]
    return attribute_outcome(attribute, read_study(files, key(of))[1], n_resamples=200)


def test_shares_are_of_systems_and_weigh_pairs_alike():
    of = study(4, n_annotators=3)
    one = outcome_of(of, [BART, BART, "equal", PEGASUS], [BART, None, "equal", BART], [BART])
    assert (one.n_pairs, one.n_votes) == (4, 8)
    shares = [one.first_better, one.equal, one.second_better]
    assert [share.value for share in shares] == pytest.approx([(1 + 1 + 0.5) / 4, 0.25, 0.125])
    for share in shares[::2]:
        assert 0 <= share.low < share.value < share.high <= 1
    assert one.to_dict()["equal"]["value"] == 0.25


def test_pairs_that_are_all_alike_have_no_interval():
    one = outcome_of(study(3, n_annotators=1), [BART] * 3)
    for share, value in ((one.first_better, 1), (one.equal, 0)):
        assert share.value == value
        assert math.isnan(share.low) and math.isnan(share.high)


def test_an_attribute_without_votes_has_no_shares():
    of = study(2, n_annotators=2)
    first = write_votes(of, 1, BART)
    content = json.loads(Path(first).read_text())
    for vote in content["votes"]:
        vote["grammar"] = None
    Path(first).write_text(json.dumps(content))
    ballots = read_study([first], key(of))[1]
    one = attribute_outcome("grammar", ballots, n_resamples=10)
    assert (one.n_votes, one.to_dict()["equal"]["value"], one.to_dict()["alpha"]) == (0, None, None)
    assert attribute_outcome("consistency", ballots, n_resamples=10).first_better.value == 1


def test_votes_of_any_number_of_annotators_in_any_order():
    of = study(2, n_annotators=3)
    files = [write_votes(of, 3, BART, None), write_votes(of, 1, None, "equal")]
    read, ballots = read_study([*files, key(of)], None)  # the key among the votes
    assert read == of
    assert [(one.annotator, one.n_answers) for one in ballots] == [(1, 3), (3, 3)]
    assert ballots[0].votes["grammar"] == {1: 0} and ballots[1].votes["grammar"] == {0: 1}
    assert read_study(files, None)[0] == of  # the key beside them


def scores(name, values, **changes):
    rows = [
        {"id": str(i), "score": value, "status": "ok", "signature": SIGNATURE} | changes
        for i, value in enumerate(values)
    ]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def test_a_metric_is_compared_with_the_majority():
    """Seven documents, of which the last has no vote; the others' scores are of no concern."""
    of = draw(pairs(9), systems=SYSTEMS, n_pairs=7, n_annotators=3, seed=0)
    wanted = [BART, PEGASUS, BART, PEGASUS, "equal", BART, None]
    ballots = [
        write_votes(of, 1, *wanted),
        write_votes(of, 2, *wanted[:4], BART),
        write_votes(of, 3, PEGASUS, *wanted[1:4], PEGASUS),
    ]
    ballots = read_study(ballots, key(of))[1]
    first, second = [9.0] * 9, [9.0] * 9
    pairs_of = [
        (-1, -2),  # as people
        (-2, -1),  # as people
        (-3, -1),  # not
        (-1, -1.0009),  # a tie
        (-1, -2),  # people are undecided
        (NAN, -1),  # no score
        (0, -9),  # no vote
    ]
    for pair, (of_first, of_second) in zip(of.pairs, pairs_of, strict=True):
        first[pair.summaries[0].id], second[pair.summaries[1].id] = of_first, of_second
    files = (scores("a.jsonl", first), scores("b.jsonl", second))
    one = metric_outcome(of, ballots, files, n_resamples=200)
    assert (one.metric, one.signature) == ("QUALS", SIGNATURE)
    assert (one.n, one.n_ties, one.n_missing, one.n_undecided) == (4, 1, 1, 1)
    assert one.agreement.value == 2.5 / 4
    swapped = metric_outcome(of, ballots, files[::-1], n_resamples=200)
    assert swapped.agreement.value == 1.5 / 4


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda: scores("b.jsonl", [1.0] * 2), "b.jsonl must have the scores of pegasus, but … id"),
        (lambda: scores("b.jsonl", [1.0] * 4, id="x"), "pegasus has the id 'x' twice"),
        (
            lambda: scores("b.jsonl", [1.0] * 4, signature="quals|model:other"),
            "not comparable, but a.jsonl has model:toy@0123 and b.jsonl has model:other; score",
        ),
        (lambda: write_votes(study(4), 1, name="v.json"), "must be a file that quals-fast score"),
    ],
    ids=["short", "twice", "signature", "no-scores"],
)
def test_scores_that_do_not_fit(second, message):
    of = study(4)
    ballots = read_study([write_votes(of, 1, BART)], key(of))[1]
    files = (scores("a.jsonl", [1.0] * 4), second())
    with pytest.raises(InputError, match=says(message)):
        metric_outcome(of, ballots, files, n_resamples=2)
