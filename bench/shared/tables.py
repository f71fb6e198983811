"""How pages write results: Markdown tables, numbers with their spread, the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

QUOTABLE_ROUNDS = 3


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a Markdown table of rows whose cells stand under their columns' names."""
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *([row[name] for name in header] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def is_quotable(numbers: Mapping[str, float]) -> bool:
    """Return whether enough rounds are behind a figure to quote it on its own."""
    return numbers["n"] >= QUOTABLE_ROUNDS


def with_spread(numbers: Mapping[str, float], digits: int = 2) -> str:
    """Write a median with its spread, as `bench.shared.common.spread` returns it."""
    if numbers["n"] == 1:
        return f"{numbers['median']:.{digits}f} (n = 1)"
    low, high = (f"{numbers[key]:.{digits}f}" for key in ("low", "high"))
    return f"{numbers['median']:.{digits}f} ({low} to {high}, n = {numbers['n']})"


def interval(
    one: Mapping[str, Any], digits: int, of_bounds: int | None = None, *, signed: bool = False
) -> str:
    """Write a number with its interval; "-" where there is none.

    Args:
        one: `value`, `low` and `high`.
        digits: of the number.
        of_bounds: digits of the bounds, if they have others.
        signed: whether positive numbers have a sign.
    """
    if one["value"] is None:
        return "-"
    sign, places = "+" if signed else "", digits if of_bounds is None else of_bounds
    low, high = (f"{one[key]:{sign}.{places}f}" for key in ("low", "high"))
    return f"{one['value']:{sign}.{digits}f} [{low}, {high}]"


def percent(share: float, digits: int = 0) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.{digits}f} %"


def where(result: Mapping[str, Any]) -> str:
    """Say what a result was measured on."""
    m = result["machine"]
    v = m["versions"]
    dirty = " with uncommitted changes" if m["dirty"] else ""
    instructions = f" ({', '.join(m['instructions'])})" if "instructions" in m else ""
    return (
        f"{m['cpu']}{instructions}, {m['threads']} threads; Python {m['python']}, "
        f"torch {v['torch']}, transformers {v['transformers']}; commit {m['commit']}{dirty}."
    )
