"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from quals_fast import __version__
from quals_fast.commands.options import (
    CONSEQ,
    CONSEQ_OPTIONS,
    EVALUATE_OUTPUT,
    EXPLAIN_OUTPUT,
    INPUT_OPTIONS,
    METRIC_OPTIONS,
    ONLY_QAGS,
    ONLY_QUALS,
    QUIET,
    READING,
    REFERENCE_OPTIONS,
    SCORE_OUTPUT,
    SCORER_OPTIONS,
    SETTING_OPTIONS,
    GroupedCommand,
    with_groups,
    with_options,
)
from quals_fast.commands.streams import UsageFailure, guarded_output
from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.errors import BackendUnavailableError
from quals_fast.jobs.files import InputError, InputRow, OutputFile, RowWriter, open_output
from quals_fast.jobs.scoring import JobInput, Scorer, score_rows, usable_rows
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.processes import bound_spinning
from quals_fast.training.qagen.options import TRAINING_OPTIONS, training_settings
from quals_fast.training.qagen.settings import TrainingError

if TYPE_CHECKING:
    from quals_fast.pages.tables import Tally


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="quals-fast")
def app() -> None:
    """Score the factual consistency of summaries with QUALS.

    INPUT is a file (JSON lines, a JSON array, CSV; gzip too) with a document and a summary a row; -
    is standard input. A score near 0 means that the document supports the summary's facts; clearly
    negative, that it does not.

    \b
    quals-fast score pairs.jsonl                  a table
    quals-fast score pairs.jsonl -o scores.jsonl  one line a row
    quals-fast explain pairs.jsonl --html why.html
    quals-fast evaluate labelled.jsonl --label label
    quals-fast score pairs.jsonl --metric qags    the baseline
    quals-fast export qagen-mini exported/ --dtype int8
    quals-fast conseq pairs.jsonl --summariser model/ -o trained/
    quals-fast train-qagen --train squad.json --init facebook/bart-large -o qagen-large
    """  # noqa: D301 - click must get the character that the backslash stands for


@app.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": SCORE_OUTPUT, **METRIC_OPTIONS})
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
    with _job(options, prints=output == "-") as (scorer, results), _output(output, options) as file:
        writer = RowWriter(file, is_csv=is_csv, include_pairs=include_pairs) if file else None
        for row, result in results:
            tally.add(row, result)
            if writer is not None:
                writer.write(row, result, scorer.signature)
    if output is None or rows is not None:
        show(score_table(tally, scorer.signature))
    _close(tally, options)


@app.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": EXPLAIN_OUTPUT, **SCORER_OPTIONS})
def explain(html: str | None, ids: tuple[str, ...], top: int | None, **options: Any) -> None:
    """Show why: each row's pairs, worst first, token by token.

    Each token is shown with its log-probabilities given the summary and given the document. A large
    drop marks what the document does not support.
    """
    from quals_fast.pages.display import show, signature_line
    from quals_fast.pages.explain import ExplainedRow, render_html, render_terminal
    from quals_fast.pages.tables import Tally

    if html is not None and top is not None:
        raise click.UsageError("--top is for the terminal, but got --html; the page has all pairs")
    tally = Tally(0)
    explained = []
    with (
        _job(options, ids=ids, prints=html is None) as (scorer, results),
        _output(html, options) as file,
    ):
        for row, result in results:
            tally.add(row, result)
            one = ExplainedRow.of(row, result)
            if file is None:
                show(render_terminal(one, max_pairs=top))
            else:
                explained.append(one)
        if file is None:
            show(signature_line(scorer.signature))
        else:
            file.write(render_html(explained, scorer.signature))
    if html is not None and not options["quiet"]:
        click.echo(f"wrote {html}", err=True)
    _close(tally, options)


