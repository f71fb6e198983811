"""Every message about a text says what was expected, what came and what to do."""

import re
from typing import NamedTuple

import pytest
from messages import says

from quals_fast.validation import (
    check_pair,
    check_same_length,
    check_texts,
    check_token_ids,
    check_tokens,
    require_texts,
    text_problem,
)

NOT_A_STRING = " … convert it to text"

PROBLEMS = [
    pytest.param(None, "`summary` must be a string, but got NoneType" + NOT_A_STRING, id="none"),
    pytest.param(7, "`summary` must be a string, but got int" + NOT_A_STRING, id="int"),
    pytest.param(0.5, "`summary` must be a string, but got float" + NOT_A_STRING, id="float"),
    pytest.param(b"text", "`summary` must be a string, but got bytes" + NOT_A_STRING, id="bytes"),
    pytest.param(["a"], "`summary` must be a string, but got list" + NOT_A_STRING, id="list"),
    pytest.param({}, "`summary` must be a string, but got dict" + NOT_A_STRING, id="dict"),
    pytest.param(
        "ab\0c\0",
        "`summary` must be text … NUL … position 2; remove it",
        id="nul",
    ),
    pytest.param(
        "a\ud800b",
        "`summary` must be valid Unicode … lone surrogate U+D800 at position 1; fix",
        id="high-surrogate",
    ),
    pytest.param(
        "\udcff",
        "`summary` must be valid Unicode … lone surrogate U+DCFF at position 0; fix",
        id="low-surrogate",
    ),
]
FINE = ["", "  ", "a", "é\u2028\U0001f41d", "\ufeff", "\x01\x7f", "x" * 1_000_000]


@pytest.mark.parametrize(("text", "message"), PROBLEMS)
def test_problem_of_a_text(text, message):
    assert re.match(says(message), text_problem("summary", text))


@pytest.mark.parametrize("text", FINE, ids=lambda text: ascii(text)[:12])
def test_text_without_a_problem(text):
    assert text_problem("summary", text) is None


@pytest.mark.parametrize(("text", "message"), PROBLEMS)
@pytest.mark.parametrize("place", ["summary", "document"])
def test_bad_text_makes_an_error(place, text, message):
    pair = {"document": "a document", "summary": "a summary"} | {place: text}
    found = check_pair(**pair)
    assert found is not None
    assert found.status == "error"
    assert re.match(says(message.replace("summary", place)), found.message)
    assert found.score != found.score  # NaN


@pytest.mark.parametrize(
    ("document", "summary", "status"),
    [
        pytest.param("d", "", "empty_summary", id="no-summary"),
        pytest.param("d", " \t\n\r\x0b\x0c\u00a0\u2003\u3000", "empty_summary", id="blank-summary"),
        pytest.param("", "s", "empty_document", id="no-document"),
        pytest.param("\n\n", "s", "empty_document", id="blank-document"),
        pytest.param("", "", "empty_summary", id="neither"),
        pytest.param("", 3, "error", id="wrong-type-before-empty"),
    ],
)
def test_status_of_a_pair_that_cannot_be_scored(document, summary, status):
    found = check_pair(document, summary)
    assert found is not None
    assert found.status == status
    assert (found.message is None) == (status != "error")


def test_good_pair():
    assert check_pair("x" * 1_000_000, "\u200b.") is None


class Counts(NamedTuple):
    n_tokens: int
    unknown_tokens: int
    truncated_tokens: int = 0


@pytest.mark.parametrize(
    ("document", "summary", "status"),
    [
        (Counts(5, 0), Counts(5, 0), None),
        (Counts(4, 2), Counts(6, 3), None),  # half of them
        (Counts(5, 3), Counts(5, 0), "unknown_text"),
        (Counts(5, 0), Counts(5, 3), "unknown_text"),
        (Counts(1, 1), Counts(0, 0), "empty_summary"),
        (Counts(0, 0), Counts(1, 1), "empty_document"),
    ],
)
def test_status_by_tokens(document, summary, status):
    found = check_tokens(document, summary)
    assert status == (None if found is None else found.status)


def test_the_message_says_which_text_is_unknown_and_how_many_tokens():
    found = check_tokens(Counts(9, 7, truncated_tokens=4), Counts(3, 2, truncated_tokens=1))
    assert found is not None
    assert (found.truncated_tokens, found.unknown_tokens) == (5, 9)
    parts = "more than half … 2 of 3 in the summary, 7 of 9 in the document; use a model"
    assert re.match(says(parts), found.message)


