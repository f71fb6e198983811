"""Where the answers of kept pairs occur in the summary as given.

The filter looks answers up in what the tokenizer makes of a summary: its token ids, or lower-cased
text. Each symbol of that, an id or a letter, has a range of the summary's code points here, so
where an answer matches is a range of the summary, too.
Source: docs/semantics.md 1.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from quals_fast.engine.filtering import KeptPair, haystack_of, needle_of, split_at_sep
from quals_fast.models.checkpoint import Conventions
from quals_fast.models.tokenizer import QATokenizer, Source, is_mark
from quals_fast.results import Range


def answer_spans(
    kept: Sequence[KeptPair], summary: Source, tokenizer: QATokenizer, conventions: Conventions
) -> list[tuple[Range, ...]]:
    """Return where each pair's answer occurs in the summary, in code points and ascending order.

    Inside a longer word or number, an answer counts only if it occurs nowhere else. For a tokenizer
    whose tokens cannot be told apart in the text that they spell, there are no spans.

    Args:
        kept: pairs about the summary.
        summary: as encoded for `needs_places`.
        tokenizer: of the model.
        conventions: special ids.
    """
    if not kept:
        return []
    symbols, ranges = haystack_of(summary, tokenizer), _symbol_ranges(summary, tokenizer)
    if ranges is not None and len(ranges) != len(symbols):  # some spell only together
        return [()] * len(kept)
    found: dict[str, tuple[Range, ...]] = {}  # most answers have several questions
    spans = []
    for pair in kept:
        _, answer_ids = split_at_sep(pair.hypothesis.token_ids, conventions) or ([], [])
        needle = needle_of(answer_ids, pair.answer, tokenizer)
        if needle not in found:
            found[needle] = _found(needle, symbols, ranges, summary.text)
        spans.append(found[needle])
    return spans


def needs_places(tokenizer: QATokenizer) -> bool:
    """Return whether finding answers takes `Source.places`."""
    return tokenizer.answer_match == "ids" or tokenizer.respells


def _found(
    needle: str, symbols: str, ranges: Sequence[Range] | None, text: str
) -> tuple[Range, ...]:
    """Return the ranges of a text where the symbols of an answer occur."""
    places = []
    start = symbols.find(needle)
    while needle and start >= 0:
        end = start + len(needle)
        place = (start, end) if ranges is None else (ranges[start][0], ranges[end - 1][1])
        places.append(_without_spaces(*place, text))
        start = symbols.find(needle, start + 1)
    whole = [one for one in places if len(places) > 1 and not _is_inside_word(*one, text)]
    return tuple(whole or places)


def _symbol_ranges(summary: Source, tokenizer: QATokenizer) -> Sequence[Range] | None:
    """Return the range of the summary behind each symbol of its haystack.

    None if symbol i is character i.
    """
    if tokenizer.answer_match == "ids":
        return summary.token_ranges()
    spelled: Iterable[tuple[str, Range]]
    if tokenizer.respells:
        spelled = spelled_letters(summary, tokenizer)
    elif len(summary.text.lower()) == len(summary.text):
        return None
    else:
        spelled = ((letter, (i, i + 1)) for i, letter in enumerate(summary.text))
    # The lower case of "İ" is two letters.
    return [place for letter, place in spelled for _ in letter.lower()]


def spelled_letters(summary: Source, tokenizer: QATokenizer) -> Iterator[tuple[str, Range]]:
    """Yield the letters of `QATokenizer.spelled`, each with its range of the summary."""
    by_token = zip(summary.text_ids, summary.token_ranges(), strict=True)
    is_later = False
    for is_unknown, run in groupby(by_token, lambda one: one[0] == tokenizer.unknown_token_id):
        if is_unknown:
            continue
        ids, ranges = zip(*run, strict=True)
        if is_later:
            yield "\0", (ranges[0][0], ranges[0][0])
        is_later = True
        for first, end, text in _decoded(ids, tokenizer):
            place = (ranges[first][0], ranges[end - 1][1])
            yield from zip(text, _letter_ranges(text, place, summary.text, tokenizer), strict=True)


def _decoded(ids: tuple[int, ...], tokenizer: QATokenizer) -> Iterator[tuple[int, int, str]]:
    """Yield first and end of tokens with the text that they add to the decoded run.

    These are single tokens, or as many as share a character.
    """
    start = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.added_text(ids[start:end], is_first=start == 0)
        if text.endswith("\ufffd") and end < len(ids):  # a character is not complete
            continue
        yield start, end, text
        start = end


def _letter_ranges(text: str, place: Range, summary: str, tokenizer: QATokenizer) -> list[Range]:
    """Return the range of each letter that a token spells; `place` is the token's."""
    start, end = place
    visible = text.lstrip(" ")
    spaces = [(start, start)] * (len(text) - len(visible))
    if visible == summary[start:end]:
        return spaces + [(i, i + 1) for i in range(start, end)]
    starts = [i for i in range(start, end) if i == start or not is_mark(summary[i])]
    letters = list(zip(starts, [*starts[1:], end], strict=True))
    spelled = [tokenizer.normalise(summary[i:j]) for i, j in letters]
    if "".join(spelled) == visible:
        return spaces + [one for one, text in zip(letters, spelled, strict=True) for _ in text]
    return spaces + [place] * len(visible)  # such as half of a ligature


def _without_spaces(start: int, end: int, text: str) -> Range:
    """Return a range of a text without white space at its ends."""
    inside = text[start:end]
    return end - len(inside.lstrip()), start + len(inside.rstrip())


def _is_inside_word(start: int, end: int, text: str) -> bool:
    """Return whether a range begins or ends between two letters or digits.

    Scripts without capital letters are left out: many write no spaces, or join words.
    """
    return any(
        0 < i < len(text) and _is_of_word(text[i - 1]) and _is_of_word(text[i])
        for i in (start, end)
    )


def _is_of_word(c: str) -> bool:
    return c.lower() != c.upper() or c.isdecimal() or is_mark(c)
