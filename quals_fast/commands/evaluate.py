"""`quals-fast evaluate`: agreement of scores with human judgements."""

from __future__ import annotations

import json
from typing import Any

import click

from quals_fast.commands.options import (
    INPUT_OPTIONS,
    METRIC_OPTIONS,
    QUIET,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import finish, require, results_file, scoring_job, usage_errors

OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE",
                 help="Write one JSON object to FILE; - is standard output."),
    click.option("--label", default="label",
                 help="Key or column of the human judgement, a number."),
    click.option("--positive-from", type=float, default=1.0,
                 help="For the AUC, labels from this value up count as consistent."),
    click.option("--resamples", type=click.IntRange(1), default=1000,
                 help="Bootstrap resamples behind each interval."),
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": OUTPUT_OPTIONS, **METRIC_OPTIONS})
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
    message = 'evaluate needs the extra evaluate: pip install ".[evaluate]" in the checkout'
    require("scipy", "sklearn", "rouge_score", message=message)
    tally, labels = Tally(0), Labels(label)
    with (
        scoring_job(options, check=labels.check) as (scorer, results),
        results_file(output, options) as file,
    ):
        for row, result in results:
            tally.add(row, result)
            labels.add(row, result)
        with usage_errors(ValueError):
            agreements = compare(
                labels.rows,
                name=options["metric"].upper(),
                positive_from=positive_from,
                n_resamples=resamples,
            )
        if file is not None:
            content = [one.to_dict() for one in agreements]
            file.write(json.dumps({"signature": scorer.signature, "agreement": content}) + "\n")
    if output is None or (output != "-" and not options["quiet"]):
        show(agreement_table(agreements, scorer.signature))
    finish(tally, options)
