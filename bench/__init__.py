"""Benchmarks and checks; run from a checkout as ``python -m bench.<name>``. Not in the wheel."""

from pathlib import Path

# So that a command has a short name, whichever room it is in; code imports by the full name.
ROOMS = ("shared", "checks", "studies", "recipes")
__path__ += [str(Path(__file__).parent / room) for room in ROOMS]
