"""The command line: the group of the commands, and the program."""

from __future__ import annotations

import click

from quals_fast import __version__
from quals_fast.commands.conseq import conseq
from quals_fast.commands.evaluate import evaluate
from quals_fast.commands.explain import explain
from quals_fast.commands.export import export
from quals_fast.commands.score import score
from quals_fast.commands.streams import guarded_output
from quals_fast.commands.train_qagen import train_qagen
from quals_fast.processes import bound_spinning


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


for command in (score, explain, evaluate, export, conseq, train_qagen):
    app.add_command(command)


def main() -> None:
    """Run the command line."""
    bound_spinning()
    with guarded_output():
        app(prog_name="quals-fast")
