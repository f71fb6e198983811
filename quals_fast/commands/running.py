"""How a command runs: the scorer that its options ask for, the job over INPUT, and its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quals_fast.commands.options import METRICS_OF
from quals_fast.commands.streams import UsageFailure
from quals_fast.config import DecodingConfig, ScoringConfig
from quals_fast.errors import BackendUnavailableError, InputError
from quals_fast.jobs.inputs import JobInput, matching_files
from quals_fast.jobs.output import OutputFile, open_output
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scoring import Scorer, Window, score_windows

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from quals_fast.pages.tables import Tally
    from quals_fast.scorer import QualsScorer


LOG_SECONDS = 60  # between two lines of progress where there is no terminal


@dataclass(slots=True)
class JobProgress:
    """A job's progress: a bar on a terminal, otherwise a line a minute.

    Attributes:
        bar: the progress bar.
        task: its task.
        logs: whether to print lines.
    """

    bar: Progress
    task: TaskID
    logs: bool
    _logged_at: float = field(default_factory=time.monotonic)

    def show(self, counts: str) -> None:
        """Show the counts by status with the progress."""
        self.bar.update(self.task, counts=counts)
        task, now = self.bar.tasks[0], time.monotonic()
        if not self.logs or task.finished or now - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = now
        of = "" if task.total is None else f" of {task.total:,.0f}"
        line = f"{task.completed:,.0f}{of} rows: {counts}"
        if task.speed:
            line += f"; {task.speed:.1f} rows/s"
        if task.time_remaining is not None:
            line += f", {timedelta(seconds=task.time_remaining)} left"
        click.echo(line, err=True)


@dataclass(slots=True)
class ScoringJob:
    """A job over INPUT, with a loaded model, behind a progress bar.

    Attributes:
        scorer: scores the rows.
        rows: what is scored.
        n_rows: number of rows; None for a stream.
        digests: name and hash of each file; empty for a stream.
        fail_fast: whether the job ends at the first row with status ``error``.
        progress: shows how far the job is.
    """

    scorer: Scorer
    rows: JobInput | list[InputRow]
    n_rows: int | None
    digests: list[str]
    fail_fast: bool
    progress: JobProgress

    def windows(self, chosen: range | None = None, *, skip: int = 0) -> Iterator[Window]:
        """Score rows.

        Args:
            chosen: which rows of a file; None for all.
            skip: how many of these have been scored before.
        """
        total = self.n_rows if chosen is None else len(chosen)
        bar, task = self.progress.bar, self.progress.task
        bar.reset(task, total=total, completed=skip, description="scoring")
        bar.advance(task, 0)  # the rate counts from here, not from the first rows
        rows = self.rows if chosen is None else islice(self.rows, chosen.start + skip, chosen.stop)
        return score_windows(
            self.scorer,
            rows,
            fail_fast=self.fail_fast,
            on_progress=lambda n: bar.advance(task, n),
        )

    def results(self) -> Iterator[tuple[InputRow, Any]]:
        """Score all rows and yield them one by one."""
        return chain.from_iterable(self.windows())


@contextmanager
def scoring_job(
    options: dict[str, Any], rows: JobInput | list[InputRow], *, prints: bool = False
) -> Iterator[ScoringJob]:
    """Look at the input, load the model, and show the job's progress.

    Args:
        options: of the command.
        rows: what is scored: the rows of INPUT, or some that were read before.
        prints: whether each row is printed to standard output at once; then a terminal shows no
            progress bar, which these lines would break.
    """
    from quals_fast.pages.display import progress_bar

    hidden = options["quiet"] or (prints and sys.stdout.isatty())
    if "metric" in options:  # explain has no other than QUALS
        _refuse_options_of_others(options.get("metrics", [options["metric"]]))
    with usage_errors(InputError):
        n_rows, digests = (len(rows), []) if isinstance(rows, list) else look(rows, hidden=hidden)
        options = fetch_model(options)
        with progress_bar(hidden=hidden) as progress:
            task = progress.add_task("loading the model", total=n_rows, counts="")
            with usage_errors(ValueError, BackendUnavailableError, ModuleNotFoundError):
                scorer = _scorer(options)
            logs = not hidden and not sys.stderr.isatty()
            shown = JobProgress(progress, task, logs)
            yield ScoringJob(scorer, rows, n_rows, digests, options["fail_fast"], shown)


def check_metrics(options: dict[str, Any], metrics: Iterable[str]) -> None:
    """Load the models of metrics and drop them: what is wrong with one is found before the work."""
    for metric in metrics:
        of_metric = fetch_model(options | {"metric": metric})
        with usage_errors(ValueError, BackendUnavailableError, ModuleNotFoundError):
            _scorer(of_metric)


def job_input(
    options: dict[str, Any],
    *,
    ids: tuple[str, ...] = (),
    check: Callable[[InputRow], None] | None = None,
) -> JobInput:
    """Return the rows of INPUT, read as the options say.

    Args:
        options: of the command; `input` is one name, or several names and patterns.
        ids: take only the rows with these.
        check: raises on a row that makes the job pointless.
    """
    names = ("file_format", "encoding", "document_field", "summary_field")
    reading = {name: options[name] for name in names}
    given = options["input"]
    with usage_errors(InputError):
        paths = (given,) if isinstance(given, str) else matching_files(given)
    return JobInput(paths=paths, ids=ids, check=check, **reading)


def look(rows: JobInput, *, hidden: bool) -> tuple[int | None, list[str]]:
    """Read INPUT before the work, behind a progress bar.

    Args:
        rows: what is scored.
        hidden: whether to show nothing.

    Returns:
        `n_rows` and `digests` as in `ScoringJob`.

    Raises:
        InputError: a file cannot be read.
    """
    from quals_fast.pages.display import progress_bar

    with progress_bar(hidden=hidden) as progress:
        progress.add_task("reading the input", total=None, counts="")
        return rows.survey() or (None, [])


def what_is_read(rows: JobInput, digests: list[str]) -> dict[str, Any]:
    """Return what must be equal about the input of a job that is resumed, by its name."""
    options = {
        "--format" if name == "file_format" else f"--{name.replace('_', '-')}": value
        for name, value in rows.reading.items()
    }
    return {"the input": digests, **options}


def results_file(
    path: str | None, options: dict[str, Any]
) -> AbstractContextManager[OutputFile | None]:
    """Open the file for results, if there is one."""
    return nullcontext() if path is None else open_output(path, inputs=[options["input"]])


def finish(tally: Tally, options: dict[str, Any]) -> None:
    """Print the summary line and exit with the job's exit code."""
    if not options["quiet"]:
        click.echo(tally.closing_line(), err=True)
    sys.exit(1 if tally.statuses["error"] else 0)