@app.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": EVALUATE_OUTPUT, **METRIC_OPTIONS})
def evaluate(
    output: str | None, label: str, positive_from: float, resamples: int, **options: Any
) -> None:
    """Compare scores with human judgements.

    Pearson, Spearman, Kendall and AUC with 95 % intervals, beside those of ROUGE between summary
    and document, which any measure of consistency should beat.
    """
    from quals_fast.evaluation import Labels, compare
    from quals_fast.pages.display import show
    from quals_fast.pages.tables import Tally, agreement_table

    if output is not None and output.lower().endswith(".csv"):
        raise click.UsageError(
            f"-o is for one JSON object, but got the name {output}; use one that ends in .json"
        )
    tally, labels = Tally(0), Labels(label)
    with _job(options, check=labels.check) as (scorer, results), _output(output, options) as file:
        for row, result in results:
            tally.add(row, result)
            labels.add(row, result)
        with _usage_errors(ValueError, ModuleNotFoundError):
            found = compare(
                labels.rows,
                name=options["metric"].upper(),
                positive_from=positive_from,
                n_resamples=resamples,
            )
        if file is not None:
            content = {"signature": scorer.signature, "agreement": [a.to_dict() for a in found]}
            file.write(json.dumps(content) + "\n")
    if output is None or (output != "-" and not options["quiet"]):
        show(agreement_table(found, scorer.signature))
    _close(tally, options)


@app.command()
@click.argument("model", metavar="MODEL")
@click.argument("output", metavar="OUT")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    help="int8: the search stays exact but for a screen of the vocabulary.",
)
@click.option(
    "--single-file",
    is_flag=True,
    help="Write all of the score as one graph, the file OUT, in float32 and with the settings "
    "below, for any program with ONNX Runtime: token ids in, scores and kept pairs out. The "
    "model's tokenizer must be WordPiece.",
)
@with_options(*SETTING_OPTIONS)
def export(model: str, output: str, dtype: str, single_file: bool, **options: Any) -> None:
    """Write MODEL as ONNX graphs to the new folder OUT, and check them on real texts.

    MODEL is the bundled model's name or a local folder. What is written is scored with --model OUT,
    by ONNX Runtime and without PyTorch. Exit code: 1 when the graphs differ from the model by more
    than their type explains, 2 on wrong usage.
    """
    with _usage_errors(ModuleNotFoundError):
        if find_spec("torch") is None:
            raise ModuleNotFoundError("exporting needs PyTorch: pip install 'quals-fast[onnx]'")
    from quals_fast.export.exporter import ExportParityError

    run = _export_single_file if single_file else _export_folder
    try:
        with _usage_errors(ValueError, TypeError, ModuleNotFoundError, BackendUnavailableError):
            click.echo(run(model, output, dtype, options))
    except ExportParityError as error:
        raise click.ClickException(str(error)) from error


@app.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Training": (*CONSEQ_OPTIONS, QUIET), **SCORER_OPTIONS})
def conseq(summariser: str, output: str, **options: Any) -> None:
    """Train a summariser with ConSeq on the documents and summaries of INPUT.

    Draws samples, scores them and the summaries, keeps the documents with a good summary and a bad
    sample, and trains: likelier summaries, unlikelier samples. --device is for both models; the
    options from --model on are the scorer's.
    """
    from quals_fast.pages.display import count, progress_bar

    with _usage_errors(ModuleNotFoundError):
        if find_spec("accelerate") is None or find_spec("transformers") is None:
            raise ModuleNotFoundError("conseq needs the extra train: pip install '.[train]'")
    from transformers.utils.logging import disable_progress_bar

    from quals_fast.scorer import QualsScorer
    from quals_fast.training.conseq.config import ConSeqConfig
    from quals_fast.training.conseq.pipeline import run_conseq

    disable_progress_bar()  # of loading; it would run through ours
    with (
        _usage_errors(InputError, ValueError, OSError, BackendUnavailableError),
        progress_bar(hidden=options["quiet"]) as progress,
    ):
        own = {name: options[name] for name in CONSEQ}
        lengths = {f"{end}_length": options[f"sample_{end}_length"] for end in ("min", "max")}
        config = ConSeqConfig(**own, **lengths)
        reading = {name: options[name] for name in READING}
        rows, left_out = usable_rows(
            JobInput(path=options["input"], **reading), fail_fast=options["fail_fast"]
        )
        scorer = _scorer(options) if config.by == "quals" else None
        if scorer is not None and not isinstance(scorer, QualsScorer):
            raise ValueError("conseq takes no --backend reference; leave it out")
        tasks: dict[str, Any] = {}

        def show_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        found = run_conseq(
            [row.document for row in rows],
            [row.summary for row in rows],
            model=summariser,
            output=output,
            scorer=scorer,
            config=config,
            device=options["device"],
            on_progress=show_progress,
        )
    if not options["quiet"]:
        click.echo(
            f"wrote {found.model}: trained on {found.n_chosen} of {found.n_documents} documents, "
            f"of which {found.n_judged} had scores; left out {count(left_out, 'row')} of no use",
            err=True,
        )


