"""Run the tests at both ends of every version range in setup.py, each in a fresh environment.

    python tests/matrix.py                 all cells
    python tests/matrix.py lowest-3.11     one of them

What is tested is a clone of the last commit. tests/matrix.json keeps the latest outcome of each
cell, failures included; `python -m bench.report` makes the tables of docs/versions.md from it. A
cell downloads several GB and takes as long as the tests do. Needs uv and the extra `test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from build.util import project_wheel_metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
OUTCOMES = Path(__file__).with_suffix(".json")
# It compares OUTCOMES with setup.py, so it would fail in the run that brings them up to date.
LEFT_OUT = "tests/test_packaging.py::test_both_ends_of_every_range_and_each_python_were_run"
CELLS = ("lowest-3.11", "newest-3.11", "newest-3.12", "newest-3.13", "newest-3.14")


def widest_ranges(metadata: Message) -> dict[str, SpecifierSet]:
    """Return the widest range of each package that the tests need; extras may narrow it."""
    of_name: dict[str, list[Requirement]] = {}
    for line in metadata.get_all("Requires-Dist", []):
        one = Requirement(line)
        if one.specifier:
            of_name.setdefault(canonicalize_name(one.name), []).append(one)
    return {
        name: min((one.specifier for one in ones), key=lowest)
        for name, ones in sorted(of_name.items())
        if any(one.marker is None or one.marker.evaluate({"extra": "test"}) for one in ones)
    }


def lowest(versions: SpecifierSet) -> Version:
    """Return the lowest version of a range."""
    return min(Version(one.version) for one in versions if one.operator in (">=", "=="))


def run_cell(name: str, folder: Path, workers: str) -> dict[str, Any]:
    """Install one cell in `folder` and run the tests there.

    Returns:
        Versions and counts; in their place `error` if the tests could not start.
    """
    end, python = name.split("-")
    checkout, environment, report = (folder / one for one in ("checkout", "python", "tests.xml"))
    said("git", "clone", "--quiet", str(ROOT), str(checkout))
    outcome = {"python": python, "commit": said("git", "rev-parse", "--short", "HEAD", at=checkout)}
    ranges = widest_ranges(project_wheel_metadata(checkout, isolated=False))
    wanted = ["--editable", f"{checkout}[test]"]
    if end == "lowest":  # without the extra `test`, whose range of Triton is narrower than ours
        wanted = ["--editable", f"{checkout}", *(f"{one}=={lowest(ranges[one])}" for one in ranges)]
    variables = {
        **os.environ,
        "VIRTUAL_ENV": str(environment),
        "PATH": f"{environment}/bin:{os.environ['PATH']}",
    }
    for command in (
        ["uv", "venv", "--python", python, str(environment)],
        ["uv", "pip", "install", *wanted],
    ):
        print(f"{name}: {' '.join(command)}", flush=True)
        done = subprocess.run(command, env=variables, text=True, stderr=subprocess.PIPE)
        if done.returncode:
            return outcome | {"error": done.stderr.strip()}
    outcome["python"] = said(f"{environment}/bin/python", "--version").removeprefix("Python ")
    listed = json.loads(said("uv", "pip", "list", "--format=json", f"--python={environment}"))
    versions = {canonicalize_name(one["name"]): one["version"] for one in listed}
    outcome["versions"] = {one: versions[one] for one in ranges}

    began = time.monotonic()
    pytest = f"{environment}/bin/pytest"
    command = [pytest, "-q", f"-n={workers}", f"--junitxml={report}", f"--deselect={LEFT_OUT}"]
    print(f"{name}: {' '.join(command)}", flush=True)
    done = subprocess.run(command, cwd=checkout, env=variables)
    outcome["seconds"] = round(time.monotonic() - began)
    if not report.exists():
        return outcome | {"error": f"pytest ended with exit code {done.returncode}"}
    return outcome | counts(report)


def counts(report: Path) -> dict[str, Any]:
    """Return the numbers of tests, and the names of those that failed, from a JUnit report."""
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    passed = len(cases) - skipped - len(failed)
    return {"passed": passed, "failed": failed, "skipped": skipped}


def said(*command: str, at: Path = ROOT) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, cwd=at, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Run cells, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"of {', '.join(CELLS)}")
    parser.add_argument("--workers", default="auto", help="pytest's -n (default: %(default)s)")
    arguments = parser.parse_args()
    if unknown := set(arguments.cells) - set(CELLS):
        parser.error(f"CELL must be of {', '.join(CELLS)}, but got {', '.join(sorted(unknown))}")
    ranges = widest_ranges(project_wheel_metadata(ROOT, isolated=False))
    cells = json.loads(OUTCOMES.read_text("utf-8"))["cells"] if OUTCOMES.exists() else {}
    failed = []
    for name in arguments.cells or CELLS:
        with tempfile.TemporaryDirectory(prefix="quals-fast-") as scratch:
            outcome = cells[name] = run_cell(name, Path(scratch), arguments.workers)
        write(ranges, cells)
        print(f"{name}: {json.dumps(outcome)}", flush=True)
        if outcome.get("failed") or "error" in outcome:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def write(ranges: Mapping[str, SpecifierSet], cells: Mapping[str, Any]) -> None:
    """Write the outcomes beside the ranges they belong to."""
    content = {
        # The lower bound first.
        "ranges": {name: ",".join(sorted(map(str, ranges[name]), reverse=True)) for name in ranges},
        "cells": {name: cells[name] for name in CELLS if name in cells},
    }
    OUTCOMES.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
