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
                 help="Write JSON lines to FILE, CSV if it ends in .csv; - is standard output. "
                      "Without it, print a table."),
    click.option("--pairs", "include_pairs", is_flag=True, help="Add all pairs to each JSON line."),
    click.option("--rows", type=click.IntRange(1),
                 help="Print a table of this many lowest-scoring rows, also beside -o FILE; "
                      "without -o, by default 100."),
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": OUTPUT_OPTIONS, **METRIC_OPTIONS})
def score(output: str | None, include_pairs: bool, rows: int | None, **options: Any) -> None:
    """Score each summary of INPUT against its document.

    Exit code: 0 when all rows were handled, 1 when at least one has status error, 2 on wrong usage.
    """
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
