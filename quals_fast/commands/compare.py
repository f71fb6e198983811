"""`quals-fast compare`: systems that summarised the same documents, compared with a baseline."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import click

from quals_fast.commands.options import (
    METRIC_OPTIONS,
    METRICS,
    METRICS_OF,
    MODEL_OPTIONS,
    QUIET,
    READING_OPTIONS,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import (
    check_metrics,
    finish,
    job_input,
    options_given,
    require,
    scoring_job,
    usage_errors,
)
from quals_fast.errors import InputError
from quals_fast.jobs.inputs import JobInput
from quals_fast.jobs.output import RowWriter, check_name, named_errors, open_output
from quals_fast.jobs.pairing import (
    Pairing,
    holds_scores,
    pair_scores,
    pair_texts,
    system_names,
)
from quals_fast.jobs.parsing import InputRow

if TYPE_CHECKING:
    from quals_fast.comparison import PairedDocument

INPUT_OPTIONS = (
    click.argument("input", metavar="INPUT...", nargs=-1, required=True),
    click.option("--by", metavar="NAME",
                 help="JSON key or column of the system's name, if systems share a file."),
    click.option("--baseline", metavar="SYSTEM",
                 help="System that the others are compared with. By default, the first one."),
    click.option("--reference-field", metavar="NAME",
                 help="JSON key or column of a reference summary: ROUGE is its F1 against the "
                      "reference. By default, ROUGE is its precision against the document."),
    click.option("--unpaired", type=click.Choice(["leave-out", "refuse"]), default="leave-out",
                 help="What to do if some systems lack a document: leave it out, with a warning, "
                      "or stop with an error."),
    *READING_OPTIONS,
)  # fmt: skip
OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE",
                 help="Also write the result to FILE as one JSON object. - writes it to standard "
                      "output instead of the table."),
    click.option("--html", metavar="FILE",
                 help="Also write a page to FILE, without scripts: the table, the differences by "
                      "document, and the documents on which the systems differ most. - writes it "
                      "to standard output instead of the table."),
    click.option("--rows", type=click.IntRange(0, 1000), default=20, metavar="N",
                 help="Show N documents on the page; at most 1000."),
    click.option("--save-scores", metavar="FOLDER",
                 help="Also write each score to FOLDER, as it is computed: for each metric and "
                      "system a file as quals-fast score writes it, such as quals-a.jsonl."),
    click.option("--resamples", type=click.IntRange(100), default=10_000,
                 help="Number of draws for each confidence interval and each p value."),
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups(
    {
        "Input": INPUT_OPTIONS,
        "Output": OUTPUT_OPTIONS,
        **METRIC_OPTIONS,
        "Model": (METRICS, *MODEL_OPTIONS),
    }
)
def compare(
    by: str | None,
    baseline: str | None,
    reference_field: str | None,
    unpaired: str,
    output: str | None,
    html: str | None,
    rows: int,
    save_scores: str | None,
    resamples: int,
    **options: Any,
) -> None:
    """Compare systems that summarised the same documents.

    INPUT is a file for each system, or one file with --by. Rows with the same document are paired.
    Prints the mean of each system by the metrics, by ROUGE, in words and in copied trigrams; and of
    each measure the mean difference to the baseline with a 95 % paired bootstrap interval, the p
    value of a paired randomisation test, and on how many documents each system is higher.

    INPUT may also be files that quals-fast score wrote: then no model is loaded, rows are paired
    by id, and only these scores are compared.

    \b
    Compare b and c with a:
      quals-fast compare a.jsonl b.jsonl c.jsonl
    Compare by several metrics, and by ROUGE with a reference summary:
      quals-fast compare a.jsonl b.jsonl --metric quals --metric qags --reference-field gold
    Compare systems named in the field "system" of one file, and write a page:
      quals-fast compare pairs.jsonl --by system --baseline lead3 --html compared.html
    Compare scores that were computed before:
      quals-fast compare scores_a.jsonl scores_b.jsonl

    Exit codes: 0 if every row was processed, 1 if at least one row has status error or could not be
    read, 2 if the command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    from quals_fast.comparison import compare_systems
    from quals_fast.pages.comparison import comparison_table, render_comparison
    from quals_fast.pages.display import show

    message = 'compare needs rouge-score: pip install ".[evaluate]" in the checkout'
    require("rouge_score", message=message)
    if html is not None:
        require("jinja2", message="--html needs Jinja: pip install jinja2")
    elif options_given(["rows"]):
        raise click.UsageError("--rows is for the page, but got no --html; add --html FILE")
    with_revision = [one for one in options["metrics"] if one in METRICS_OF["revision"]]
    if len(with_revision) > 1 and options_given(["revision"]):
        raise click.UsageError(
            "--revision is of one model, but --metric names several; give their folders instead"
        )
    source = job_input(options)
    with usage_errors(InputError):
        _check_outputs(output, html, source.paths)
        asked = _Asked(
            by, baseline, reference_field, unpaired == "refuse", save_scores, options["quiet"]
        )
        found = (_read_scores if _hold_scores(source) else _score_texts)(source, asked, options)
        if not options["quiet"]:
            for line in found.closing_lines:
                click.echo(line, err=True)
        try:
            comparison = compare_systems(
                found.documents,
                found.systems,
                metrics=found.metrics,
                unpaired=found.unpaired,
                n_resamples=resamples,
            )
        except ValueError as error:  # too few documents have a score
            raise InputError(f"{error}{found.where_scores_are}") from error
        if "-" not in (output, html) and not (options["quiet"] and (output or html)):
            show(comparison_table(comparison, found.signatures))
        if output is not None:
            content = {"signatures": found.signatures} | comparison.to_dict()
            _write(output, json.dumps(content, ensure_ascii=False) + "\n")
        if html is not None:
            _write(html, render_comparison(comparison, found.signatures, rows))
    sys.exit(1 if found.n_bad else 0)


