"""`quals-fast score --runner ray`: files scored on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quals_fast.commands.options import METRICS_OF
from quals_fast.commands.running import (
    JobProgress,
    finish,
    look,
    options_given,
    require,
    score_settings,
    usage_errors,
    what_is_read,
)
from quals_fast.commands.streams import Interrupted, UsageFailure
from quals_fast.errors import InputError
from quals_fast.jobs.inputs import JobInput

if TYPE_CHECKING:
    from quals_fast.pages.tables import Tally
    from quals_fast.scale.directories import OutputDirectory

CLUSTER_OPTIONS = (
    click.option("--runner", type=click.Choice(["plain", "ray"]), default="plain",
                 help="plain: score in this process. ray: score on a Ray cluster (extra ray). Then "
                      "FILE is a directory, --threads are the cores of a worker (by default, 1), "
                      "and --device says whether workers have a GPU each."),
    click.option("--address", metavar="ADDRESS",
                 help="Address of the Ray cluster, as for ray.init. By default, $RAY_ADDRESS or "
                      "the cluster on this machine, which is started if there is none."),
    click.option("--workers", type=click.IntRange(1), metavar="N",
                 help="Number of workers. By default, as many as the cluster has room for."),
    click.option("--output-format", type=click.Choice(["jsonl", "parquet"]), default="jsonl",
                 help="Format of the files in the directory."),
)  # fmt: skip
RAY_OPTIONS = ("address", "workers", "output_format")
# What has no effect here: tables, order and single rows are those of one process.
_REFUSED = {
    "rows": "write a directory, and print a table of the joined files with quals-fast report",
    "shard": "Ray shares the rows among the workers",
    "fail_fast": "workers do not wait for one another",
    "metric": "only QUALS is scored on a cluster",
    **{
        option: "only QUALS is scored on a cluster"
        for option, metrics in METRICS_OF.items()
        if "quals" not in metrics
    },
}


def score_on_cluster(
    source: JobInput,
    output: str | None,
    options: dict[str, Any],
    included: dict[str, bool],
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Score INPUT into a directory, print the summary line and exit.

    Args:
        source: the rows.
        output: name of the directory.
        options: of the command.
        included: whether results have the pairs and the spans, as arguments of `RowWriter`.
        resume: continue an earlier job, or start it.
        overwrite: replace an earlier output.
    """
    for option in options_given(_REFUSED):
        why = _REFUSED[option.removeprefix("--").replace("-", "_")]
        raise click.UsageError(f"{option} does not go with --runner ray: {why}; leave it out")
    if output is None or output == "-":
        got = "no -o" if output is None else "-o -"
        raise click.UsageError(f"--runner ray writes a directory, but got {got}; add -o DIRECTORY")
    if source.is_stream:
        raise click.UsageError(
            f"--runner ray needs files, but got {source.name}; write it to a file first"
        )
    if options["device"] not in ("auto", "cpu", "cuda"):
        raise click.UsageError(
            f"`--device` must be auto, cpu or cuda with --runner ray, but got "
            f"{options['device']!r}; Ray chooses the GPU"
        )
    require(
        "ray",
        "pyarrow",
        message='--runner ray needs Ray Data: pip install ".[ray]" in the checkout',
    )
    # Read when a cluster starts: Ray would report how it is used, and print its own concerns.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    from quals_fast.pages.tables import Tally
    from quals_fast.scale.directories import OutputDirectory

    with usage_errors(InputError):
        file = OutputDirectory(output, inputs=source.paths, resume=resume, overwrite=overwrite)
        n_rows, digests = look(source, hidden=options["quiet"])
        what = {
            **what_is_read(source, digests),
            "the model": options["model"],
            "--revision": options["revision"],
            "the settings": str(score_settings(options)),
            "--calibration": options["calibration"],
            "--pairs": included["include_pairs"],
            "--spans": included["include_spans"],
            "--output-format": options["output_format"],
        }
        with file:
            file.open(what)
            if file.summary is None:
                tally = _run(source, n_rows, file, options, included)
                file.finish(what, tally.state())
            else:
                tally = Tally(0)
                tally.restore(file.summary)
    finish(tally, options)


def _run(
    source: JobInput,
    n_rows: int | None,
    file: OutputDirectory,
    options: dict[str, Any],
    included: dict[str, bool],
) -> Tally:
    """Score what is not there yet."""
    from ray.exceptions import RayError

    from quals_fast.pages.display import progress_bar
    from quals_fast.scale.files import FilesJob, score_files
    from quals_fast.scale.workers import Pool

    has_gpus = _connect(options["address"])
    if options["device"] == "cuda" and not has_gpus:
        raise UsageFailure("--device cuda needs a GPU, but the cluster has none; use --device cpu")
    pool = Pool(
        # Readers need no core, so that workers may have all of them.
        concurrency=None if options["workers"] is None else (options["workers"],) * 2,
        num_cpus=options["threads"] or 1,
        num_gpus=1 if has_gpus and options["device"] != "cpu" else 0,
    )
    names = ("revision", "dtype", "backend", "max_batch_tokens", "calibration")
    settings = {name: options[name] for name in names} | score_settings(options)
    with usage_errors(ValueError):
        loading = pool.loading(options["model"], settings)
    job = FilesJob(
        source=source,
        paths=tuple(str(Path(path).resolve()) for path in source.paths),
        folder=file.part,
        file_format=options["output_format"],
        **included,
        done=frozenset(file.files()),
    )
    try:
        with progress_bar(hidden=options["quiet"]) as bar:
            task = bar.add_task("scoring", total=n_rows, counts="")
            shown = JobProgress(bar, task, not options["quiet"] and not sys.stderr.isatty())

            def show(tally: Tally) -> None:
                bar.update(task, completed=tally.total)
                shown.show(tally.counts())

            return score_files(job, pool, loading, on_progress=show)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {file.advice}") from None
    except (RayError, RuntimeError) as error:
        raise UsageFailure(f"{_cause(error)}; {file.advice}") from error


def _connect(address: str | None) -> bool:
    """Connect to the cluster; return whether it has GPUs."""
    import ray

    if not ray.is_initialized():
        try:
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            # Ray raises a plain Exception if its processes do not start in time.
            if type(error) is not Exception and not isinstance(error, ConnectionError | ValueError):
                raise
            raise UsageFailure(f"cannot connect to Ray: {' '.join(str(error).split())}") from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is said in one line
    return ray.cluster_resources().get("GPU", 0) >= 1


def _cause(error: BaseException) -> str:
    """Return the message of the error that a worker raised, without what Ray adds to it."""
    while (cause := getattr(error, "cause", None) or error.__cause__) is not None:
        error = cause
    return " ".join(str(error).partition("\nFailed to apply")[0].split())
