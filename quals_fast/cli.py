"""The command line: parse, call, print."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from quals_fast import __version__
from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.files import InputError, InputRow, RowWriter, open_output, read_rows
from quals_fast.jobs import Scorer, score_rows
from quals_fast.results import SummaryScore

if TYPE_CHECKING:
    from quals_fast.tables import Tally

D, S = DecodingConfig(), ScoringConfig()

INPUT_OPTIONS = (
    click.argument("input", metavar="INPUT"),
    click.option(
        "--format",
        "file_format",
        type=click.Choice(["auto", "jsonl", "csv"]),
        default="auto",
        help="Of INPUT; auto goes by its name.",
    ),
    click.option("--encoding", default="utf-8", help="Of INPUT."),
    click.option("--document-field", default="document", help="Key or column of the document."),
    click.option("--summary-field", default="summary", help="Key or column of the summary."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first row with status error."),
    click.option("--quiet", is_flag=True, help="No progress bar and no closing line."),
)
MODEL_OPTIONS = (
    click.option("--model", default="qagen-mini", help="The bundled model, or a local folder."),
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ..."),
    click.option("--dtype", default="auto", help="auto, float32, bfloat16 or float16."),
    click.option("--backend", default="auto",
                 help="auto or eager; reference runs the slow program that defines correct."),
    click.option("--max-batch-tokens", type=int, default=None,
                 help="Tokens that the network holds at once; sets peak memory."),
    click.option("--rule", default=D.rule, help="Of the search: fairseq09 (published) or hamming."),
    click.option("--num-beams", type=int, default=D.num_beams, help="Hypotheses a summary."),
    click.option("--num-beam-groups", type=int, default=D.num_beam_groups,
                 help="Groups that penalise one another; must divide the beams."),
    click.option("--diversity-penalty", type=float, default=D.diversity_penalty, help="Nats."),
    click.option("--length-penalty", type=float, default=D.length_penalty,
                 help="Exponent of a hypothesis' length."),
    click.option("--min-length", type=int, default=D.min_length, help="Tokens before an end."),
    click.option("--max-length", type=int, default=D.max_length,
                 help="Tokens before the end is forced."),
    click.option("--summary-logprob", default=S.summary_logprob,
                 help="model, or search: with the diversity penalty in it, as published."),
    click.option("--max-pairs", default=str(S.max_pairs),
                 help="Pairs at which selection stops after its round, or all."),
    click.option("--no-pairs-score", type=float, default=None,
                 help="Score of a summary without pairs; by default it has none."),
)  # fmt: skip
OUTPUT = click.option(
    "-o", "--output", help="Write JSON lines here (CSV if it ends in .csv; - is standard output)."
)


def _with(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Add options in the order in which they are listed."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="quals-fast")
def app() -> None:
    """Score the factual consistency of summaries with QUALS.

    INPUT is a file of JSON lines or CSV with a document and a summary a row; - is standard input.
    A score near 0 means that the document supports the summary's facts; clearly negative, that it
    does not.

    \b
    quals-fast score pairs.jsonl                  a table
    quals-fast score pairs.jsonl -o scores.jsonl  one line a row
    quals-fast explain pairs.jsonl --html why.html
    quals-fast evaluate labelled.jsonl --label label
    """  # noqa: D301 - click must get the character that the backslash stands for


@app.command()
@_with(*INPUT_OPTIONS, OUTPUT)
@click.option("--pairs", "include_pairs", is_flag=True, help="Add all pairs to each output line.")
@click.option("--rows", type=click.IntRange(1), default=100, help="Rows of the table: the lowest.")
@_with(*MODEL_OPTIONS)
def score(output: str | None, include_pairs: bool, rows: int, **options: Any) -> None:
    """Score each summary of INPUT against its document.

    Exit code: 0 when all rows were handled, 1 when at least one has status error, 2 on wrong usage.
    """
    from quals_fast.tables import Tally, score_table

    tally = Tally(rows)
    with _job(options) as (scorer, results), _output(output, options) as file:
        is_csv = output is not None and output.lower().endswith(".csv")
        writer = RowWriter(file, is_csv=is_csv, include_pairs=include_pairs) if file else None
        for row, result in results:
            tally.add(row, result)
            if writer is not None:
                writer.write(row, result, scorer.signature)
    if output != "-":
        _print(score_table(tally))
    _close(tally, scorer.signature, options)


@app.command()
@_with(*INPUT_OPTIONS)
@click.option("--html", help="Write one page for all rows, readable without a network.")
@click.option("--id", "ids", multiple=True, help="Only the row with this id; may be repeated.")
@click.option("--top", type=click.IntRange(1), help="Worst pairs of a row to print; else all.")
@_with(*MODEL_OPTIONS)
def explain(html: str | None, ids: tuple[str, ...], top: int | None, **options: Any) -> None:
    """Show why: each row's pairs, worst first, token by token.

    Beside each token stand its log-probabilities given the summary and given the document. Large
    drops give the summary away.
    """
    from quals_fast.explain import ExplainedRow, render_html, render_terminal
    from quals_fast.tables import Tally

    if html is not None and top is not None:
        raise click.UsageError("--top is for the terminal, but got --html; the page has all pairs")
    tally = Tally(0)
    explained = []
    found_ids = set()
    with _job(options, ids=ids) as (scorer, results), _output(html, options) as file:
        for row, result in results:
            tally.add(row, result)
            found_ids.add(str(row.id))
            texts = {"summary": str(row.summary or ""), "document": str(row.document or "")}
            one = ExplainedRow(id=str(row.id), result=result, **texts)
            if file is None:
                _print(render_terminal(one, max_pairs=top))
            else:
                explained.append(one)
        _require_ids(ids, found_ids, options)
        if file is not None:
            file.write(render_html(explained, scorer.signature))
    if html is not None and not options["quiet"]:
        click.echo(f"wrote {html}", err=True)
    _close(tally, scorer.signature, options)


@app.command()
@_with(*INPUT_OPTIONS, OUTPUT)
@click.option("--label", default="label", help="Key or column of the human judgement, a number.")
@click.option("--positive-from", type=float, default=1.0,
              help="Labels from here up count as consistent in the AUC.")  # fmt: skip
@click.option("--resamples", type=click.IntRange(1), default=1000, help="Of the bootstrap.")
@_with(*MODEL_OPTIONS)
def evaluate(
    output: str | None, label: str, positive_from: float, resamples: int, **options: Any
) -> None:
    """Compare scores with human judgements.

    Pearson, Spearman, Kendall and AUC with 95 % intervals, beside those of ROUGE between summary
    and document, which any measure of consistency should beat.
    """
    from quals_fast.evaluation import LabelledRow, compare
    from quals_fast.tables import Tally, agreement_table

    def labelled_row(row: InputRow, score: float = math.nan) -> LabelledRow | None:
        with _usage_errors():
            return None if row.problem else LabelledRow.of(row, label, score)

    tally = Tally(0)
    labelled = []
    with (
        _job(options, check=labelled_row) as (scorer, results),
        _output(output, options) as file,
    ):
        for row, result in results:
            tally.add(row, result)
            one = labelled_row(row, result.score)
            if one is not None and result.status != "error":
                labelled.append(one)
        with _usage_errors():
            found = compare(labelled, positive_from=positive_from, n_resamples=resamples)
        if file is not None:
            content = {"signature": scorer.signature, "agreement": [a.to_dict() for a in found]}
            file.write(json.dumps(content) + "\n")
    if output != "-":
        _print(agreement_table(found))
    _close(tally, scorer.signature, options)


def main() -> None:
    """Run the command line."""
    try:
        app(prog_name="quals-fast")
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _job(
    options: dict[str, Any],
    *,
    ids: tuple[str, ...] = (),
    check: Callable[[InputRow], object] | None = None,
) -> Iterator[tuple[Scorer, Iterator[tuple[InputRow, SummaryScore]]]]:
    """Load the model and score the input's rows behind a progress bar.

    Args:
        options: of the command.
        ids: score only the rows with these.
        check: raises on a row that makes the job pointless.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    def rows() -> Iterator[InputRow]:
        everything = read_rows(
            options["input"],
            file_format=options["file_format"],
            encoding=options["encoding"],
            document_field=options["document_field"],
            summary_field=options["summary_field"],
        )
        return (row for row in everything if not ids or str(row.id) in ids)

    total = None
    if not _is_stream(options["input"]):
        # Reading a file twice costs little, and shows a bad one before the model is loaded.
        total, found_ids = 0, set()
        with _usage_errors():
            for row in rows():
                total += 1
                found_ids.add(str(row.id))
                if check is not None:
                    check(row)
        _require_ids(ids, found_ids, options)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=options["quiet"] or not sys.stderr.isatty(),
    )
    with progress:
        task = progress.add_task("loading the model", total=total)
        with _usage_errors():
            scorer = _scorer(options)
        progress.update(task, description="scoring")
        results = score_rows(
            scorer,
            rows(),
            fail_fast=options["fail_fast"],
            on_progress=lambda n: progress.advance(task, n),
        )
        yield scorer, _reading(results)