@app.command("train-qagen")
@with_options(*TRAINING_OPTIONS)
def train_qagen(**options: Any) -> None:
    """Fine-tune a BART to generate question-answer pairs, and write a folder for --model.

    The same command again goes on from the last whole checkpoint. On several GPUs: torchrun
    --nproc-per-node N --no-python quals-fast train-qagen ... . Exit code: 2 on wrong usage or data,
    and when a checkpoint cannot be written.
    """
    with _usage_errors(ValueError):
        settings = training_settings(options)
    with _usage_errors(ModuleNotFoundError):
        from quals_fast.training.qagen.pipeline import train

    with _usage_errors(TrainingError, CheckpointError):
        train(settings, click.echo)


def main() -> None:
    """Run the command line."""
    bound_spinning()
    with guarded_output():
        app(prog_name="quals-fast")


@contextmanager
def _job(
    options: dict[str, Any],
    *,
    ids: tuple[str, ...] = (),
    check: Callable[[InputRow], None] | None = None,
    prints: bool = False,
) -> Iterator[tuple[Scorer, Iterator[tuple[InputRow, Any]]]]:
    """Load the model and score the input's rows behind a progress bar.

    Args:
        options: of the command.
        ids: score only the rows with these.
        check: raises on a row that makes the job pointless.
        prints: each row goes to standard output as it comes, and would break a bar beside it.
    """
    from quals_fast.pages.display import progress_bar

    reading = {name: options[name] for name in READING}
    rows = JobInput(path=options["input"], ids=ids, check=check, **reading)
    hidden = options["quiet"] or (prints and sys.stdout.isatty())
    with _usage_errors(InputError):
        total = rows.survey()
        with progress_bar(hidden=hidden) as progress:
            task = progress.add_task("loading the model", total=total)
            with _usage_errors(ValueError, BackendUnavailableError, ModuleNotFoundError):
                scorer = _scorer(options)
            progress.update(task, description="scoring")
            results = score_rows(
                scorer,
                rows,
                fail_fast=options["fail_fast"],
                on_progress=lambda n: progress.advance(task, n),
            )
            yield scorer, results


