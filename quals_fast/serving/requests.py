"""Read requests: the body within its limits, then the pairs in it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple

from starlette.requests import Request

from quals_fast.serving.limits import Limits, Refused

BODY_SECONDS = 30.0  # for which a body may take to arrive
LINGER_SECONDS = 1.0  # for which the rest of a refused body is read, so that the client reads why

_TEXTS = frozenset({"document", "summary"})
_FORMS = (_TEXTS, frozenset({"document", "summaries"}), frozenset({"pairs"}))
_EXPECTED = "`document` with `summary`, `document` with `summaries`, or `pairs`"


class Pair(NamedTuple):
    """A document and a summary of it."""

    document: str
    summary: str


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        pairs: documents with summaries.
        is_single: whether the answer is one object, not a list.
        include_pairs: whether results have their question-answer pairs.
    """

    pairs: list[Pair]
    is_single: bool
    include_pairs: bool


async def read_body(request: Request, max_body: int) -> bytes:
    """Read the body of a request as it arrives.

    Raises:
        Refused: it is compressed or not JSON by its type (415), too large (413) or too slow (408).
        ClientDisconnect: the client has gone away.
    """
    kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if kind.strip() != "application/json" or charset not in ("", "charset=utf-8"):
        raise Refused(415, "the body must be JSON; send Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused(415, "the body must not be compressed; send it without Content-Encoding")
    body = bytearray()
    size = 0
    is_large = int(request.headers.get("content-length", 0)) > max_body
    seconds = LINGER_SECONDS if is_large else BODY_SECONDS
    try:
        async with asyncio.timeout(seconds) as deadline:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= max_body and not is_large:
                    body += chunk
                elif not is_large:
                    is_large = True
                    deadline.reschedule(asyncio.get_running_loop().time() + LINGER_SECONDS)
    except TimeoutError:
        if not is_large:
            message = f"the body must arrive within {BODY_SECONDS:g} seconds; send it again"
            raise Refused(408, message) from None
    if is_large:
        raise Refused(413, f"the body must have at most {max_body} bytes; send fewer pairs")
    return bytes(body)


def parse(body: bytes, limits: Limits) -> Asked:
    """Return the pairs in a body.

    Texts that cannot be scored (empty, with NUL) are let through: they get a status.

    Raises:
        Refused: it is not JSON in UTF-8 (400), or a field is wrong (422).
    """
    content = _json(body)
    if not isinstance(content, dict):
        raise Refused(422, f"the body must be a JSON object, but is {_kind(content)}")
    include_pairs = content.pop("include_pairs", False)
    if not isinstance(include_pairs, bool):
        raise _wrong_type("include_pairs", "true or false", include_pairs)
    if content.keys() not in _FORMS:
        _refuse_form(content)
    if "pairs" in content:
        entries = _list("pairs", content["pairs"], limits)
        pairs = [_pair(f"pairs[{i}]", entry, limits) for i, entry in enumerate(entries)]
        return Asked(pairs, False, include_pairs)
    document = _text("document", content["document"], limits)
    if "summary" in content:
        summary = _text("summary", content["summary"], limits)
        return Asked([Pair(document, summary)], True, include_pairs)
    summaries = _list("summaries", content["summaries"], limits)
    texts = [_text(f"summaries[{i}]", entry, limits) for i, entry in enumerate(summaries)]
    return Asked([Pair(document, summary) for summary in texts], False, include_pairs)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body must be UTF-8, but byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refused(400, f"the body must be JSON, but: {error.msg} at {place}") from None
    except (ValueError, RecursionError):
        message = "the body must be JSON, but a number is too long or lists are nested too deeply"
        raise Refused(400, message) from None


def _refuse_form(content: dict[str, Any]) -> None:
    """Name the field that is missing or too many."""
    known = frozenset().union(*_FORMS)
    for name in content:
        if name not in known:
            raise Refused(422, f"the body must have {_EXPECTED}, but has another field", field=name)
    missing = "document" if "document" not in content else "summary"
    field = missing if content.keys() < {*_TEXTS, "summaries"} else "pairs"
    if content.keys() >= {"summary", "summaries"}:
        field = "summaries"
    raise Refused(422, f"the body must have {_EXPECTED}, and nothing else", field=field)


def _pair(name: str, entry: object, limits: Limits) -> Pair:
    if not isinstance(entry, dict):
        raise _wrong_type(name, "an object with `document` and `summary`", entry)
    for field in (*sorted(_TEXTS - entry.keys()), *(entry.keys() - _TEXTS)):
        message = "a pair must have `document` and `summary`, and nothing else"
        raise Refused(422, message, field=f"{name}.{field}")
    document = _text(f"{name}.document", entry["document"], limits)
    return Pair(document, _text(f"{name}.summary", entry["summary"], limits))


def _list(name: str, entries: object, limits: Limits) -> list[Any]:
    if not isinstance(entries, list):
        raise _wrong_type(name, "a list", entries)
    most = limits.max_request_pairs
    if not 1 <= len(entries) <= most:
        message = f"`{name}` must have 1 to {most} entries, but has {len(entries)}"
        raise Refused(422, message, field=name)
    return entries


def _text(name: str, text: object, limits: Limits) -> str:
    if not isinstance(text, str):
        raise _wrong_type(name, "a string", text)
    if len(text) > limits.max_characters:
        message = f"`{name}` must have at most {limits.max_characters} characters, but has "
        raise Refused(422, f"{message}{len(text)}; shorten it", field=name)
    return text


def _wrong_type(name: str, expected: str, value: object) -> Refused:
    return Refused(422, f"`{name}` must be {expected}, but is {_kind(value)}", field=name)


def _kind(value: object) -> str:
    """Return what JSON calls the type of a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
