"""`quals-fast conseq`: train a summariser on what QUALS makes of its samples."""

from __future__ import annotations

from typing import Any, get_args

import click

from quals_fast.commands.options import (
    INPUT_OPTIONS,
    QUIET,
    SCORER_OPTIONS,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import job_input, quals_scorer, require, usage_errors
from quals_fast.errors import BackendUnavailableError, InputError
from quals_fast.jobs.scoring import usable_rows
from quals_fast.training.conseq.config import By, ConSeqConfig

C = ConSeqConfig()

TRAINING_OPTIONS = (
    click.option("--summariser", required=True, metavar="FOLDER",
                 help="Sequence-to-sequence model that has learnt the summaries by likelihood."),
    click.option("-o", "--output", required=True, metavar="FOLDER",
                 help="For samples, scores, pairs and the trained model; a run that was stopped "
                      "goes on from there."),
    click.option("--by", type=click.Choice(get_args(By)), default=C.by,
                 help="What judges the samples; rouge is the baseline."),
    click.option("--samples", "num_samples", type=int, default=C.num_samples,
                 help="Of each document."),
    click.option("--top-k", type=int, default=C.top_k, help="Tokens that a sample draws from."),
    click.option("--sample-min-length", type=int, default=C.min_length, help="Tokens."),
    click.option("--sample-max-length", type=int, default=C.max_length, help="Tokens."),
    click.option("--positive-fraction", type=float, default=C.positive_fraction,
                 help="Documents with the best summaries to learn from."),
    click.option("--negative-fraction", type=float, default=C.negative_fraction,
                 help="Documents with the worst samples to learn from."),
    click.option("--learning-rate", type=float, default=C.learning_rate, help="Of Adam."),
    click.option("--epochs", type=int, default=C.epochs, help="Over the chosen documents."),
    click.option("--batch-size", type=int, default=C.batch_size, help="Documents at once."),
    click.option("--label-smoothing", type=float, default=C.label_smoothing, help="Of the loss."),
    click.option("--max-source-tokens", type=int, default=C.max_source_tokens,
                 help="Of a document."),
    click.option("--seed", type=int, default=C.seed, help="Of samples and training."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Training": (*TRAINING_OPTIONS, QUIET), **SCORER_OPTIONS})
def conseq(summariser: str, output: str, **options: Any) -> None:
    """Train a summariser with ConSeq on the documents and summaries of INPUT.

    Draws samples, scores them and the summaries, keeps the documents with a good summary and a bad
    sample, and trains: likelier summaries, unlikelier samples. --device is for both models; the
    options from --model on are the scorer's.
    """
    from quals_fast.pages.display import count, progress_bar

    message = 'conseq needs the extra train: pip install ".[train]" in the checkout'
    require("accelerate", "transformers", message=message)
    from transformers.utils.logging import disable_progress_bar

    from quals_fast.training.conseq.pipeline import run_conseq

    disable_progress_bar()  # of loading; it would run through ours
    with (
        usage_errors(InputError, ValueError, OSError, BackendUnavailableError),
        progress_bar(hidden=options["quiet"]) as progress,
    ):
        own = {name: options[name] for name in ConSeqConfig.__slots__ if name in options}
        # --min-length and --max-length are the search's.
        lengths = {f"{end}_length": options[f"sample_{end}_length"] for end in ("min", "max")}
        config = ConSeqConfig(**own | lengths)
        rows, n_skipped = usable_rows(job_input(options), fail_fast=options["fail_fast"])
        scorer = quals_scorer(options) if config.by == "quals" else None
        tasks: dict[str, Any] = {}

        def show_progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        trained = run_conseq(
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
            f"wrote {trained.model}: trained on {trained.n_chosen} of {trained.n_documents} "
            f"documents, of which {trained.n_judged} had scores; "
            f"skipped {count(n_skipped, 'unusable row')}",
            err=True,
        )
