"""The command line of a benchmark; options with the same name mean the same everywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bench.shared import load

MODELS = ("qagen-mini", "bart-base", "bart-large")  # the bundled model, and grown to these sizes
TINY = "tiny"  # for dry runs; its figures are meaningless
EVERY_MODEL = (*MODELS, TINY)
T5S = ("t5-small", "t5-base")  # of these sizes, with random weights
FLANS = ("flan-t5-base", "flan-t5-large")  # likewise, to be trained: they ask nothing

OPTIONS: dict[str, dict[str, Any]] = {
    "data": {"type": Path, "help": "JSON lines with documents and summaries; by default, the "
                                   "project's examples"},
    "device": {"help": "device of the model, such as cpu or cuda"},
    "dtype": {"help": "precision, as for quals-fast score"},
    "model": {"choices": EVERY_MODEL,
              "help": "qagen-mini is the bundled model; bart-base and bart-large grow from it; "
                      "tiny is for dry runs"},
    "rows": {"type": int, "help": "number of rows"},
    "rounds": {"type": int, "help": "number of rounds"},
}  # fmt: skip


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that are numbers or words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = isinstance(action.default, int | float | str) and action.default is not False
        return super()._get_help_string(action) if is_shown and action.default else action.help


def command_line(
    description: str | None, *, is_watched: bool = True, **defaults: Any
) -> argparse.ArgumentParser:
    """Return the parser of a command, to which the command can add options of its own.

    Args:
        description: docstring of the command's module.
        is_watched: whether to watch what other processes take of the machine from now on, if the
            command is what this process runs.
        defaults: the options among `OPTIONS` that the command has, with their defaults; one whose
            default is a list takes several values.
    """
    program = _program()
    if is_watched and program is not None:
        load.begin()
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=_HelpFormatter,
    )
    for name, default in defaults.items():
        nargs = "+" if isinstance(default, list) else None
        parser.add_argument(f"--{name}", default=default, nargs=nargs, **OPTIONS[name])
    return parser


def check_stages(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    stages: Collection[str],
    unit: str,
) -> None:
    """End a run in stages that cannot begin as asked.

    Args:
        parser: of the command.
        arguments: with `stages`, names, and `total`, time for all of them, or None.
        stages: names of those that there are.
        unit: of the time.

    Raises:
        SystemExit: an unknown stage, or no time.
    """
    for name in arguments.stages:
        if name not in stages:
            parser.error(f"STAGE must be one of {', '.join(stages)}, but got {name!r}")
    if arguments.total is not None and arguments.total <= 0:
        parser.error(f"--total must be above 0 {unit}, but got {arguments.total:g}")


def _program() -> str | None:
    """Return how the command was called; None lets argparse guess."""
    spec = sys.modules["__main__"].__spec__
    if spec is None or not spec.name.startswith("bench."):
        return None
    return f"python -m {spec.name.removesuffix('.__main__')}"


def fill_in(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Fill in options that were not given with the defaults of the chosen mode."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
