"""What a request may look like, and how each other one is refused."""

import asyncio
import gzip
import json

import pytest
from messages import says
from services import Gate, serving

from quals_fast.serving import requests
from quals_fast.serving.limits import Limits, Refused
from quals_fast.serving.requests import Asked, Pair, parse

LIMITS = Limits(max_request_pairs=3, max_characters=20, queue=3)
PAIR = {"document": "d", "summary": "s"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("content", "pairs", "is_single"),
    [
        (PAIR, [("d", "s")], True),
        ({"document": "d", "summaries": ["s", ""]}, [("d", "s"), ("d", "")], False),
        ({"pairs": [PAIR, {"document": "", "summary": "\ud800"}]}, [("d", "s"), ("", "\ud800")], 0),
        ({"document": "x" * 20, "summary": "\U0001f600" * 20}, [("x" * 20, "😀" * 20)], True),
    ],
)
def test_the_three_forms(content, pairs, is_single):
    for include_pairs in (False, True):
        body = json.dumps(content | {"include_pairs": include_pairs}).encode()
        expected = Asked([Pair(*pair) for pair in pairs], bool(is_single), include_pairs)
        assert parse(body, LIMITS) == expected
    assert parse(json.dumps(content, ensure_ascii=True).encode(), LIMITS).include_pairs is False


@pytest.mark.parametrize(
    ("body", "status", "field", "message"),
    [
        (b"", 400, None, "must be JSON … Expecting value at line 1, column 1"),
        (b'{"document": ', 400, None, "must be JSON … line 1, column 14"),
        (b'{"document": "\xff"}', 400, None, "must be UTF-8, but byte 14 is not"),
        ('{"document": "ä"}'.encode("utf-16"), 400, None, "must be UTF-8, but byte 0"),
        (b"\xef\xbb\xbf{}", 400, None, "must be JSON"),
        (b"[" * 100_000, 400, None, "nested too deeply"),
        (b"1" * 5000, 400, None, "a number is too long"),
        (b"[]", 422, None, "must be a JSON object, but is a list"),
        (b"null", 422, None, "must be a JSON object, but is null"),
        (b"NaN", 422, None, "must be a JSON object, but is a number"),
        ({}, 422, "document", "must have `document` with `summary`"),
        ({"document": "d"}, 422, "summary", "must have `document` with `summary`"),
        ({"summary": "s"}, 422, "document", "must have `document`"),
        ({"summaries": ["s"]}, 422, "document", "must have `document`"),
        (PAIR | {"summaries": ["s"]}, 422, "summaries", "and nothing else"),
        (PAIR | {"pairs": [PAIR]}, 422, "pairs", "and nothing else"),
        (PAIR | {"id": 3}, 422, "id", "but has another field"),
        ({"document": 3, "summary": "s"}, 422, "document", "must be a string, but is a number"),
        ({"document": "d", "summary": None}, 422, "summary", "must be a string, but is null"),
        ({"document": "d", "summary": ["s"]}, 422, "summary", "must be a string, but is a list"),
        ({"document": "d", "summaries": "s"}, 422, "summaries", "must be a list, but is a string"),
        ({"document": "d", "summaries": []}, 422, "summaries", "must have 1 to 3 entries, … 0"),
        ({"document": "d", "summaries": ["s"] * 4}, 422, "summaries", "1 to 3 entries, … has 4"),
        ({"document": "d", "summaries": ["s", 1]}, 422, "summaries[1]", "must be a string"),
        ({"pairs": []}, 422, "pairs", "must have 1 to 3 entries, but has 0"),
        ({"pairs": {}}, 422, "pairs", "must be a list, but is an object"),
        ({"pairs": [PAIR, "s"]}, 422, "pairs[1]", "must be an object with `document`"),
        ({"pairs": [{"document": "d"}]}, 422, "pairs[0].summary", "a pair must have"),
        ({"pairs": [PAIR | {"id": 1}]}, 422, "pairs[0].id", "a pair must have"),
        ({"pairs": [PAIR, PAIR | {"summary": True}]}, 422, "pairs[1].summary", "is true or false"),
        (PAIR | {"include_pairs": "yes"}, 422, "include_pairs", "must be true or false"),
        (PAIR | {"summary": "x" * 21}, 422, "summary", "at most 20 characters, but has 21"),
        (PAIR | {"document": "x" * 10**6}, 422, "document", "at most 20 characters, … 1000000"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body, status, field, message):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused, match=says(message)) as refused:
        parse(content, LIMITS)
    assert (refused.value.status, refused.value.field) == (status, field)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_body": 0}, "`max_body` must be at least 1, but got 0"),
        ({"max_batch": 0}, "`max_batch` must be at least 1, but got 0"),
        ({"max_wait_ms": -1}, "`max_wait_ms` must be a finite number of at least 0"),
        ({"queue": 8}, "`queue` must be at least `max_request_pairs`, but got 8 and 64"),
    ],
)
def test_limits_that_make_no_sense(values, message):
    with pytest.raises(ValueError, match=message):
        Limits(**values)


def post(scorer, content, headers=JSON, **limits):
    """Return the answer to a body, of which parts may arrive one after the other."""

    async def answer():
        async with serving(scorer, **limits) as (_, client):
            return await client.post("/v1/score", content=content, headers=headers)

    return asyncio.run(answer())


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
def test_a_body_that_is_not_json_by_its_type(scorer, kind):
    answer = post(scorer, json.dumps(PAIR), {"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert "send Content-Type: application/json" in answer.json()["error"]


def test_a_compressed_body(scorer):
    body = gzip.compress(json.dumps(PAIR).encode())
    answer = post(scorer, body, JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert "must not be compressed; send it without" in answer.json()["error"]
    plain = post(scorer, json.dumps(PAIR), JSON | {"Content-Encoding": "identity"})
    assert plain.status_code == 200


def test_the_charset_may_be_given(scorer):
    answer = post(scorer, json.dumps(PAIR), {"Content-Type": 'application/JSON; charset="UTF-8"'})
    assert answer.status_code == 200


async def slowly(n_chunks, chunk=b" " * 10, seconds=0.02):
    for _ in range(n_chunks):
        await asyncio.sleep(seconds)
        yield chunk


@pytest.mark.parametrize(
    "content",
    [b" " * 101, slowly(11), slowly(10_000, seconds=0.001)],
    ids=["whole", "slow", "long"],
)
def test_a_body_that_is_too_large(scorer, content, monkeypatch):
    monkeypatch.setattr(requests, "LINGER_SECONDS", 0.1)
    answer = post(scorer, content, max_body=100)
    assert answer.status_code == 413
    assert "must have at most 100 bytes" in answer.json()["error"]


def test_a_slow_body_within_the_limits_is_taken(scorer):
    async def in_parts():
        for byte in json.dumps(PAIR):
            await asyncio.sleep(0.001)
            yield byte.encode()

    assert post(scorer, in_parts()).status_code == 200


def test_a_body_that_never_ends(scorer, monkeypatch):
    monkeypatch.setattr(requests, "BODY_SECONDS", 0.1)
    answer = post(scorer, slowly(10, seconds=0.1))
    assert answer.status_code == 408
    assert "must arrive within 0.1 seconds" in answer.json()["error"]


def test_a_text_of_a_megabyte_where_it_is_allowed(scorer):
    texts = {"document": "queen anne " * 100_000, "summary": "anne opened the tower"}
    answer = post(Gate(scorer, is_open=True), json.dumps(texts), max_characters=2_000_000)
    assert answer.status_code == 200
    assert answer.json()["truncated_tokens"] > 190_000
