"""The command line: the group of the commands, and the program."""

from __future__ import annotations

from typing import Any

import click

from quals_fast import __version__
from quals_fast.commands.calibrate import calibrate
from quals_fast.commands.compare import compare
from quals_fast.commands.conseq import conseq
from quals_fast.commands.evaluate import evaluate
from quals_fast.commands.explain import explain
from quals_fast.commands.export import export
from quals_fast.commands.report import report
from quals_fast.commands.score import score
from quals_fast.commands.serve import serve
from quals_fast.commands.streams import Interrupted, guarded_output
from quals_fast.commands.study import study
from quals_fast.commands.train_qagen import train_qagen
from quals_fast.processes import bound_spinning


class App(click.Group):
    """The commands; Ctrl-C ends each of them with one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


@click.group(
    cls=App, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(__version__, prog_name="quals-fast")
def app() -> None:
    """Score the factual consistency of summaries with QUALS.

    QUALS generates questions and answers from a summary and compares how likely they are given the
    summary and given the document. A score near 0 means that the document supports the summary; a
    clearly negative score means that it does not.

    INPUT is a file with one document and one summary per row: JSON lines, a JSON array, CSV
    (these optionally compressed with gzip) or Parquet. Use - to read standard input.

    \b
    Print a table of scores:
      quals-fast score pairs.jsonl
    Write one JSON object per row:
      quals-fast score pairs.jsonl -o scores.jsonl
    Show these scores in one page:
      quals-fast report scores.jsonl -o report.html
    See which questions and tokens lowered a score:
      quals-fast explain pairs.jsonl --html why.html
    Compare scores with human judgements in the field "label":
      quals-fast evaluate labelled.jsonl --label label
    Turn scores into probabilities, as people judged:
      quals-fast calibrate labelled.jsonl -o calibration.json
      quals-fast score pairs.jsonl --calibration calibration.json
    Compare systems that summarised the same documents:
      quals-fast compare a.jsonl b.jsonl
    Let people compare two systems, on pages that do not name them:
      quals-fast study a.jsonl b.jsonl -o study/
    Score with QAGS, the baseline:
      quals-fast score pairs.jsonl --metric qags
    Export a model to ONNX and score with the export:
      quals-fast export qagen-mini exported/ --dtype int8
      quals-fast score pairs.jsonl --model exported/
    Score over HTTP, and on a page in the browser:
      quals-fast serve
    Train a summariser with QUALS:
      quals-fast conseq pairs.jsonl --summariser model/ -o trained/
    Train a model of your own for QUALS:
      quals-fast train-qagen --train squad.json --init facebook/bart-large -o qagen-large
    """  # noqa: D301 - click must get the character that the backslash stands for


for command in (
    score, report, explain, evaluate, calibrate, compare, study, export, serve, conseq,
    train_qagen,
):  # fmt: skip
    app.add_command(command)


def main() -> None:
    """Run the command line."""
    bound_spinning()
    with guarded_output():
        app(prog_name="quals-fast")
