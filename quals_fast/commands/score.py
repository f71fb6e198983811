"""`quals-fast score`: a score for each row, as a table, JSON lines or CSV."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from quals_fast.commands.cluster import CLUSTER_OPTIONS, RAY_OPTIONS, score_on_cluster
from quals_fast.commands.options import (
    CALIBRATION,
    METRIC_OPTIONS,
    QUIET,
    READING_OPTIONS,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import (
    finish,
    job_input,
    options_given,
    scoring_job,
    usage_errors,
    what_is_read,
)
from quals_fast.commands.streams import Interrupted, UsageFailure
from quals_fast.errors import InputError
from quals_fast.jobs.inputs import JobInput, check_shard, is_stream, shard_of
from quals_fast.jobs.output import OutputFile, RowWriter, open_output
from quals_fast.jobs.resuming import ResumableFile
from quals_fast.signature import has_probability, must_match

INPUT = click.argument("input", metavar="INPUT...", nargs=-1, required=True)
SHARD = click.option(
    "--shard", metavar="i/n",
    help="Score only the i-th of n parts of the rows, for job arrays. The outputs of all parts "
         "joined in order are the output of a single job.",
)  # fmt: skip
OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE",
                 help="Write one JSON object per row to FILE, or CSV if it ends in .csv; - writes "
                      "JSON lines to standard output. FILE is called FILE.part until it is "
                      "complete. Without -o, a table is printed."),
    click.option("--resume", is_flag=True,
                 help="Continue an interrupted job with the same input and options, or start it."),
    click.option("--overwrite", is_flag=True,
                 help="Replace FILE and FILE.part. By default, an existing file is an error."),
    click.option("--pairs", "include_pairs", is_flag=True,
                 help="Include the question-answer pairs of each row in the JSON output, or the "
                      "sentences that a classifier read."),
    click.option("--spans", "include_spans", is_flag=True,
                 help="Include the parts of the summary that questions ask about in the JSON "
                      "output: start and end, in characters, and score, worst first."),
    click.option("--rows", type=click.IntRange(1), metavar="N",
                 help="Print a table of the N lowest-scoring rows, also with -o FILE. By default, "
                      "100 rows without -o and no table with it."),
    CALIBRATION,
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups(
    {
        "Input": (INPUT, *READING_OPTIONS, SHARD),
        "Output": OUTPUT_OPTIONS,
        **METRIC_OPTIONS,
        "Cluster": CLUSTER_OPTIONS,
    }
)
def score(
    output: str | None,
    include_pairs: bool,
    include_spans: bool,
    rows: int | None,
    shard: str | None,
    resume: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Score each summary in INPUT against its document.

    INPUT is one or more files, or patterns in quotes, such as 'in/*.parquet'.

    \b
    Print a table:
      quals-fast score pairs.jsonl
    Write JSON lines, and print the ten lowest-scoring rows:
      quals-fast score pairs.jsonl -o scores.jsonl --rows 10
    Start a long job, or continue it after an interruption:
      quals-fast score pairs.jsonl -o scores.jsonl --resume
    Score on the machines of a Ray cluster, into a directory:
      quals-fast score --runner ray 'in/*.parquet' -o out/ --resume
    Read CSV columns with other names from standard input:
      cat pairs.csv | quals-fast score - --document-field article --summary-field highlights

    Exit codes: 0 if every row was processed, 1 if at least one row has status error, 2 if the
    command cannot run as given, 130 after Ctrl-C.
    """  # noqa: D301 - click must get the character that the backslash stands for
    from quals_fast.pages.display import show
    from quals_fast.pages.tables import Tally, score_table

    is_csv = output is not None and output.lower().endswith(".csv")
    for option, is_given in (("--pairs", include_pairs), ("--spans", include_spans)):
        if is_given and (output is None or is_csv):
            got = f"-o {output}" if is_csv else "no -o"
            raise click.UsageError(
                f"{option} is for JSON lines, but got {got}; use -o scores.jsonl"
            )
    if include_spans and (metric := options["metric"]) != "quals":
        raise click.UsageError(
            f"--spans is for QUALS, but got --metric {metric}; leave --spans out"
        )
    if rows is not None and output == "-":
        raise click.UsageError(
            "--rows is for the table, but got -o -, which prints none; leave one of them out"
        )
    if resume and overwrite:
        raise UsageFailure("--resume keeps what --overwrite replaces; leave one of them out")
    included = {"include_pairs": include_pairs, "include_spans": include_spans}
    given = {name: options.pop(name) for name in ("runner", *RAY_OPTIONS)}
    source = job_input(options)
    if given["runner"] == "ray":
        score_on_cluster(
            source, output, options | given, included, resume=resume, overwrite=overwrite
        )
        return
    for option in options_given(RAY_OPTIONS):
        raise click.UsageError(f"{option} needs --runner ray; add it, or leave {option} out")
    with usage_errors(InputError):
        check_shard(shard, source)
        file = _results_file(output, source, resume=resume, overwrite=overwrite)
    tally = Tally(rows or (100 if output is None else 0))
    is_stopped = False
    with scoring_job(options, source, prints=output == "-") as job, file or nullcontext():
        signature = job.scorer.signature
        chosen = None if job.n_rows is None else shard_of(shard, job.n_rows)
        if isinstance(file, ResumableFile):
            settings = {
                "--shard": shard, "--pairs": include_pairs, "--spans": include_spans, "--rows": rows
            }  # fmt: skip
            same = {"the signature": must_match(signature)} | what_is_read(source, job.digests)
            what = None if chosen is None else same | settings
            file.open(what, None if chosen is None else len(chosen))
            if file.state is not None:
                tally.restore(file.state)
        writer = None
        if file is not None:
            writer = RowWriter(
                file,
                is_csv=is_csv,
                include_file=len(source.paths) > 1,
                include_probability=has_probability(signature),
                is_continued=tally.total > 0,
                **included,
            )
        try:
            for window in job.windows(chosen, skip=tally.total):
                for row, result in window:
                    tally.add(row, result)
                    if writer is not None:
                        writer.write(row, result, signature)
                is_stopped = job.fail_fast and window[-1][1].status == "error"
                if file is not None and not is_stopped:
                    file.commit(tally.total, tally.state())
                job.progress.show(tally.counts())
        except KeyboardInterrupt:
            rest = f"; {file.advice}" if isinstance(file, ResumableFile) else ""
            raise Interrupted(f"interrupted{rest}") from None
        if file is not None and not is_stopped:
            file.finish()
    if output is None or rows is not None:
        show(score_table(tally, signature))
    if is_stopped and isinstance(file, ResumableFile) and not options["quiet"]:
        click.echo(f"stopped at the first error; the rows up to it are in {file.part}", err=True)
    finish(tally, options)


def _results_file(
    path: str | None, source: JobInput, *, resume: bool, overwrite: bool
) -> OutputFile | ResumableFile | None:
    """Return the file for results: a `ResumableFile` if it is neither a stream nor a device."""
    if path is None or is_stream(path):
        for option in options_given(("resume", "overwrite")):
            got = "no -o" if path is None else f"-o {path}"
            raise InputError(f"{option} needs the name of a file, but got {got}; add -o FILE")
        return None if path is None else open_output(path, inputs=source.paths)
    if resume and source.is_stream:
        raise InputError(
            f"--resume needs input that can be read again, but got {source.name}; write it to a "
            "file first"
        )
    return ResumableFile(path, inputs=source.paths, resume=resume, overwrite=overwrite)
