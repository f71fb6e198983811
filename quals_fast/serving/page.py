"""The page at / and the pages it asks for; from the same parts as `quals-fast explain`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from quals_fast.pages.explain import ExplainedRow, render_html
from quals_fast.pages.templating import page_environment
from quals_fast.serving.requests import Pair

# The page loads nothing from elsewhere, and may be shown in no other page.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)


@cache
def front_page() -> str:
    """Return the page with two boxes."""
    return page_environment().get_template("serve.html.j2").render()


def explain_page(pairs: Sequence[Pair], results: Sequence[Any], signature: str) -> str:
    """Return a page about results, as `quals-fast explain --html` writes it."""
    rows = [
        ExplainedRow(
            id=f"summary {number}", summary=pair.summary, document=pair.document, result=result
        )
        for number, (pair, result) in enumerate(zip(pairs, results, strict=True), start=1)
    ]
    return render_html(rows, signature)
