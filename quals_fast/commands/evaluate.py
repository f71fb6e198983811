"""`quals-fast evaluate`: agreement of scores with human judgements."""

from __future__ import annotations

import json
from typing import Any

import click

from quals_fast.commands.options import (
    CALIBRATION,
    INPUT_OPTIONS,
    METRIC_OPTIONS,
    QUIET,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import (
    finish,
    job_input,
    require,
    results_file,
    scoring_job,
    usage_errors,
)

OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE",
                 help="Also write the result to FILE as one JSON object. - writes it to standard "
                      "output instead of the table."),
    click.option("--label", default="label", metavar="NAME",
                 help="JSON key or column of the human judgement: a number, higher for more "
                      "consistent."),
    click.option("--positive-from", type=float, default=1.0,
                 help="For AUC, summaries with this label or a higher one count as consistent."),
    click.option("--resamples", type=click.IntRange(1), default=1000,
                 help="Number of bootstrap resamples for each confidence interval."),
    CALIBRATION,
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups({"Input": INPUT_OPTIONS, "Output": OUTPUT_OPTIONS, **METRIC_OPTIONS})
def evaluate(
    output: str | None, label: str, positive_from: float, resamples: int, **options: Any
) -> None:
    """Compare scores with human judgements.

    Prints Pearson, Spearman and Kendall correlations and AUC, each with a 95 % confidence interval.
    The same statistics are shown for ROUGE between summary and document, which any measure of
    consistency should beat. With --calibration, the probabilities are compared with the judgements
    too, which must then be from 0 to 1.

    \b
    Judgements from 0 to 1 in the field "label":
      quals-fast evaluate labelled.jsonl
    Judgements from 1 to 5, of which 4 and 5 count as consistent:
      quals-fast evaluate labelled.csv --label rating --positive-from 4 -o agreement.json

    Exit codes: 0 if every row was processed, 1 if at least one row has status error, 2 if the
    command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    from quals_fast.calibrating import reliability_on_others
    from quals_fast.evaluation import Labels, compare
    from quals_fast.pages.display import show
    from quals_fast.pages.reliability import reliability_table
    from quals_fast.pages.tables import Tally, agreement_table

    if output is not None and output.lower().endswith(".csv"):
        raise click.UsageError(
            f"-o writes a JSON object, but got the file name {output}; use one that ends in .json"
        )
    message = (
        "evaluate needs SciPy, scikit-learn and rouge-score: "
        'pip install ".[evaluate]" in the checkout'
    )
    require("scipy", "sklearn", "rouge_score", message=message)
    tally = Tally(0)
    labels = Labels(label, are_shares=options["calibration"] is not None)
    with (
        scoring_job(options, job_input(options, check=labels.check)) as job,
        results_file(output, options) as file,
    ):
        for row, result in job.results():
            tally.add(row, result)
            labels.add(row, result)
        with usage_errors(ValueError):
            agreements = compare(
                labels.rows,
                name=options["metric"].upper(),
                positive_from=positive_from,
                n_resamples=resamples,
            )
        calibration, found = getattr(job.scorer, "calibration", None), None
        if calibration is not None:
            found, n_seen = reliability_on_others(labels.rows, calibration)
        if file is not None:
            content: dict[str, Any] = {"signature": job.scorer.signature}
            content["agreement"] = [one.to_dict() for one in agreements]
            if calibration is not None:
                figures = {} if found is None else found.to_dict()
                content["probability"] = {"n": 0, "n_seen": n_seen} | figures
            file.write(json.dumps(content) + "\n")
    if output is None or (output != "-" and not options["quiet"]):
        if calibration is not None:
            show(reliability_table(found, n_seen))
        show(agreement_table(agreements, job.scorer.signature))
    finish(tally, options)
