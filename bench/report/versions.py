"""The section of docs/versions.md on what the tests ran with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.report.results import Reader, StaleResultError
from bench.shared.common import ROOT
from bench.shared.tables import table

OUTCOMES = ROOT / "tests" / "matrix.json"


def versions(_: Reader) -> str:
    """Report the outcome of each cell of tests/matrix.py, and the versions in it.

    Raises:
        StaleResultError: there is no outcome.
    """
    if not OUTCOMES.is_file():
        raise StaleResultError(f"there is no {OUTCOMES}. Write it with `python tests/matrix.py`")
    told = json.loads(OUTCOMES.read_text("utf-8"))
    ran = {name: cell for name, cell in told["cells"].items() if "versions" in cell}
    packages = [
        {"package": package, "range": f"`{admitted}`"}
        | {name: cell["versions"].get(package, "not recorded") for name, cell in ran.items()}
        for package, admitted in told["ranges"].items()
    ]
    outcomes = [_outcome(name, cell) for name, cell in told["cells"].items()]
    failed = [
        f"- {name}: `{test}` failed."
        for name, cell in told["cells"].items()
        for test in cell.get("failed", ())
    ]
    return "\n\n".join(filter(None, [table(outcomes), "\n".join(failed), table(packages)]))


def _outcome(name: str, cell: Mapping[str, Any]) -> dict[str, str]:
    row = {"run": name, "Python": cell["python"], "commit": cell["commit"]}
    if "error" in cell:
        return row | {
            "passed": f"not run: {cell['error'].splitlines()[0].removeprefix('error: ')}",
            "failed": "",
            "skipped": "",
        }
    return row | {
        "passed": f"{cell['passed']:,}",
        "failed": f"{len(cell['failed'])}",
        "skipped": f"{cell['skipped']}",
    }
