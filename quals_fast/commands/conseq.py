"""`quals-fast conseq`: train a summariser on samples that QUALS has scored."""

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
from quals_fast.commands.running import (
    fetch_model,
    job_input,
    quals_scorer,
    require,
    usage_errors,
)
from quals_fast.errors import BackendUnavailableError, InputError
from quals_fast.jobs.scoring import usable_rows
from quals_fast.training.conseq.config import By, ConSeqConfig

C = ConSeqConfig()

TRAINING_OPTIONS = (
    click.option("--summariser", required=True, metavar="FOLDER",
                 help="Model to train: a local sequence-to-sequence model in Hugging Face format, "
                      "already fine-tuned on the summaries."),
    click.option("-o", "--output", required=True, metavar="FOLDER",
                 help="Folder for samples, scores, training pairs and the trained model. Run the "
                      "same command again to resume an interrupted run."),
    click.option("--by", type=click.Choice(get_args(By)), default=C.by,
                 help="Metric that scores samples and summaries. rouge is the baseline."),
    click.option("--samples", "num_samples", type=int, default=C.num_samples,
                 help="Summaries to sample for each document."),
    click.option("--top-k", type=int, default=C.top_k,
                 help="Sample each token from the k most likely ones."),
    click.option("--sample-min-length", type=int, default=C.min_length,
                 help="Minimum length of a sample, in tokens."),
    click.option("--sample-max-length", type=int, default=C.max_length,
                 help="Maximum length of a sample, in tokens."),
    click.option("--positive-fraction", type=float, default=C.positive_fraction,
                 help="Share of documents, those with the best-scoring summaries, to learn from. A "
                      "document is used if it is in this share and in --negative-fraction's."),
    click.option("--negative-fraction", type=float, default=C.negative_fraction,
                 help="Share of documents, those with the worst-scoring samples, to learn from."),
    click.option("--learning-rate", type=float, default=C.learning_rate,
                 help="Initial learning rate of Adam; it falls linearly to 0."),
    click.option("--epochs", type=int, default=C.epochs,
                 help="Passes over the documents that were chosen."),
    click.option("--batch-size", type=int, default=C.batch_size,
                 help="Documents per training step, and per batch when sampling."),
    click.option("--label-smoothing", type=float, default=C.label_smoothing,
                 help="Label smoothing of the loss, from 0 to below 1."),
    click.option("--max-source-tokens", type=int, default=C.max_source_tokens,
                 help="Truncate documents to this many tokens for the summariser."),
    click.option("--seed", type=int, default=C.seed, help="Random seed for sampling and training."),
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Training": (*TRAINING_OPTIONS, QUIET), **SCORER_OPTIONS})
def conseq(summariser: str, output: str, **options: Any) -> None:
    """Train a summariser with ConSeq.

    INPUT holds documents with reference summaries. ConSeq samples summaries from the summariser,
    scores samples and references, and keeps the documents with a good reference and a bad sample.
    Then it trains the summariser to make these references more likely and these samples less
    likely.

    The options under Model and Search configure the scorer; --device sets the device of both
    models.

    \b
    Train with QUALS:
      quals-fast conseq pairs.jsonl --summariser bart-xsum/ -o trained/
    Train with ROUGE, the baseline, on the same samples:
      quals-fast conseq pairs.jsonl --summariser bart-xsum/ -o trained/ --by rouge

    Exit codes: 0 if the model was trained, 2 if the command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    from quals_fast.pages.display import count, progress_bar

    message = 'conseq needs accelerate and transformers: pip install ".[train]" in the checkout'
    require("accelerate", "transformers", message=message)
    from transformers.utils.logging import disable_progress_bar

    from quals_fast.training.conseq.pipeline import run_conseq

    if options["by"] == "quals":
        options = fetch_model(options)
    disable_progress_bar()  # loading has a bar of its own, which would disturb ours
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
            f"wrote {trained.model}; trained on {trained.n_chosen} of {trained.n_documents} "
            f"documents ({trained.n_judged} had scores); "
            f"skipped {count(n_skipped, 'unusable row')}",
            err=True,
        )