INVISIBLE = ["\u200b", "\ufeff", "\u00ad", "\x01\x1f\x7f\x9f", "\u2028\u3000\t", "\u2060", "\u3164"]
INVISIBLE += ["\u200d\ufe0f", "\U000e0041", " \n" * 9]


@pytest.mark.parametrize("text", INVISIBLE, ids=ascii)
def test_invisible_texts_are_empty(text):
    for pair, status in (((text, "s"), "empty_document"), (("d", text), "empty_summary")):
        found = check_pair(*pair)
        assert found is not None
        assert (found.status, found.message) == (status, None)
    assert check_pair(f"{text}a", f"-{text}") is None
    with pytest.raises(ValueError, match=r"`documents\[1\]` must not be empty or blank; leave it"):
        require_texts("documents", ["d", text])


@pytest.mark.parametrize("text", ["\u2800", "\u0301", "\u0600", "\ue000", "\ufffd", "."], ids=ascii)
def test_texts_that_show_something_are_not(text):
    assert check_pair(text, text) is None


@pytest.mark.parametrize(
    ("texts", "name"),
    [("one", "str"), (None, "NoneType"), ({"a"}, "set"), ({}, "dict"), (iter(["a"]), "list_iter")],
    ids=lambda value: str(type(value).__name__),
)
def test_texts_must_be_a_list(texts, name):
    message = f"`documents` must be a list of strings, but got {name} … list … column … list()"
    with pytest.raises(TypeError, match=says(message)):
        check_texts("documents", texts)


@pytest.mark.parametrize("texts", [[], (), ["a"], ("a", None)], ids=repr)
def test_lists_and_tuples_pass(texts):
    assert check_texts("documents", texts) is texts


@pytest.mark.parametrize("lengths", [(0, 1), (2, 1), (3, 40)], ids=str)
def test_lengths_must_agree(lengths):
    documents, summaries = ["d"] * lengths[0], ["s"] * lengths[1]
    message = (
        f"`documents` and `summaries` … same length, but got {lengths[0]} and {lengths[1]}; "
        "give one entry for each document"
    )
    with pytest.raises(ValueError, match=says(message)):
        check_same_length("summaries", summaries, documents)


def test_equal_lengths_pass():
    check_same_length("summaries", ["a", "b"], ["c", "d"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        pytest.param(
            ["a", ""], r"`summaries\[1\]` must not be empty or blank; leave it out", id=""
        ),
        pytest.param([" \n"], r"`summaries\[0\]` must not be empty or blank", id="blank"),
        pytest.param(["a", "b", 3], r"`summaries\[2\]` must be a string, but got int", id="type"),
        pytest.param(["\0"], r"`summaries\[0\]` must be text, but has a NUL", id="nul"),
        pytest.param(["\udfff"], r"`summaries\[0\]` .*surrogate U\+DFFF", id="surrogate"),
    ],
)
def test_required_texts_name_the_index(texts, message):
    with pytest.raises(ValueError, match=message):
        require_texts("summaries", texts)


def test_required_texts_come_back():
    assert require_texts("summaries", ("a", " b ")) == ["a", " b "]
    with pytest.raises(TypeError, match="`summaries` must be a list of strings, but got str"):
        require_texts("summaries", "a")


@pytest.mark.parametrize(
    ("targets", "place", "came"),
    [
        pytest.param([[]], "[0][0]", "0 from 0 to 0", id="empty"),
        pytest.param([[1], [2, 3, 4, 5]], "[0][1]", "4 from 2 to 5", id="too-long"),
        pytest.param([[-1, 2]], "[0][0]", "2 from -1 to 2", id="negative"),
        pytest.param([[9, 10]], "[0][0]", "2 from 9 to 10", id="beyond-the-vocabulary"),
    ],
)
def test_target_ids(targets, place, came):
    message = f"`token_ids{place}` … 1 to 3 ids from 0 to 9, but got {came}; … same model"
    with pytest.raises(ValueError, match=says(message)):
        check_token_ids([targets], longest=3, vocab_size=10)


def test_target_ids_at_the_limits():
    check_token_ids([[[0]], [], [[9, 0, 9]]], longest=3, vocab_size=10)
