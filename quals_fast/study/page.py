"""An annotator's page: one file with a script, which loads nothing and knows no system."""

from __future__ import annotations

import base64
import hashlib

from quals_fast.pages.templating import page_environment
from quals_fast.study.design import ATTRIBUTES, VOTES, Study


def render_page(study: Study, annotator: int) -> str:
    """Return the page of an annotator.

    It holds the texts and the study's id; no name, id or row of a system.

    Args:
        study: the study.
        annotator: number of the annotator, from 1.
    """
    environment = page_environment()
    style = environment.get_template("study.css.j2").render()
    script = environment.get_template("study.js").render()
    pairs = [
        {
            "document": study.pairs[shown.pair].document,
            "A": study.pairs[shown.pair].summaries[shown.a].text,
            "B": study.pairs[shown.pair].summaries[1 - shown.a].text,
        }
        for shown in study.orders[annotator - 1]
    ]
    data = {"kind": VOTES, "study": study.id, "annotator": annotator, "pairs": pairs}
    # The one script and the one style of these hashes may run; nothing else, and no request.
    policy = f"default-src 'none';script-src {_source(script)};style-src {_source(style)}"
    return environment.get_template("study.html.j2").render(
        style=style,
        script=script,
        policy=f"{policy};base-uri 'none';form-action 'none'",
        data=data,
        n_pairs=len(pairs),
        annotator=annotator,
        attributes=ATTRIBUTES,
    )


def _source(text: str) -> str:
    """Return what a content policy calls an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