def require(*modules: str, message: str) -> None:
    """End the command with a message, before any work, if a module is not installed."""
    if any(find_spec(module) is None for module in modules):
        raise UsageFailure(message)


@contextmanager
def usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds into one line on standard error and exit code 2."""
    try:
        yield
    except kinds as error:
        raise UsageFailure(str(error)) from error


def fetch_model(options: dict[str, Any]) -> dict[str, Any]:
    """Fetch the model if it is named on the hub; return the options with its folder.

    The client's progress bars come first, since they would run through ours.
    """
    from quals_fast.backends import check_weights_run
    from quals_fast.models.hub import fetch, is_hub_name

    metric = options.get("metric", "quals")
    key = "model" if metric == "quals" else "classifier"
    name = options[key]
    if metric == "qags" or name is None or not is_hub_name(name):
        return options
    show_progress = sys.stderr.isatty() and not options["quiet"]
    with usage_errors(ValueError, BackendUnavailableError, ModuleNotFoundError):
        if metric == "quals":
            placement = {name: options[name] for name in ("device", "dtype", "backend")}
            check = partial(check_weights_run, name, **placement)
            folder = fetch(
                name, options["revision"], show_progress=show_progress, before_weights=check
            )
        else:
            folder = _classifier_folder(metric, name, options["revision"], show_progress)
    return options | {key: str(folder), "revision": None}


def quals_scorer(options: dict[str, Any], *, cache_bytes: int = 0) -> QualsScorer:
    """Load the scorer that the options under Model and Search ask for."""
    from quals_fast.scorer import QualsScorer

    names = ("revision", "device", "dtype", "backend", "max_batch_tokens", "threads")
    placement = {name: options[name] for name in names} | {"cache_bytes": cache_bytes}
    placement["calibration"] = options.get("calibration")  # some commands have no use for it
    return QualsScorer.from_pretrained(options["model"], **placement, **score_settings(options))


def score_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return `decoding` and `scoring` as the options under Search ask for."""
    max_pairs = options["max_pairs"]
    if max_pairs != "all" and not max_pairs.isdecimal():
        raise ValueError(f"`--max-pairs` must be a whole number or 'all', but got {max_pairs!r}")
    scoring = ScoringConfig(
        summary_logprob=options["summary_logprob"],
        tokens=options["tokens"],
        max_pairs=None if max_pairs == "all" else int(max_pairs),
        no_pairs_score=options["no_pairs_score"],
    )
    decoding = DecodingConfig(**{name: options[name] for name in DecodingConfig.__slots__})
    return {"decoding": decoding, "scoring": scoring}