def _is_stream(path: str) -> bool:
    """Return whether a path can be read only once, as standard input and bash's <(...) can."""
    return path == "-" or Path(path).is_fifo() or Path(path).is_char_device()


def _require_ids(ids: tuple[str, ...], found: set[str], options: dict[str, Any]) -> None:
    missing = [one for one in ids if one not in found]
    if missing:
        name = "standard input" if options["input"] == "-" else options["input"]
        raise _UsageFailure(
            f"no row of {name} has the id {' or '.join(missing)}; a row without an id "
            "goes by its line number"
        )


def _reading(
    results: Iterator[tuple[InputRow, SummaryScore]],
) -> Iterator[tuple[InputRow, SummaryScore]]:
    """Pass results on; a file that breaks off in the middle is a wrong file."""
    try:
        yield from results
    except InputError as error:
        raise _UsageFailure(str(error)) from error


def _scorer(options: dict[str, Any]) -> Scorer:
    """Make the scorer that the options ask for."""
    max_pairs = options["max_pairs"]
    if max_pairs != "all" and not max_pairs.isdecimal():
        raise ValueError(f"`--max-pairs` must be a whole number or 'all', but got {max_pairs!r}")
    scoring = ScoringConfig(
        summary_logprob=options["summary_logprob"],
        max_pairs=None if max_pairs == "all" else int(max_pairs),
        no_pairs_score=options["no_pairs_score"],
    )
    decoding = DecodingConfig(**{name: options[name] for name in DecodingConfig.__slots__})
    settings: dict[str, Any] = {"decoding": decoding, "scoring": scoring}
    if options["backend"] == "reference":
        from quals_fast.reference.quals import ReferenceScorer

        for name in ("device", "dtype", "max_batch_tokens"):
            if options[name] not in ("auto", "cpu", "float32", None):
                raise ValueError(
                    "`--backend reference` runs one text at a time, in float32 on the CPU, but got "
                    f"--{name.replace('_', '-')} {options[name]}; leave it out"
                )
        return ReferenceScorer(options["model"], **settings)
    from quals_fast.scorer import QualsScorer

    placement = {name: options[name] for name in ("device", "dtype", "backend")}
    if options["max_batch_tokens"] is not None:
        placement["max_batch_tokens"] = options["max_batch_tokens"]
    return QualsScorer.from_pretrained(options["model"], **placement, **settings)


