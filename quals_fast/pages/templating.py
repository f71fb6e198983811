"""What the HTML pages share: Jinja's environment, and how numbers, texts and bars are written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from quals_fast.pages.display import DROP, LARGE_DROP, MARKS, count, level, printable
from quals_fast.results import QAPair

if TYPE_CHECKING:
    from jinja2 import Environment

# The pages draw a token's bars up to this many nats and mark those that are longer.
BAR_CAP = 8.0


def page_environment() -> Environment:
    """Return an environment for the templates of the pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("quals_fast.pages"),
        autoescape=True,  # Every text in the page is untrusted.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "columns": token_columns,
        "count": count,
        "cut": cut,
        "number": number,
        "percent": percent,
        "share": share,
        "surprise": surprise,
        "thousands": thousands,
        "worst_first": worst_first,
    }
    environment.globals |= {
        "bar_cap": BAR_CAP,
        "drop": DROP,
        "large_drop": LARGE_DROP,
        "marks": MARKS,
    }
    return environment


class TokenColumn(NamedTuple):
    """A token of a pair, its log-probabilities, their difference, and its level, 0 to 2.

    The difference is NaN if the token does not count in the score.
    """

    token: str
    summary_logprob: float
    document_logprob: float
    drop: float
    level: int

    @property
    def is_counted(self) -> bool:
        """Whether the token counts in the score."""
        return not math.isnan(self.drop)


def token_columns(pair: QAPair) -> Iterator[TokenColumn]:
    """Yield a pair's tokens with what is shown of them."""
    columns = zip(pair.tokens, pair.summary_logprobs, pair.document_logprobs, strict=True)
    for i, (token, given_summary, given_document) in enumerate(columns):
        drop = given_document - given_summary if i >= pair.first_counted else math.nan
        yield TokenColumn(token, given_summary, given_document, drop, level(drop))


class _Scored(Protocol):
    @property
    def score(self) -> float: ...


_S = TypeVar("_S", bound=_Scored)


def worst_first(scored: Sequence[_S]) -> list[_S]:
    """Sort by score, lowest first; NaN comes last."""
    return sorted(scored, key=lambda one: (math.isnan(one.score), one.score))


def surprise(logprob: float) -> str:
    """Return a bar's height, as short as CSS allows; beyond the cap, bars are only marked."""
    if math.isnan(logprob):
        return "0"
    return f"{min(max(-logprob, 0.0), BAR_CAP + 1):z.2f}".strip("0").rstrip(".") or "0"


def share(score: float, longest: float, best: float = 0.0) -> str:
    """Return the length of a score's bar in percent: how far it is below the best score."""
    if math.isnan(score):
        return "0"
    return f"{100 * min(max((best - score) / longest, 0.0), 1.0):.0f}"


def number(value: float, digits: int = 3) -> str:
    """Write a number, or a dash for NaN."""
    return "—" if math.isnan(value) else f"{value:z.{digits}f}"


def cut(value: Any, length: int) -> str:
    """Return a text, or its beginning and how much is left out."""
    text = str(value)
    rest = len(text) - length
    return text if rest <= 0 else f"{text[:length]}… ({thousands(rest)} more characters)"


def percent(part: float, whole: float) -> str:
    """Return a share, with more digits where it is almost nothing or almost all."""
    if not whole:
        return "—"
    value = 100 * part / whole
    near_edge = 0 < min(value, 100 - value) < 0.1
    return f"{value:.{3 if near_edge else 1}f} %"


def thousands(n: int) -> str:
    """Write a whole number with commas between thousands."""
    return f"{n:,}"
