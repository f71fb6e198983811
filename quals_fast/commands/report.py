"""`quals-fast report`: one page about the scores in files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from quals_fast.commands.options import FORMAT_OPTIONS, QUIET, GroupedCommand, with_groups
from quals_fast.commands.running import require, usage_errors
from quals_fast.errors import InputError
from quals_fast.jobs.files import read_rows
from quals_fast.jobs.inputs import is_stream, matching_files
from quals_fast.jobs.output import check_name, open_output
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scores import ScoreRow, read_scores

if TYPE_CHECKING:
    from quals_fast.pages.collecting import Collection

_FIRST_ROWS = 100  # of each file, looked at before all are read

INPUT_OPTIONS = (
    click.argument("scores", nargs=-1, required=True),
    click.option("--input", "inputs", multiple=True, metavar="FILE",
                 help="The file that was scored: then --by can use its columns, and the page shows "
                      "the texts of the worst rows. For several files, repeat the option in the "
                      "order of their scores, or give a pattern in quotes. The next four options "
                      "say how to read it, as in quals-fast score."),
    *FORMAT_OPTIONS,
)  # fmt: skip
OUTPUT_OPTIONS = (
    click.option("-o", "--output", required=True, metavar="FILE",
                 help="Write the page to FILE, and replace the file if it exists; - writes it to "
                      "standard output."),
    click.option("--by", metavar="COLUMN",
                 help="Compare the rows by a column of SCORES or of --input, such as the system "
                      "that wrote a summary, with a table and a histogram for each value. file "
                      "compares the files."),
    click.option("--rows", type=click.IntRange(0, 1000), default=50, metavar="N",
                 help="Show the N lowest-scoring rows by themselves; at most 1000."),
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": OUTPUT_OPTIONS})
def report(
    scores: tuple[str, ...],
    inputs: tuple[str, ...],
    output: str,
    by: str | None,
    rows: int,
    quiet: bool,
    **reading: Any,
) -> None:
    """Show scores in one HTML page.

    SCORES are one or more files that quals-fast score wrote, JSON lines or CSV, with or without
    gzip, or patterns in quotes, such as 'scores-*.jsonl'. The page has the distribution of the
    scores, the statuses, what was cut off, and the lowest-scoring rows, with their questions if you
    scored with --pairs. It is one file without scripts and needs no network.

    \b
    Score with questions, then look at the scores:
      quals-fast score pairs.jsonl -o scores.jsonl --pairs
      quals-fast report scores.jsonl -o report.html
    Compare systems, named in the field "system" of the input:
      quals-fast report scores.jsonl --input pairs.jsonl --by system -o report.html
    Compare systems that have a file of scores each:
      quals-fast report a.jsonl b.jsonl --by file -o report.html

    Scores with different signatures are not comparable: each signature gets a part of the page,
    with a warning.

    Exit codes: 0 if every line was read, 1 if at least one line is no row of scores (the page names
    it and shows the others), 2 if the command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    require("jinja2", message="the report needs Jinja: pip install jinja2")
    with usage_errors(InputError):
        scores, inputs = matching_files(scores, "SCORES"), matching_files(inputs, "--input")
        _check_output(output, (*scores, *inputs))
        _look(scores, inputs, by, reading)
        collection = _collect(scores, inputs, by, rows, quiet, reading)
        from quals_fast.pages.report import render_report

        page = render_report(collection)
        with open_output(output) as file:
            file.write(page)
    if not quiet:
        click.echo(_closing_line(collection, output), err=True)
    sys.exit(1 if collection.bad_files else 0)


def _collect(
    scores: tuple[str, ...],
    inputs: tuple[str, ...],
    by: str | None,
    n_worst: int,
    quiet: bool,
    reading: dict[str, Any],
) -> Collection:
    """Read all rows."""
    from quals_fast.pages.collecting import Collection, joined
    from quals_fast.pages.display import progress_bar

    collection = Collection(by=by, n_worst=n_worst)
    rows = chain.from_iterable(map(read_scores, scores))
    with progress_bar(hidden=quiet) as progress:
        task = progress.add_task("reading", total=None)
        if inputs:
            texts = _input_rows(inputs, reading)
            for row, text in joined(rows, texts, collection):
                collection.add(row, text)
                progress.advance(task)
        else:
            for row in rows:
                collection.add(row)
                progress.advance(task)
    collection.check()
    return collection


def _input_rows(inputs: tuple[str, ...], reading: dict[str, Any]) -> Iterator[InputRow]:
    return chain.from_iterable(read_rows(path, **reading) for path in inputs)


def _look(
    scores: tuple[str, ...], inputs: tuple[str, ...], by: str | None, reading: dict[str, Any]
) -> None:
    """Find what is no file of scores, and a column that no file has, in the first rows."""
    from quals_fast.pages.collecting import check_column

    columns = {"file": None}
    for path in scores:
        if not is_stream(path):
            for row in islice(read_scores(path), _FIRST_ROWS):
                columns |= dict.fromkeys(row.fields if isinstance(row, ScoreRow) else ())
    for path in inputs:
        if not is_stream(path):
            for text in islice(read_rows(path, **reading), _FIRST_ROWS):
                columns |= dict.fromkeys(text.fields)
    is_known = len(columns) > 1 and not any(map(is_stream, (*scores, *inputs)))
    columns["message"] = None  # which a row has only if it needs one
    if by is not None and is_known:
        check_column(by, columns, (*scores, *inputs))


def _check_output(output: str, read_files: tuple[str, ...]) -> None:
    """Refuse, before reading, an output that cannot be."""
    check_name(output, ())
    for path in read_files:
        if os.path.isfile(path) and os.path.isfile(output) and os.path.samefile(path, output):
            raise InputError(
                f"the output must not be one of the files that are read, but {output} is; choose "
                "another name"
            )


def _closing_line(collection: Collection, output: str) -> str:
    from quals_fast.pages.display import count

    done = "" if output == "-" else f"wrote {output}: "
    parts = [done + count(collection.n_rows, "row")]
    if len(collection.parts) > 1:
        parts.append(
            f"{len(collection.parts)} signatures, whose scores are not comparable: the page shows "
            "them apart"
        )
    if collection.bad_files:
        bad = collection.bad_lines[0]
        lines = count(collection.bad_files.total(), "line")
        parts.append(f"{lines} not read, first {bad.place}: {bad.problem}")
    if collection.n_not_scored:
        rows = count(collection.n_not_scored, "more row")
        parts.append(f"the input has {rows} than there are scores")
    return "; ".join(parts)
