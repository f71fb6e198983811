"""Checks of texts, tokens and lists before scoring."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from quals_fast.results import SummaryScore

# White space, control characters and what Unicode calls Default_Ignorable_Code_Point.
_INVISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)


class TokenCounts(Protocol):
    """How many tokens a text has."""

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole text, without special tokens."""
        ...

    @property
    def truncated_tokens(self) -> int:
        """Tokens that are cut off."""
        ...

    @property
    def unknown_tokens(self) -> int:
        """Tokens that the vocabulary lacks."""
        ...


def check_pair(document: object, summary: object) -> SummaryScore | None:
    """Return the score of a pair that cannot be scored, or None if it can be."""
    for name, text in (("summary", summary), ("document", document)):
        problem = text_problem(name, text)
        if problem is not None:
            return SummaryScore(status="error", message=problem)
    return _empty(is_invisible(str(summary)), is_invisible(str(document)))


def check_tokens(document: TokenCounts, summary: TokenCounts) -> SummaryScore | None:
    """Return the score of a pair whose tokens do not suffice for a score, or None."""
    empty = _empty(summary.n_tokens == 0, document.n_tokens == 0)
    if empty is not None:
        return empty
    unknown = [
        f"{text.unknown_tokens} of {text.n_tokens} in the {name}"
        for name, text in (("summary", summary), ("document", document))
        if 2 * text.unknown_tokens > text.n_tokens
    ]
    if not unknown:
        return None
    return SummaryScore(
        status="unknown_text",
        truncated_tokens=summary.truncated_tokens + document.truncated_tokens,
        unknown_tokens=summary.unknown_tokens + document.unknown_tokens,
        message="more than half of the tokens are unknown to the model: "
        f"{', '.join(unknown)}; use a model whose vocabulary covers the text's script",
    )


def _empty(summary: bool, document: bool) -> SummaryScore | None:
    if summary:
        return SummaryScore(status="empty_summary")
    return SummaryScore(status="empty_document") if document else None


def is_invisible(text: str) -> bool:
    """Return whether a text has only white space, zero-width and control characters."""
    return _INVISIBLE.fullmatch(text) is not None


def text_problem(name: str, text: object) -> str | None:
    """Return what is wrong with a text and what to do about it, or None."""
    if not isinstance(text, str):
        return (
            f"`{name}` must be a string, but got {type(text).__name__}; convert it to text, or "
            "use an empty string if there is none"
        )
    if "\0" in text:
        return (
            f"`{name}` must be text, but has a NUL character at position {text.index(chr(0))}; "
            "remove it, and check that the file is not binary"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return (
            f"`{name}` must be valid Unicode, but has the lone surrogate U+{code:04X} at "
            f"position {error.start}; fix the program that wrote it, or remove the character"
        )
    return None


def as_list(values: object) -> Sequence[Any] | None:
    """Return a list or tuple as it is, a vector as a list, and None for anything else.

    Vectors are numpy and pyarrow arrays, pandas and polars series, and columns of datasets. A data
    frame is not a vector, since it has several columns.
    """
    if isinstance(values, list | tuple):
        return values
    is_frame = hasattr(values, "columns") or hasattr(values, "column_names")
    if isinstance(values, str | bytes) or is_frame:
        return None
    for name in ("tolist", "to_pylist", "to_list"):
        if hasattr(values, name):
            converted = getattr(values, name)()
            return converted if isinstance(converted, list) else None
    return list(values) if isinstance(values, Sequence) else None


def check_texts(name: str, texts: object) -> Sequence[object]:
    """Return `texts` if it is a list or tuple, or as a list if it is another vector.

    Raises:
        TypeError: it is something else, such as one string.
    """
    advice = (
        "; put a single text in a list, select one column of a frame, or call list() on an iterator"
    )
    return check_list(name, texts, "strings", advice)


def check_list(name: str, values: object, of: str, advice: str = "") -> Sequence[Any]:
    """Return `values` if it is a list or tuple, or as a list if it is another vector.

    Raises:
        TypeError: it is something else.
    """
    entries = as_list(values)
    if entries is None:
        raise TypeError(f"`{name}` must be a list of {of}, but got {type(values).__name__}{advice}")
    return entries


def check_same_length(name: str, values: Sequence[object], documents: Sequence[object]) -> None:
    """Check that there is one entry per document.

    Raises:
        ValueError: there is not.
    """
    if len(values) != len(documents):
        raise ValueError(
            f"`documents` and `{name}` must have the same length, but got {len(documents)} and "
            f"{len(values)}; give one entry for each document"
        )


def require_texts(name: str, texts: object) -> list[str]:
    """Return `texts` if all can be tokenised.

    Raises:
        ValueError: one is empty or not valid text; the message gives its index.
        TypeError: it is not a list.
    """
    valid: list[str] = []
    for index, text in enumerate(check_texts(name, texts)):
        problem = text_problem(f"{name}[{index}]", text)
        if problem is None and is_invisible(str(text)):
            problem = f"`{name}[{index}]` must not be empty or blank; leave it out"
        if problem is not None:
            raise ValueError(problem)
        valid.append(str(text))
    return valid


def check_token_ids(
    token_ids: object, longest: int | None, vocab_size: int
) -> list[list[Sequence[int]]]:
    """Return targets for rescoring, each vector as a list; `longest` None for any length.

    Raises:
        ValueError: a target is empty, too long or has an id out of range; the message says which.
        TypeError: not a list of lists of lists of integers.
    """
    checked: list[list[Sequence[int]]] = []
    lengths = "1 or more" if longest is None else f"1 to {longest}"
    for i, targets in enumerate(check_list("token_ids", token_ids, "lists")):
        checked.append([])
        for j, entry in enumerate(check_list(f"token_ids[{i}]", targets, "lists")):
            name = f"token_ids[{i}][{j}]"
            ids = check_list(name, entry, "integers")
            if not all(type(token) is int for token in ids):
                raise TypeError(f"`{name}` must be a list of integers, but got {ids!r:.60}")
            fits = len(ids) > 0 and (longest is None or len(ids) <= longest)
            if not fits or not all(0 <= token < vocab_size for token in ids):
                raise ValueError(
                    f"`{name}` must have {lengths} ids from 0 to {vocab_size - 1}, but got "
                    f"{len(ids)} from {min(ids, default=0)} to {max(ids, default=0)}; use token "
                    "ids of the same model's hypotheses"
                )
            checked[-1].append(ids)
    return checked
