"""`quals-fast explain`: the pairs behind each score, on the terminal or as a page."""

from __future__ import annotations

from typing import Any

import click

from quals_fast.commands.options import (
    CALIBRATION,
    INPUT_OPTIONS,
    QUIET,
    SCORER_OPTIONS,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import finish, job_input, require, results_file, scoring_job

OUTPUT_OPTIONS = (
    click.option("--html", metavar="FILE",
                 help="Write one HTML page with all rows to FILE, instead of printing them; - "
                      "writes it to standard output."),
    click.option("--id", "ids", multiple=True, metavar="ID",
                 help="Explain only the row with this id; repeat for more rows. A row without an "
                      "id goes by its line number."),
    click.option("--top", type=click.IntRange(1), metavar="N",
                 help="Print only the N worst question-answer pairs of each row. By default, all."),
    CALIBRATION,
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": OUTPUT_OPTIONS, **SCORER_OPTIONS})
def explain(html: str | None, ids: tuple[str, ...], top: int | None, **options: Any) -> None:
    """Show which questions and tokens lower a score.

    In each summary, the answers whose log-probability drops are marked, and the question-answer
    pairs are listed from worst to best. Each token has its log-probability given the summary and
    given the document, in nats. A large drop between the two points to something that the document
    does not support.

    \b
    Explain all rows in an HTML page:
      quals-fast explain pairs.jsonl --html why.html
    Print the three worst pairs of one row:
      quals-fast explain pairs.jsonl --id 17 --top 3

    Exit codes: 0 if every row was processed, 1 if at least one row has status error, 2 if the
    command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    from rich.text import Text

    from quals_fast.pages.display import MARKS_LEGEND, UNCOUNTED_LEGEND, show, signature_line
    from quals_fast.pages.explain import ExplainedRow, render_html, render_terminal
    from quals_fast.pages.tables import Tally

    if html is not None and top is not None:
        raise click.UsageError("--top is for the terminal, but got --html; the page has all pairs")
    if html is not None:
        require("jinja2", message="--html needs Jinja: pip install jinja2")
    tally = Tally(0)
    explained = []
    with (
        scoring_job(options, job_input(options, ids=ids), prints=html is None) as job,
        results_file(html, options) as file,
    ):
        for row, result in job.results():
            tally.add(row, result)
            one = ExplainedRow.of(row, result)
            if file is None:
                show(render_terminal(one, max_pairs=top))
            else:
                explained.append(one)
        if file is None:
            answer_only = options["tokens"] == "answer"
            show(Text("[words] in a summary: answers, marked by their mean drop; "
                      "the rest drops less or was not asked about"))  # fmt: skip
            show(f"{MARKS_LEGEND}, {UNCOUNTED_LEGEND}" if answer_only else MARKS_LEGEND)
            show(signature_line(job.scorer.signature))
        else:
            file.write(render_html(explained, job.scorer.signature))
    if html not in (None, "-") and not options["quiet"]:
        click.echo(f"wrote {html}", err=True)
    finish(tally, options)
