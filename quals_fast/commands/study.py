"""`quals-fast study`: pages on which people compare two systems, and what they voted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from quals_fast.commands.options import FORMAT_OPTIONS, QUIET, GroupedCommand, with_groups
from quals_fast.commands.running import job_input, options_given, require, usage_errors
from quals_fast.errors import InputError
from quals_fast.jobs.inputs import matching_files
from quals_fast.jobs.output import named_errors, open_output
from quals_fast.jobs.pairing import pair_texts, system_names

FILES = click.argument("files", nargs=-1, required=True)
OUTPUT = click.option(
    "-o", "--output", metavar="PATH",
    help="New folder for the pages and key.json. With --votes, also write the outcome to this file "
         "as one JSON object; - writes it to standard output instead of the table.",
)  # fmt: skip
DRAW_OPTIONS = (
    click.option("--by", metavar="NAME",
                 help="JSON key or column of the system's name, if both systems share a file."),
    click.option("--pairs", type=click.IntRange(1), default=100,
                 help="Number of documents to draw, each with a summary by both systems."),
    click.option("--annotators", type=click.IntRange(1), default=3,
                 help="Number of pages, one for each annotator. All have the same pairs."),
    click.option("--seed", type=int, default=0,
                 help="Random seed for the documents, their order, and which summary is A."),
    *FORMAT_OPTIONS,
)  # fmt: skip
VOTES_OPTIONS = (
    click.option("--votes", "is_outcome", is_flag=True,
                 help="Show the outcome: FILES are the votes that annotators saved."),
    click.option("--key", metavar="FILE",
                 help="Key of the study. By default, key.json beside the votes."),
    click.option("--scores", nargs=2, metavar="FILE FILE",
                 help="Files that quals-fast score wrote, one for each system in the order of the "
                      "study: also compare the scores with the votes on factual consistency."),
    click.option("--resamples", type=click.IntRange(1), default=1000,
                 help="Number of bootstrap resamples for each confidence interval."),
)  # fmt: skip
ONLY_DRAW = (
    "by", "pairs", "annotators", "seed",
    "file_format", "encoding", "document_field", "summary_field",
)  # fmt: skip
ONLY_VOTES = ("key", "scores", "resamples")


@click.command(cls=GroupedCommand)
@with_groups(
    {
        "Input": (FILES,),
        "Output": (OUTPUT, QUIET),
        "Making a study": DRAW_OPTIONS,
        "Counting votes": VOTES_OPTIONS,
    }
)
def study(
    files: tuple[str, ...], output: str | None, quiet: bool, is_outcome: bool, **options: Any
) -> None:
    """Let people compare the summaries of two systems.

    Makes one page for each annotator, which shows documents with two summaries, in random order and
    without the names of the systems. People say which summary is better in factual consistency,
    informativeness and grammar, and save their votes. The pages need no network. Only key.json
    tells which summary is whose: keep it from the annotators.

    \b
    Make pages from two files with summaries of the same documents:
      quals-fast study a.jsonl b.jsonl -o study/ --pairs 100 --annotators 3
    Make them from one file, with the systems in the field "system":
      quals-fast study summaries.jsonl --by system -o study/
    Show what people voted:
      quals-fast study --votes study/votes-*.json --key study/key.json
    Compare the votes with scores of all summaries:
      quals-fast study --votes study/votes-*.json --scores a-scores.jsonl b-scores.jsonl

    Exit codes: 0 if every row was read, 1 if at least one row could not be read (the study is made
    of the others), 2 if the command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    for option in options_given(ONLY_DRAW if is_outcome else ONLY_VOTES):
        where = "without --votes" if is_outcome else "with --votes"
        raise click.UsageError(f"{option} works only {where}; leave it out")
    with usage_errors(InputError):
        files = matching_files(files, "FILES")
        if is_outcome:
            _show_outcome(files, output, quiet, **{name: options[name] for name in ONLY_VOTES})
        else:
            require("jinja2", message="the pages need Jinja: pip install jinja2")
            _make_study(files, output, quiet, options)