@contextmanager
def _output(path: str | None, options: dict[str, Any]) -> Iterator[TextIO | None]:
    """Open the file for results if one is asked for; standard output stays open afterwards."""
    if path is None:
        yield None
        return
    with _usage_errors():
        both = Path(path), Path(options["input"])
        if all(one.is_file() for one in both) and both[0].samefile(both[1]):
            raise InputError(
                f"the output must be another file than INPUT, but both are {path}; give a new name"
            )
        file = open_output(path)
    try:
        with nullcontext() if file is sys.stdout else file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:  # the disk is full
        raise _UsageFailure(f"cannot write {path}: {error.strerror}") from error


class _UsageFailure(click.ClickException):
    """What the caller can mend: one line on standard error, exit code 2."""

    exit_code = 2


@contextmanager
def _usage_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        raise _UsageFailure(str(error)) from error


def _print(renderable: Any) -> None:
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may know fewer characters than we do
        sys.stdout.reconfigure(errors="backslashreplace")
    # Without a terminal there is no width to go by, and 80 columns would break every question.
    Console(width=None if sys.stdout.isatty() else 120).print(renderable)


def _close(tally: Tally, signature: str, options: dict[str, Any]) -> None:
    """Say what was done, and end with the exit code of the job."""
    if not options["quiet"]:
        click.echo(tally.closing_line(), err=True)
        click.echo(signature, err=True)
    sys.exit(1 if tally.statuses["error"] else 0)
