"""The verdict on "55 times as fast": one paragraph that follows from the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from bench.shared.tables import QUOTABLE_ROUNDS, is_quotable
from bench.studies.claim.figures import (
    ARTICLE,
    LIBRARY,
    RATIOS,
    each_case,
    measured,
    measured_ratio,
)

CLAIMED = 55.0  # times as fast as QAGS: Nan et al., ACL 2021

_ARTICLE, _ENGINE = "published_vs_qags_as_shipped", "speedup_vs_qags_as_shipped"
_STRONGEST, _SAME_LIBRARY = "speedup_vs_qags_batched", "speedup_vs_qags_onednn"

Ratios: TypeAlias = Mapping[str, Mapping[str, float]]  # by case: median, lowest, highest, n


def verdict(*results: Mapping[str, Any]) -> str:
    """Say whether QUALS is 55 times as fast as QAGS, and how fast the engine is.

    A size and workload with fewer than three rounds is not quoted.

    Args:
        results: of `python -m bench.claim`, one for each device.
    """
    quoted = [result for result in results if _quotable(result, _ARTICLE)]
    if not quoted:
        return (
            f"**Not measured yet**: nothing has {QUOTABLE_ROUNDS} rounds. "
            "`python -m bench.claim --data FILE` measures them."
        )
    ratios = [one for result in quoted for one in _quotable(result, _ARTICLE).values()]
    if all(one["low"] >= CLAIMED for one in ratios):
        answer = "**Yes.**"
    else:
        answer = "**In part.**" if any(one["high"] >= CLAIMED for one in ratios) else "**No.**"
    first, *others = quoted
    parts = [answer, _at_length(first), *map(_in_short, others), *map(_gaps, results)]
    return " ".join(filter(None, parts))


def span(values: Iterable[float]) -> str:
    """Write the lowest and highest of some numbers."""
    ordered = sorted(values)
    low, high = f"{ordered[0]:.1f}", f"{ordered[-1]:.1f}"
    return low if low == high else f"{low} to {high}"


def _quotable(result: Mapping[str, Any], name: str) -> Ratios:
    """Return a ratio by size and workload, where it has enough rounds."""
    arms = (RATIOS | LIBRARY)[name]
    return {
        f"{size}, {workload}": ratio
        for size, workload, case in each_case(result["cases"])
        if (ratio := measured_ratio(case, arms)) is not None and is_quotable(ratio)
    }


def _at_length(result: Mapping[str, Any]) -> str:
    article, engine = _quotable(result, _ARTICLE), _quotable(result, _ENGINE)
    strongest, same_library = _quotable(result, _STRONGEST), _quotable(result, _SAME_LIBRARY)
    counts = sorted({int(one["n"]) for one in article.values()})
    rounds = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    types = {
        case["facts"][measured(case, ARTICLE)]["dtype"] for _, _, case in each_case(result["cases"])
    }
    parts = [
        f"On {result['device']} (medians; in brackets the lowest and highest of {rounds} rounds), "
        "the article's own comparison, QUALS as published against QAGS as shipped, gives "
        f"{_times(article)} with QUALS in {' or '.join(sorted(types))}, and {_reaches(article)}.",
        f"quals_fast is {_times(engine)} as fast as QAGS as shipped and {_reaches(engine)}.",
    ]
    if same_library:
        parts.append(f"With oneDNN's matrix products in QAGS, too, it is {_times(same_library)}.")
    if strongest:
        parts.append(f"Against the strongest QAGS, it is {_times(strongest)}.")
    return " ".join(parts)


def _in_short(result: Mapping[str, Any]) -> str:
    figures = [
        f"{_times(ratios)} {what}"
        for name, what in (
            (_ARTICLE, "for QUALS as published"),
            (_ENGINE, "for quals_fast"),
            (_STRONGEST, "against the strongest QAGS"),
        )
        if (ratios := _quotable(result, name))
    ]
    return f"On {result['device']}, it is {', '.join(figures[:-1])} and {figures[-1]}."


def _gaps(result: Mapping[str, Any]) -> str:
    few = [
        f"{size}, {workload}"
        for size, workload, case in each_case(result["cases"])
        if len(case["rounds"]) < QUOTABLE_ROUNDS
    ]
    return f"Left out, with fewer than {QUOTABLE_ROUNDS} rounds: {'; '.join(few)}." if few else ""


def _times(ratios: Ratios) -> str:
    """Write the medians and, in brackets, the single rounds."""
    rounds = span(one[end] for one in ratios.values() for end in ("low", "high"))
    return f"{span(one['median'] for one in ratios.values())} times ({rounds})"


def _reaches(ratios: Ratios) -> str:
    every = [case for case, one in ratios.items() if one["low"] >= CLAIMED]
    some = [case for case, one in ratios.items() if one["low"] < CLAIMED <= one["high"]]
    if len(every) == len(ratios):
        return f"reaches {CLAIMED:.0f} in every round"
    places = [
        f"{which} {'; '.join(found)}"
        for which, found in (("every round of", every), ("some rounds of", some))
        if found
    ]
    return f"reaches {CLAIMED:.0f} in {' and '.join(places) or 'no round'}"