def _make_study(
    files: tuple[str, ...], output: str | None, quiet: bool, options: dict[str, Any]
) -> None:
    """Pair the summaries, draw some, and write pages and key."""
    from quals_fast.pages.display import count
    from quals_fast.study.design import draw
    from quals_fast.study.page import render_page
    from quals_fast.study.pairs import Candidates

    if output is None:
        raise InputError("a study needs a folder for its pages, but got none; add -o FOLDER")
    folder, n_pairs, n_annotators = Path(output), options["pairs"], options["annotators"]
    if (folder / "key.json").exists():
        raise InputError(
            f"-o must be a new folder, but {output} has the key of a study, without which its "
            "votes are lost; choose another name"
        )
    pairing, bad = pair_texts(
        job_input(options | {"input": files}), system_names(files), by=options["by"]
    )
    if len(pairing.systems) != 2:
        raise InputError(
            f"a study compares two systems, but got {', '.join(pairing.systems) or 'none'}; give a "
            "file for each of two systems, or one file with --by"
        )
    candidates = Candidates.of(pairing)
    left_out = [*candidates.left_out()]
    if pairing.unpaired():
        left_out.append(f"{pairing.unpaired_line()}; left out")
    if bad:
        problem = bad[0].problem or "document and summary must be strings"
        left_out.append(f"{count(len(bad), 'row')} not read, first {bad[0].place}: {problem}")
    n = len(candidates.pairs)
    if n < n_pairs:
        advice = f"ask for fewer with --pairs {n}" if n else "both need the same documents"
        raise InputError(
            f"a study of {n_pairs} pairs needs as many documents with different summaries, but got "
            + "; ".join([str(n), *left_out, advice])
        )
    first, second = pairing.systems
    drawn = draw(
        candidates.pairs,
        systems=(first, second),
        n_pairs=n_pairs,
        n_annotators=n_annotators,
        seed=options["seed"],
        n_identical=candidates.n_identical,
    )
    with named_errors(output):
        folder.mkdir(exist_ok=True)
    for annotator in range(1, n_annotators + 1):
        with open_output(str(folder / f"annotator-{annotator}.html")) as file:
            file.write(render_page(drawn, annotator))
    with open_output(str(folder / "key.json")) as file:  # the last, as a sign that all is there
        file.write(json.dumps(drawn.to_dict()) + "\n")
    if not quiet:
        done = f"wrote {output}: {n_pairs} of {count(n, 'pair')}"
        done += f" for {count(n_annotators, 'annotator')}; keep key.json from them"
        click.echo("; ".join([done, *left_out]), err=True)
    sys.exit(1 if bad else 0)


def _show_outcome(
    files: tuple[str, ...],
    output: str | None,
    quiet: bool,
    *,
    key: str | None,
    scores: tuple[str, str] | None,
    resamples: int,
) -> None:
    """Count the votes, and compare them with scores."""
    from quals_fast.pages.display import show
    from quals_fast.study.design import ATTRIBUTES
    from quals_fast.study.outcome import attribute_outcome, metric_outcome
    from quals_fast.study.table import outcome_table
    from quals_fast.study.votes import read_study

    drawn, ballots = read_study(_in_folders(files), key)
    outcomes = [
        attribute_outcome(attribute, ballots, n_resamples=resamples) for attribute in ATTRIBUTES
    ]
    metric = scores and metric_outcome(drawn, ballots, scores, n_resamples=resamples)
    if output is not None:
        content = {
            "study": drawn.id,
            "systems": drawn.systems,
            "n_pairs": len(drawn.pairs),
            "n_identical": drawn.n_identical,
            "annotators": [
                {"annotator": one.annotator, "file": one.file, "n_answers": one.n_answers}
                for one in ballots
            ],
            "attributes": [one.to_dict() for one in outcomes],
            "metric": metric and metric.to_dict(),
        }
        with open_output(output, inputs=files) as file:
            file.write(json.dumps(content) + "\n")
    if output is None or (output != "-" and not quiet):
        show(outcome_table(drawn, ballots, outcomes, metric))


def _in_folders(files: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files, with the folder of a study replaced by the votes in it."""
    found: list[str] = []
    for file in files:
        inside = sorted(map(str, Path(file).glob("votes*.json"))) if os.path.isdir(file) else [file]
        if not inside:
            raise InputError(f"{file} must have votes of a study, but has no file votes*.json")
        found += inside
    return tuple(dict.fromkeys(found))
