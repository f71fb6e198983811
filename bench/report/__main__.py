"""Paste the numbers of bench/results into the README and docs, between their markers.

    python -m bench.report          writes the pages
    python -m bench.report --check  ends with exit code 1 if a page is not what it would write

A section stands between ``<!-- report:NAME -->`` and ``<!-- /report -->``; NAME is a function of
this folder. A result that is missing, or that an older version wrote and a page cannot use, ends
the command with the name of the one that writes it anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from bench.report import exports, gpu, models, speed
from bench.report.results import StaleResultError
from bench.shared.common import ROOT
from bench.shared.options import command_line

PAGES = (ROOT / "README.md", ROOT / "docs" / "gpu.md")
SECTION = re.compile(r"(<!-- report:(\w+) -->\n).*?(<!-- /report -->)", re.DOTALL)
SECTIONS: dict[str, Callable[[], str]] = {
    section.__name__: section
    for section in (
        speed.headline,
        speed.speed,
        speed.precision,
        speed.ablation,
        speed.parity,
        speed.memory,
        speed.scaling,
        speed.claim,
        speed.training_cost,
        exports.onnx,
        exports.onnx_exports,
        exports.install_size,
        models.examples,
        models.evaluate,
        models.preset,
        models.storage,
        models.qags_models,
        models.conseq_experiment,
        gpu.gpu,
        gpu.gpu_kernels,
        gpu.launches,
    )
}


def render(text: str) -> str:
    """Return a page with its numbers."""
    return SECTION.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]()}\n{m[3]}", text)


def main() -> None:
    """Write or check."""
    parser = command_line(__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    for page in PAGES:
        old = page.read_text("utf-8")
        try:
            new = render(old)
        except StaleResultError as error:
            sys.exit(str(error))
        if arguments.check and old != new:
            sys.exit(f"{page.relative_to(ROOT)} is out of date: run python -m bench.report")
        page.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
