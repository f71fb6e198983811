"""Which pairs a study is drawn from, and what the draw depends on."""

import pytest
from studies import SYSTEMS, pairs, study

from quals_fast.errors import InputError
from quals_fast.jobs.pairing import Pairing
from quals_fast.jobs.parsing import InputRow
from quals_fast.study.design import Study, draw
from quals_fast.study.pairs import Candidates


def pairing(*texts):
    """Pair (system, document, summary)."""
    found = Pairing(list(SYSTEMS))
    for line, (system, document, summary) in enumerate(texts, start=1):
        row = InputRow(line=line, id=f"r{line}", fields={}, document=document, summary=summary)
        found.add(SYSTEMS[system], document, row)
    return found


def test_candidates_are_pairs_that_differ():
    found = Candidates.of(
        pairing(
            (0, "d1", "a1"), (0, "d1", "a2"), (1, "d1", "b1"), (1, "d1", "b2"), (1, "d1", "b3"),
            (1, "d2", "same  text "), (0, "d2", "same text"),
            (0, " ", "a"), (1, " ", "b"),
            (0, "d3", "a"), (1, "d4", "b"),
            (1, "d5", "b"), (0, "d5", ""),
        )
    )  # fmt: skip
    texts = [(one.document, *(s.text for s in one.summaries)) for one in found.pairs]
    assert texts == [("d1", "a1", "b1"), ("d5", "", "b")]
    assert [s.id for s in found.pairs[0].summaries] == ["r1", "r3"]
    assert list(found.left_out()) == [
        "1 pair with identical summaries left out",
        "1 empty document left out",
        "3 more summaries left out: of several by a system, the first counts",
    ]
    assert list(Candidates().left_out()) == []


def test_a_draw_depends_on_the_seed_only():
    assert study() == study()
    assert study().id == study().id != study(seed=1).id
    assert study().pairs != study(seed=1).pairs
    settings = {"systems": SYSTEMS, "seed": 0}
    drawn = draw(pairs(20), n_pairs=7, n_annotators=3, **settings)
    assert len({one.document for one in drawn.pairs}) == 7
    assert len(set(drawn.orders)) == 3
    for order in drawn.orders:
        assert sorted(one.pair for one in order) == list(range(7))
        assert sum(one.a for one in order) in (3, 4)
    # A system is not A on the same pairs for all.
    sides = [{one.pair: one.a for one in order} for order in drawn.orders]
    assert sides[0] != sides[1] != sides[2]


def test_a_key_is_read_back_unless_it_was_changed():
    drawn = study()
    content = drawn.to_dict()
    assert Study.of_dict(content, "key.json") == drawn
    for change in ({"seed": 9}, {"study": "0"}, {"pairs": 3}, {"systems": None}):
        with pytest.raises(InputError, match=r"key\.json must be a key as quals-fast study wrote"):
            Study.of_dict(content | change, "key.json")
    with pytest.raises(InputError, match="was changed"):
        Study.of_dict({"kind": content["kind"]}, "key.json")
