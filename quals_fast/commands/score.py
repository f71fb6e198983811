"""`quals-fast score`: a score for each row, as a table, JSON lines or CSV."""

from __future__ import annotations

from typing import Any

import click

from quals_fast.commands.options import (
    INPUT_OPTIONS,
    METRIC_OPTIONS,
    QUIET,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import finish, results_file, scoring_job
from quals_fast.jobs.files import RowWriter

OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE",
                 help="Write one JSON object per row to FILE, or CSV if it ends in .csv; - writes "
                      "JSON lines to standard output. Without -o, a table is printed."),
    click.option("--pairs", "include_pairs", is_flag=True,
                 help="Include the question-answer pairs of each row in the JSON output."),
    click.option("--rows", type=click.IntRange(1), metavar="N",
                 help="Print a table of the N lowest-scoring rows, also with -o FILE. By default, "
                      "100 rows without -o and no table with it."),
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": OUTPUT_OPTIONS, **METRIC_OPTIONS})
def score(output: str | None, include_pairs: bool, rows: int | None, **options: Any) -> None:
    """Score each summary in INPUT against its document.

    \b
    Print a table:
      quals-fast score pairs.jsonl
    Write JSON lines, and print the ten lowest-scoring rows:
      quals-fast score pairs.jsonl -o scores.jsonl --rows 10
    Read CSV columns with other names from standard input:
      cat pairs.csv | quals-fast score - --document-field article --summary-field highlights

    Exit codes: 0 if every row was processed, 1 if at least one row has status error, 2 if the
    command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    from quals_fast.pages.display import show
    from quals_fast.pages.tables import Tally, score_table

    is_csv = output is not None and output.lower().endswith(".csv")
    if include_pairs and (output is None or is_csv):
        got = f"-o {output}" if is_csv else "no -o"
        raise click.UsageError(f"--pairs is for JSON lines, but got {got}; add -o scores.jsonl")
    if rows is not None and output == "-":
        raise click.UsageError(
            "--rows is for the table, but got -o -, which prints none; leave one of them out"
        )
    tally = Tally(rows or 100)
    with (
        scoring_job(options, prints=output == "-") as (scorer, results),
        results_file(output, options) as file,
    ):
        writer = RowWriter(file, is_csv=is_csv, include_pairs=include_pairs) if file else None
        for row, result in results:
            tally.add(row, result)
            if writer is not None:
                writer.write(row, result, scorer.signature)
    if output is None or rows is not None:
        show(score_table(tally, scorer.signature))
    finish(tally, options)