def _scorer(options: dict[str, Any]) -> Scorer:
    """Make the scorer that the options ask for."""
    metric = options.get("metric", "quals")
    if "metric" in options:
        _refuse_options_of_the_other(metric)
    if metric == "qags":
        return _qags_scorer(options)
    settings = _settings(options)
    if options["backend"] == "reference":
        from quals_fast.reference.quals import ReferenceScorer

        for name, allowed in REFERENCE_OPTIONS.items():
            if options[name] not in allowed:
                raise ValueError(
                    "`--backend reference` runs one text at a time, in float32 on the CPU, but "
                    f"got --{name.replace('_', '-')} {options[name]}; leave it out"
                )
        return ReferenceScorer(options["model"], **settings)
    from quals_fast.scorer import QualsScorer

    placement = {name: options[name] for name in ("device", "dtype", "backend", "threads")}
    if options["max_batch_tokens"] is not None:
        placement["max_batch_tokens"] = options["max_batch_tokens"]
    return QualsScorer.from_pretrained(options["model"], **placement, **settings)


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of search and score that the options ask for."""
    max_pairs = options["max_pairs"]
    if max_pairs != "all" and not max_pairs.isdecimal():
        raise ValueError(f"`--max-pairs` must be a whole number or 'all', but got {max_pairs!r}")
    scoring = ScoringConfig(
        summary_logprob=options["summary_logprob"],
        max_pairs=None if max_pairs == "all" else int(max_pairs),
        no_pairs_score=options["no_pairs_score"],
    )
    decoding = DecodingConfig(**{name: options[name] for name in DecodingConfig.__slots__})
    return {"decoding": decoding, "scoring": scoring}


def _export_folder(model: str, output: str, dtype: str, options: dict[str, Any]) -> str:
    """Export graphs and say what was found."""
    from quals_fast.export.exporter import export as write

    for option in _given(options):
        raise ValueError(f"`{option}` is for --single-file; without it, give it to score")
    parity = write(model, output, dtype=dtype)
    return (
        f"wrote {output} ({dtype}); log-probabilities differ by {parity['max_abs_delta']:.1e} at "
        f"most and {parity['mean_abs_delta']:.1e} on average, and "
        f"{100 * parity['identical_sequences']:.0f} % of the sequences are the same"
    )


def _export_single_file(model: str, output: str, dtype: str, options: dict[str, Any]) -> str:
    """Export one graph and say what was found."""
    from quals_fast.export.single_file import export_single_file

    if dtype != "float32":
        raise ValueError(f"`--single-file` is for --dtype float32, but got {dtype}")
    parity = export_single_file(model, output, **_settings(options))
    return (
        f"wrote {output}; {100 * parity['identical_pairs']:.0f} % of {parity['pairs']} pairs are "
        f"the model's, and log-probabilities and scores differ by {parity['max_abs_delta']:.1e} at "
        "most"
    )


def _qags_scorer(options: dict[str, Any]) -> Scorer:
    """Make the scorer of `--metric qags`."""
    from quals_fast.qags import QagsScorer

    return QagsScorer.from_pretrained(
        options["qags_models"],
        arm=options["qags_arm"],
        setting=options["qags_setting"],
        answer_filter=options["qags_filter"],
        **{name: options[name] for name in ("device", "dtype", "seed", "max_batch_tokens")},
    )


def _refuse_options_of_the_other(metric: str) -> None:
    """Refuse what was asked for and would have no effect."""
    other = "quals" if metric == "qags" else "qags"
    for option in _given(ONLY_QUALS if metric == "qags" else ONLY_QAGS):
        raise ValueError(
            f"`{option}` is for --metric {other}, but got --metric {metric}; leave one of them out"
        )


def _given(names: Iterable[str]) -> list[str]:
    """Return the options among these parameters that stand on the command line."""
    source = click.get_current_context().get_parameter_source
    on_line = click.core.ParameterSource.COMMANDLINE
    return [f"--{name.replace('_', '-')}" for name in names if source(name) is on_line]


def _output(path: str | None, options: dict[str, Any]) -> AbstractContextManager[OutputFile | None]:
    """Open the file for results if one is asked for."""
    return nullcontext() if path is None else open_output(path, input_path=options["input"])


@contextmanager
def _usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise UsageFailure(str(error)) from error


def _close(tally: Tally, options: dict[str, Any]) -> None:
    """Say what was done, and end with the exit code of the job."""
    if not options["quiet"]:
        click.echo(tally.closing_line(), err=True)
    sys.exit(1 if tally.statuses["error"] else 0)
