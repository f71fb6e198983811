"""`quals-fast calibrate`: from scores to probabilities, as people judged."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

from quals_fast import __version__
from quals_fast.calibration import settings_of
from quals_fast.commands.options import (
    INPUT_OPTIONS,
    MODEL_OPTIONS,
    QUIET,
    SETTING_OPTIONS,
    GroupedCommand,
    with_groups,
)
from quals_fast.commands.running import (
    finish,
    job_input,
    require,
    scoring_job,
    usage_errors,
)
from quals_fast.jobs.output import check_name, open_output

OUTPUT_OPTIONS = (
    click.option("-o", "--output", required=True, metavar="FILE",
                 help="Write the calibration to FILE, as JSON; an existing file is replaced."),
    click.option("--label", default="label", metavar="NAME",
                 help="JSON key or column of the human judgement: 1 or true for consistent, 0 or "
                      "false for inconsistent, or a number between them, such as the share of "
                      "judgements for consistent."),
    click.option("--method", type=click.Choice(["auto", "logistic", "isotonic"]), default="auto",
                 help="Kind of the curve. auto: the one with the lowest cross-validated log loss."),
    click.option("--html", metavar="FILE",
                 help="Also write a page with the reliability diagram to FILE."),
    QUIET,
)  # fmt: skip


@click.command(cls=GroupedCommand)
@with_groups(
    {
        "Input": INPUT_OPTIONS,
        "Output": OUTPUT_OPTIONS,
        "Model": MODEL_OPTIONS,
        "Search": SETTING_OPTIONS,
    }
)
def calibrate(output: str, label: str, method: str, html: str | None, **options: Any) -> None:
    """Fit probabilities to human judgements.

    Scores INPUT and fits the probability that people call a summary consistent. It goes by the
    score and, where that helps, by the number of question-answer pairs and by whether a text was
    cut off. A label between 0 and 1 counts as that share of a consistent row and the rest of an
    inconsistent one.

    Prints how far the probabilities hold on documents that the fit has not seen, beside a
    probability that is always the same: the Brier score, the log loss, the expected calibration
    error (ECE) and a reliability diagram. Lower is better.

    \b
    Fit, then score with probabilities:
      quals-fast calibrate labelled.jsonl --label label -o calibration.json
      quals-fast score pairs.jsonl --calibration calibration.json

    A calibration holds for one model, with the settings that you fit it with, and for summaries
    like those in INPUT.

    Exit codes: 0 if every row was processed, 1 if at least one row has status error, 2 if the
    command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    message = 'calibrate needs scikit-learn: pip install ".[evaluate]" in the checkout'
    require("sklearn", "scipy", message=message)
    from quals_fast.calibrating import FORMS, JudgedRow, calibration_file, check_rows, fit
    from quals_fast.evaluation import Labels
    from quals_fast.pages.display import show
    from quals_fast.pages.reliability import fit_table, render_reliability
    from quals_fast.pages.tables import Tally

    tally, labels = Tally(0), Labels(label, are_shares=True)
    given = job_input(options, check=labels.check)
    with usage_errors(ValueError):
        for path in filter(None, (output, html)):
            check_name(path, [options["input"]])
        if not given.is_stream:  # scoring may take hours, and would not mend these
            check_rows([labels.of(row) for row in given if row.problem is None])
    rows = []
    with scoring_job(options, given) as job:
        for row, result in job.results():
            tally.add(row, result)
            if result.status == "ok":
                judged = labels.of(row, result)
                rows.append(
                    JudgedRow.of(
                        judged.document, judged.label, score=result.score,
                        n_pairs=len(result.pairs), truncated_tokens=result.truncated_tokens,
                    )
                )  # fmt: skip
        signature = job.scorer.signature
    with usage_errors(ValueError):
        forms = [form for form in FORMS if method in ("auto", form.method)]
        fitted = fit(rows, forms=forms)
        about = {
            "file": options["input"],
            "label": label,
            "rows_without_score": tally.total - len(rows),
            "date": datetime.now(UTC).date().isoformat(),
            "quals_fast": __version__,
        }
        content = calibration_file(fitted, rows, settings=settings_of(signature), fitted_on=about)
        with open_output(output) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        if html is not None:
            page = render_reliability(fitted, content["fitted_on"], signature)
            with open_output(html) as file:
                file.write(page)
    if output != "-" and not options["quiet"]:
        show(fit_table(fitted, signature, n_without_score=tally.total - len(rows)))
    finish(tally, options)