class _Asked(NamedTuple):
    """What the options of this command ask for."""

    by: str | None
    baseline: str | None
    reference_field: str | None
    refuses_unpaired: bool
    save_scores: str | None
    is_quiet: bool


class _Found(NamedTuple):
    """What is compared.

    Attributes:
        systems: their names, the baseline first.
        metrics: their names.
        documents: those of all systems.
        unpaired: the systems that have a document, for each of the others.
        signatures: of the scores.
        n_bad: number of rows with status error, or that cannot be read.
        closing_lines: what was processed.
        where_scores_are: what happens to the scores if there are too few of them.
    """

    systems: list[str]
    metrics: list[str]
    documents: list[PairedDocument]
    unpaired: list[list[str]]
    signatures: list[str]
    n_bad: int
    closing_lines: list[str]
    where_scores_are: str = ""


def _score_texts(source: JobInput, asked: _Asked, options: dict[str, Any]) -> _Found:
    """Pair rows of texts, and score those that all systems have by each metric."""
    from quals_fast.comparison import PairedDocument, ScoredSummary

    names = system_names(source.paths)
    pairing, bad = pair_texts(source, names, by=asked.by, reference_field=asked.reference_field)
    systems = _systems(pairing, asked, names, "their text")
    paired = pairing.paired().values()
    # The rows of a document follow one another, so that it is read once.
    rows = [
        *((None, row) for row in bad),
        *((system, row) for one in paired for system, of in one.items() for row in of),
    ]
    metrics = list(dict.fromkeys(options["metrics"]))
    check_metrics(options, metrics[1:])
    files = _score_files(asked.save_scores, metrics, systems, source.paths)
    scored = [_score_by(metric, rows, files, options) for metric in metrics]
    names_of_metrics = [metric.upper() for metric in metrics]
    scores = zip(*(one.scores[len(bad) :] for one in scored), strict=True)

    def summary(row: InputRow) -> ScoredSummary:
        reference = None if asked.reference_field is None else row.fields[asked.reference_field]
        of_row = dict(zip(names_of_metrics, next(scores), strict=True))
        return ScoredSummary(scores=of_row, summary=row.summary, reference=reference)

    documents = []
    for of_systems in paired:
        first = of_systems[systems[0]][0]
        documents.append(
            PairedDocument(
                label=str(first.id) if "id" in first.fields else first.place,
                document=first.document,
                summaries={system: [*map(summary, of)] for system, of in of_systems.items()},
            )
        )
    return _Found(
        systems=systems,
        metrics=names_of_metrics,
        documents=documents,
        unpaired=[list(one) for one in pairing.unpaired()],
        signatures=[one.signature for one in scored],
        n_bad=max(one.n_bad for one in scored),
        closing_lines=[
            one.closing_line if len(metrics) == 1 else f"{name}: {one.closing_line}"
            for name, one in zip(names_of_metrics, scored, strict=True)
        ],
        where_scores_are=(
            f"; the scores are in {asked.save_scores}"
            if asked.save_scores
            else "; with --save-scores FOLDER, no score is lost"
        ),
    )


class _Scored(NamedTuple):
    """The scores of all rows by a metric."""

    scores: list[float]
    signature: str
    n_bad: int
    closing_line: str


def _score_by(
    metric: str,
    rows: Sequence[tuple[str | None, InputRow]],
    files: Mapping[tuple[str, str], Path],
    options: dict[str, Any],
) -> _Scored:
    """Score rows by one metric, and write the scores to the files.

    Args:
        metric: as the option has it.
        rows: with the system that wrote the summary; None if the row cannot be read.
        files: by metric and system; empty if nothing is to be written.
        options: of the command.
    """
    from quals_fast.pages.tables import Tally

    tally, scores = Tally(0), []
    job_options = options | {"metric": metric}
    with scoring_job(job_options, [row for _, row in rows]) as job, ExitStack() as stack:
        signature = job.scorer.signature
        writers = {
            system: RowWriter(stack.enter_context(open_output(str(path))))
            for (of_metric, system), path in files.items()
            if of_metric == metric
        }
        for (system, _), (row, result) in zip(rows, job.results(), strict=False):
            tally.add(row, result)
            scores.append(result.score)
            if system in writers:
                writers[system].write(row, result, signature)
    if options["fail_fast"] and tally.statuses["error"]:
        finish(tally, options)
    line = tally.closing_line(with_mean=False)
    return _Scored(scores, signature, tally.statuses["error"], line)


