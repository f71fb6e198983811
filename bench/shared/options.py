"""The command line of a benchmark: options that many of them have mean the same everywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODELS = ("qagen-mini", "bart-base", "bart-large")  # the bundled one, and it grown to these sizes
TINY = "tiny"  # for dry runs; nothing that it measures means anything
EVERY_MODEL = (*MODELS, TINY)

OPTIONS: dict[str, dict[str, Any]] = {
    "data": {"type": Path, "help": "JSON lines; the project's examples without"},
    "device": {},
    "dtype": {},
    "model": {"choices": EVERY_MODEL},
    "rows": {"type": int},
    "rounds": {"type": int},
}


def command_line(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Return the parser of a command, which may get options of its own.

    Args:
        description: of the command: the docstring of its module.
        defaults: of those of `OPTIONS` that it has.
    """
    parser = argparse.ArgumentParser(
        prog=_program(),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default, **OPTIONS[name])
    return parser


def _program() -> str | None:
    """Return how the command was called; None for argparse's own guess."""
    spec = sys.modules["__main__"].__spec__
    return None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def fill_in(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Give options that were left out the defaults of the chosen mode."""
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