def options_given(names: Iterable[str]) -> list[str]:
    """Return the options among these parameters that were given on the command line."""
    context, on_line = click.get_current_context(), click.core.ParameterSource.COMMANDLINE
    given = {name for name in names if context.get_parameter_source(name) is on_line}
    return [one.opts[-1] for one in context.command.params if one.name in given]


def _scorer(options: dict[str, Any]) -> Scorer:
    """Load the scorer of the chosen metric."""
    metric = options.get("metric", "quals")
    if metric == "quals":
        return quals_scorer(options)
    return _qags_scorer(options) if metric == "qags" else _classifier_scorer(metric, options)


def _qags_scorer(options: dict[str, Any]) -> Scorer:
    require("torch", message='--metric qags needs PyTorch: pip install ".[qags]" in the checkout')
    from quals_fast.qags import QagsScorer

    return QagsScorer.from_pretrained(
        options["qags_models"],
        arm=options["qags_arm"],
        setting=options["qags_setting"],
        answer_filter=options["qags_filter"],
        **{name: options[name] for name in ("device", "dtype", "seed", "max_batch_tokens")},
    )


def _classifier_scorer(metric: Any, options: dict[str, Any]) -> Scorer:
    _require_classifier(metric)
    from quals_fast.classifier import ClassifierScorer
    from quals_fast.classifier.checkpoint import FACTCC_DOWNLOAD

    if options["classifier"] is None:
        advice = f". {FACTCC_DOWNLOAD}" if metric == "factcc" else ""
        raise ValueError(
            f"--metric {metric} needs a model: add --classifier FOLDER, or --classifier OWNER/NAME "
            f"for one on the Hugging Face hub{advice}"
        )
    names = ("positive", "revision", "device", "dtype", "max_batch_tokens")
    settings = {name: options[name] for name in names}
    return ClassifierScorer.from_pretrained(options["classifier"], metric=metric, **settings)


def _classifier_folder(metric: Any, name: str, revision: str | None, show_progress: bool) -> Path:
    _require_classifier(metric)
    from quals_fast.classifier.checkpoint import classifier_folder

    return classifier_folder(name, metric, revision, show_progress=show_progress)


def _require_classifier(metric: str) -> None:
    message = f'--metric {metric} needs PyTorch, transformers and spaCy: pip install ".[qags]"'
    require("torch", "transformers", "spacy", message=f"{message} in the checkout")


def _refuse_options_of_others(asked: Collection[str]) -> None:
    """Refuse options that would have no effect on any of the metrics."""
    got = " ".join(f"--metric {metric}" for metric in asked)
    for name, metrics in METRICS_OF.items():
        for option in options_given([] if set(metrics) & set(asked) else [name]):
            raise UsageFailure(
                f"`{option}` needs --metric {' or '.join(metrics)}, but got {got}; leave one of "
                "them out"
            )
