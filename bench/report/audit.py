"""What keeps the figures from being of one package, of the bundled model and of enough rounds.

It reads README and docs. A figure typed there must name a commit that some result was measured at,
not which one; numbers in words, in code and without a unit are not looked for. Rounds are found
where a section prints their number. `bench` may differ between the results of one package.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.cpu.stages import STAGES
from bench.report.figures import problems, without_result
from bench.report.results import DIRTY, commits, not_bundled
from bench.shared import common
from bench.shared.common import ROOT
from bench.shared.options import T5S

#: Results that are of other weights, with the reason. Sizes with random weights (T5s, QAGS at
#: BART-base's size) need no entry, since they come from no model.
OTHER_WEIGHTS = {
    "choices": "compares models that training tried; its table names each",
    "golden": "has the older model that the original programs were recorded with",
    "claim_agreement": "is of the former model, as CLAIM.md says (stage claim_agreement)",
    "conseq_experiment": "was trained with the former model, as its section says; "
    "docs/evaluation.md has a run with the bundled one",
    "onnx_exports": "is of sizes; measured before results named weights (stage onnx_exports)",
}
PRELIMINARY = "Figures with n = 1 or n = 2 are preliminary: too few rounds to quote."
FEW_ROUNDS = re.compile(r"\bn = [12]\b")
_WIDTH = 100  # of a page's line
_COMMIT = re.compile(r"[0-9a-f]{7}")


def figures_without_result(pages: Mapping[Path, str]) -> Iterator[str]:
    """Name typed figures that the report refuses, and those whose result was not kept in git."""
    for page, text in pages.items():
        name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
        yield from (str(one) for one in problems(page, text))
        for source, (line, figure) in without_result(text).items():
            lost = [one for one in _COMMIT.findall(source) if not _is_in_history(one)]
            if lost or not source.startswith("commit"):
                yield (
                    f"{name}, line {line}: {figure!r} comes from {', '.join(lost) or source}, of "
                    "which no result was ever in bench/results"
                )


def other_models() -> Iterator[str]:
    """Name results of weights that are not bundled now, but for those of `OTHER_WEIGHTS`."""
    for path in sorted(common.RESULTS.glob("*.json")):
        if path.stem not in OTHER_WEIGHTS:
            weights = json.loads(path.read_text("utf-8"))["weights"]
            yield from (
                f"{path.name}: {one}, but the bundled model is {expected}"
                for one, expected in not_bundled(weights)
            )


def few_rounds(pages: Mapping[Path, str], sections: re.Pattern[str]) -> Iterator[str]:
    """Name the lines of sections with a figure of fewer than three rounds."""
    for page, text in pages.items():
        name = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
        for section in sections.finditer(text):
            lines = [
                line
                for line in section[0].splitlines()
                if FEW_ROUNDS.search(line) and line != PRELIMINARY
            ]
            if lines:
                yield f"{name}, section {section[2]}, {len(lines)} lines: {lines[0][:_WIDTH]}"


def commits_of_cpu() -> Iterator[str]:
    """Name the commits of what bench/cpu.sh measures, unless they all have the code of one package.

    Stages that only run where they are named may be of other commits, which their tables say.
    """
    found: dict[str, list[str]] = defaultdict(list)
    stages = [stage for stage in STAGES.values() if not stage.is_extra]
    for name in dict.fromkeys(name for stage in stages for name in stage.results):
        path = common.RESULTS / f"{name}.json"
        if not path.is_file():
            yield f"{name}.json is missing"
            continue
        result = json.loads(path.read_text("utf-8"))
        for model in T5S:  # measured by an extra stage, into the same file
            result.get("cases", {}).pop(model, None)
        of_rounds = result.get("commits", ())  # that were added to those of earlier runs
        for commit in dict.fromkeys([*commits(result), *of_rounds]):
            found[commit].append(name)
    if len({_package_of(commit) for commit in found}) > 1 or any(DIRTY in one for one in found):
        yield from (f"commit {commit}: {', '.join(names)}" for commit, names in found.items())


def _package_of(commit: str) -> str:
    """Return what names the code that is measured, so that a new benchmark changes nothing."""
    command = ["git", "rev-parse", *(f"{commit}:{folder}" for folder in ("quals_fast", "kernels"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else commit


def _is_in_history(commit: str) -> bool:
    """Return whether git's history has results that were measured at a commit."""
    command = ["git", "log", "-1", "--format=%h", f'-S"commit": "{commit}', "--", "bench/results"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return bool(done.stdout)