def _score_files(
    folder: str | None, metrics: Iterable[str], systems: Sequence[str], inputs: Sequence[str]
) -> dict[tuple[str, str], Path]:
    """Return the file of each metric and system in a folder, which is made; none without one."""
    if folder is None:
        return {}
    files = {
        (metric, system): Path(folder, f"{metric}-{quote(system, safe=' ')}.jsonl")
        for metric in metrics
        for system in systems
    }
    there = next((path for path in files.values() if path.exists()), None)
    if there is not None:
        raise InputError(
            f"--save-scores must be a folder without scores, but {there} is there; choose another, "
            "or delete the file"
        )
    with named_errors(folder):
        Path(folder).mkdir(exist_ok=True)
    for path in files.values():
        check_name(str(path), inputs)
    return files


def _read_scores(source: JobInput, asked: _Asked, options: dict[str, Any]) -> _Found:
    """Pair rows of scores."""
    from quals_fast.comparison import PairedDocument, ScoredSummary
    from quals_fast.pages.display import count

    without_effect = {*options, "reference_field", "save_scores"} - {"input", "quiet"}
    for option in options_given(without_effect):
        raise InputError(
            f"{option} is for files of texts, but {source.name} holds scores; leave it out, or "
            "give the files that were scored"
        )
    names = system_names(source.paths)
    pairing, bad, signatures = pair_scores(names, by=asked.by)
    systems = _systems(pairing, asked, names, "their ids")
    metric = signatures[0].split("|")[0].upper()
    documents = [
        PairedDocument(
            label=key,
            summaries={
                system: [ScoredSummary(scores={metric: rows[system][0].score})]
                for system in systems
            },
        )
        for key, rows in pairing.paired().items()
    ]
    line = count(sum(len(one) for one in pairing.rows.values()), "row")
    if bad:
        first = bad[0]
        line += f"; {count(len(bad), 'line')} not read, first {first.place}: {first.problem}"
    return _Found(
        systems=systems,
        metrics=[metric],
        documents=documents,
        unpaired=[list(one) for one in pairing.unpaired()],
        signatures=signatures,
        n_bad=len(bad),
        closing_lines=[line],
    )


def _systems(
    pairing: Pairing[Any], asked: _Asked, names: Mapping[str, str], paired_by: str
) -> list[str]:
    """Return the systems, the baseline first; refuse what cannot be compared, and warn."""
    from quals_fast.comparison import MIN_DOCUMENTS

    systems = pairing.systems
    if len(systems) < 2:
        raise InputError(
            f"compare needs at least two systems, but got {', '.join(systems) or 'none'}; give a "
            "file for each system, or name the column of the system with --by"
        )
    baseline = systems[0] if asked.baseline is None else names.get(asked.baseline, asked.baseline)
    if baseline not in systems:
        raise InputError(
            f"`--baseline` must be one of the systems {', '.join(systems)}, but got {baseline!r}"
        )
    n_paired, unpaired = len(pairing.paired()), pairing.unpaired()
    if unpaired and (asked.refuses_unpaired or not n_paired):
        advice = "add the missing rows" + (", or leave out --unpaired refuse" if n_paired else "")
        raise InputError(
            f"every document must be in the rows of every system, where rows are paired by "
            f"{paired_by}, but {pairing.unpaired_line()}; {advice}"
        )
    if n_paired < MIN_DOCUMENTS:
        others = f"; {pairing.unpaired_line()}" if unpaired else ""
        raise InputError(
            f"a comparison needs at least {MIN_DOCUMENTS} documents that every system has, where "
            f"rows are paired by {paired_by}, but got {n_paired}{others}; add documents"
        )
    if unpaired and not asked.is_quiet:
        click.echo(f"warning: {pairing.unpaired_line()}; left out", err=True)
    return [baseline, *(system for system in systems if system != baseline)]


def _hold_scores(source: JobInput) -> bool:
    """Return whether the files are of scores; refuse a mixture, and what can be read only once."""
    if source.is_stream:
        raise InputError(
            f"compare needs files, but got {source.name}; write what you have to files first"
        )
    kinds = {holds_scores(path, source.document_field): path for path in source.paths}
    if len(kinds) == 2:
        raise InputError(
            "the files must all hold texts, or all scores as written by quals-fast score, but "
            f"{kinds[False]} holds texts and {kinds[True]} holds scores"
        )
    return True in kinds


def _check_outputs(output: str | None, html: str | None, inputs: Sequence[str]) -> None:
    """Refuse, before the work, outputs that cannot be."""
    if output is not None and output.lower().endswith((".csv", ".html")):
        raise InputError(
            f"-o writes a JSON object, but got the file name {output}; use one that ends in .json, "
            "or --html for a page"
        )
    for path in filter(None, (output, html)):
        check_name(path, inputs)
    if output is not None and output == html:
        raise InputError(f"-o and --html must be different files, but both are {output}")


def _write(path: str, text: str) -> None:
    with open_output(path) as file:
        file.write(text)
