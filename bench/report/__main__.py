"""Paste the numbers of bench/results into the README and docs, between their markers.

    python -m bench.report          writes the pages
    python -m bench.report --check  ends with exit code 1 if a page is not what it would write
    python -m bench.report --audit  lists what keeps the figures from being of one commit, of the
                                    bundled model and of enough rounds; exit code 1 if anything
                                    does, but for what needs a GPU

A section stands between ``<!-- report:NAME -->`` and ``<!-- /report -->``; NAME is one of
`SECTIONS`, and links in it start at the root of the checkout. A title says of which former model
its figures are, where they are not of the bundled one. The command refuses a result that is
missing, that another version wrote or that was measured with other weights, and names the command
that measures anew; and a figure that was typed by hand and names no source (see figures.py).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from bench.report import (
    audit,
    claim,
    classifier,
    cross_encoder,
    evaluation,
    exports,
    gpu,
    latency,
    models,
    probability,
    scale,
    serving,
    speed,
    two_jobs,
    versions,
)
from bench.report.figures import check_figures
from bench.report.results import Reader, StaleResultError
from bench.shared.common import ROOT, head
from bench.shared.options import command_line

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
SECTION = re.compile(r"(<!-- report:(\w+) -->\n).*?(<!-- /report -->)", re.DOTALL)
GPU_PAGE = ROOT / "docs" / "gpu.md"
_LINK = re.compile(r"\]\((?!\w+:|#)")

Block = Callable[[Reader], str]
#: By name the blocks of a section; each has a title of its own where it is of a former model.
SECTIONS: dict[str, tuple[Block, ...]] = {
    "headline": (speed.headline,),
    "speed_short": (speed.speed_short,),
    "speed": (speed.speed,),
    "latency": (latency.latency,),
    "precision": (speed.precision,),
    "profile": (speed.profile,),
    "ablation": (speed.ablation,),
    "parity": (speed.parity,),
    "memory": (speed.memory,),
    "scaling": (speed.scaling,),
    "cross_encoder": (cross_encoder.cross_encoder,),
    "two_jobs": (two_jobs.two_jobs,),
    "scale": (scale.scale,),
    "scale_plan": (scale.scale_plan,),
    "claim_short": (claim.claim_short, claim.claim_short_of_gpu),
    "claim": (claim.claim, claim.claim_of_gpu),
    "training_cost": (speed.training_cost, speed.training_cost_of_t5),
    "train_qagen": (speed.train_qagen,),
    "onnx": (exports.onnx,),
    "onnx_exports": (exports.onnx_exports,),
    "install_size": (exports.install_size,),
    "serve": (serving.serve, serving.memory),
    "container": (serving.container,),
    "examples": (models.examples,),
    "spans": (models.spans,),
    "evaluate": (models.evaluate,),
    "definitions": (models.definitions,),
    "rivals": (models.rivals,),
    "classifier": (classifier.classifier,),
    "worth_short": (models.worth_short,),
    "preset": (models.preset,),
    "probability": (probability.probability,),
    "model_costs": (models.model_costs,),
    "storage": (models.storage,),
    "qags_models": (models.qags_models,),
    "conseq_experiment": (models.conseq_experiment,),
    "evaluation_table": (evaluation.evaluation_table,),
    "gpu": (gpu.speed, gpu.settings, gpu.remarks),
    "gpu_kernels": (gpu.gpu_kernels,),
    "launches": (gpu.launches,),
    "versions": (versions.versions,),
}


def section(name: str) -> str:
    """Return the text of a section.

    Raises:
        StaleResultError: a result that it needs cannot be used.
    """
    return "\n\n".join(part for block in SECTIONS[name] for part in _parts(block))


def _parts(block: Block) -> list[str]:
    """Return title, text and note of a block; nothing where nothing has been measured."""
    results = Reader()
    text = block(results)
    if not text:
        return []
    few = audit.PRELIMINARY if audit.FEW_ROUNDS.search(text) else ""
    return [*filter(None, [results.title(), text, few, results.note()])]


def render(page: Path, text: str) -> str:
    """Return a page with its numbers.

    Raises:
        StaleResultError: a result that it needs cannot be used.
        UnknownFigureError: it states a figure without a source.
        ValueError: it asks for a section that there is not.
    """
    unknown = {name for _, name, _ in SECTION.findall(text)} - SECTIONS.keys()
    if unknown:
        raise ValueError(
            f"{page}: a section must be one of {', '.join(SECTIONS)}, but got "
            f"{', '.join(sorted(unknown))}"
        )
    check_figures(page, text)
    root = os.path.relpath(ROOT, page.parent)
    to_root = "" if root == "." else f"{root}/"

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}{_LINK.sub(f']({to_root}', section(found[2]))}\n{found[3]}"

    return SECTION.sub(fill, text)


def print_audit() -> int:
    """List what is amiss with the figures on pages and in results; return the exit code."""
    pages = {page: page.read_text("utf-8") for page in PAGES}
    of_gpu = {page: pages.pop(page) for page in [*pages] if page == GPU_PAGE}
    found = {
        "Figures without a result": [*audit.figures_without_result(pages)],
        "Results of another model": [*audit.other_models()],
        "Fewer than three rounds": [*audit.few_rounds(pages, SECTION)],
        "Results of bench/cpu.sh that are not all of one state of the package": [
            *audit.commits_of_cpu()
        ],
    }
    left = {
        "Figures of a GPU without a result, for who has one": [
            *audit.figures_without_result(of_gpu),
            *audit.few_rounds(of_gpu, SECTION),
        ],
        "Results of other weights, for a reason": [
            f"{name}.json {why}" for name, why in audit.OTHER_WEIGHTS.items()
        ],
    }
    for title, lines in (found | left).items():
        print(f"{title}: {len(lines) or 'none'}", *(f"- {line}" for line in lines), sep="\n")
    return int(any(found.values()))


def main() -> None:
    """Write, check or list."""
    parser = command_line(__doc__, is_watched=False)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--audit", action="store_true", help="write nothing, list what is amiss")
    arguments = parser.parse_args()
    if arguments.audit:
        if not head():
            parser.error(f"--audit needs git's history, but {ROOT} has none: run it in a clone")
        sys.exit(print_audit())
    for page in PAGES:
        old = page.read_text("utf-8")
        try:
            new = render(page, old)
        except (StaleResultError, ValueError) as error:
            sys.exit(str(error))
        if old == new:
            continue
        if arguments.check:
            sys.exit(f"{page} is out of date: run python -m bench.report")
        page.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
