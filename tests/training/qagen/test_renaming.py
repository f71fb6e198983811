"""What is renamed is renamed everywhere, and answers still stand in their texts."""

import random
from dataclasses import replace

import pytest
import tiny_models
from town import line

from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.training.qagen.batches import Examples
from quals_fast.training.qagen.corpus import read_corpus
from quals_fast.training.qagen.encoding import PairEncoder
from quals_fast.training.qagen.renaming import Renamer, shape, whole_words
from quals_fast.training.qagen.views import Example

TEXT = "Queen Anne opened it in May 1969, and Queen Annerl came in 1969."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Queen Anne", "Aa Aa"),
        ("O'Neill", "Aa"),
        ("1969", "9999"),
        ("4,200", "9,999"),
        ("May 1969", "Aa 9999"),
        ("the Queen", None),
        ("forty", None),
        ("A", None),
        ("", None),
        ("One Two Three Four Five", None),
    ],
)
def test_shapes(answer, expected):
    assert shape(answer) == expected


@pytest.fixture
def renamer(write):
    rows = [
        line("King Bob won in June 1234 and 1234.", "King Bob", "1234", "June 1234"),
        line(TEXT, "Queen Anne", "1969", "May 1969"),
    ]
    return Renamer(read_corpus([write("a.jsonl", rows)]))


def all_of(renamer, example, others):
    """Return all ways in which an example is renamed, by its text."""
    found = (renamer.rename(example, others, random.Random(seed)) for seed in range(60))
    return {own.text: (own, more) for own, more in found}


def test_a_name_changes_in_text_question_and_answers(renamer):
    example = Example("Did Queen Anne open it?", TEXT, "Queen Anne", 0)
    others = [("When?", "May 1969", 24), ("Who opened it in May 1969?", "by Queen Anne", -1)]
    found = all_of(renamer, example, others)
    assert len(found) == 4
    text = "King Bob opened it in June 1234, and Queen Annerl came in 1969."
    assert found[text] == (
        Example("Did King Bob open it?", text, "King Bob", 0),
        [("When?", "June 1234", 22), ("Who opened it in June 1234?", "by King Bob", -1)],
    )
    assert found[TEXT] == (example, others)


def test_a_number_within_a_changed_date_does_not_change_for_itself(renamer):
    example = Example("When?", TEXT, "May 1969", 24)
    for own, others in all_of(renamer, example, [("Year?", "1969", 59)]).values():
        assert own.text[own.start :].startswith(own.answer)
        ((_, year, place),) = others
        assert own.text[place:].startswith(year)
    # In the date's own place the year is not found any more once the date is another.
    dated = all_of(renamer, example, [("Year?", "1969", 28)])
    assert set(dated) == {TEXT, TEXT.replace("1969", "1234")}


def test_two_names_do_not_become_one(renamer):
    text = "Queen Anne met King Bob, and it took 5,000 men and 5 years."
    found = all_of(renamer, Example("Who?", text, "Queen Anne", 0), [("Whom?", "King Bob", 15)])
    assert set(found) == {text}


def test_a_number_is_not_found_in_a_longer_one():
    pattern = whole_words(["5", "12.5"])
    assert pattern.findall("5 of 5,000, 2.5 and 12.5; 55, 5. A5, (5)") == ["5", "12.5", "5", "5"]


def test_without_another_answer_of_the_shape_nothing_changes(renamer):
    example = Example("How many?", "It has 12 arches.", "12", 7)
    assert all_of(renamer, example, []) == {example.text: (example, [])}


def test_a_share_of_the_texts_is_renamed_in_training_only(write, base, settings):
    names = ["Anne", "King"] * 30
    rows = [line(f"{name} won the game.", name) for name in names]
    corpus = read_corpus([write("a.jsonl", rows)])
    encoder = PairEncoder(tiny_models.wordpiece_tokenizer(), read_checkpoint(base)[1], 64)

    def shown(renamed, view=None):
        own = replace(settings, renamed=renamed, epochs=5)
        examples = Examples(corpus, encoder, own, view)
        return [examples[place] for place in range(len(examples))]

    plain, some, every = shown(0.0), shown(0.2), shown(1.0)
    changed = [sum(a != b for a, b in zip(plain, one, strict=True)) for one in (some, every)]
    # Half of the renamed answers are drawn to be, and half of these become another one.
    assert changed == pytest.approx([0.2 * 0.25 * len(plain), 0.25 * len(plain)], abs=15)
    assert shown(0.8, "passage") == shown(0.0, "passage")
