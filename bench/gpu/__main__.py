"""Run all measurements that need a GPU, in stages with time limits, in under 9 minutes together.

    bench/gpu.sh                        all stages except claim: a first look
    bench/gpu.sh claim                  QAGS against QUALS, which needs a run of its own
    bench/gpu.sh settings --total 300   one stage, with more time
    bench/gpu.sh --dry-run              all stages on a CPU, with a tiny model and a few rows

If a stage fails or runs out of time, its results so far are kept, the other stages still run, and
the exit code is 1. Time that a stage does not use goes to the later ones. Results and logs go to
`--folder`. If $OUT is set, it gets gpu.tar.gz, rewritten after every stage:
`tar -xzf gpu.tar.gz -C bench` puts the results beside those of the CPU. On a machine without git,
set BENCH_COMMIT="$(git describe --always --dirty)" to the commit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.gpu.runner import ARCHIVE, OK, Runner, wait_s
from bench.gpu.stages import ANSWERS, GROW, STAGES, Setup
from bench.shared.common import ROOT, machine
from bench.shared.options import check_stages
from bench.shared.tables import table


def listing() -> str:
    """Return the stages with their limits, for `--help`."""
    rows = {"grow": GROW, **STAGES}
    lines = [
        f"  {name:<12}{stage.limit_s:>4.0f} s  {stage.purpose}" for name, stage in rows.items()
    ]
    return "\n".join(
        ["stages (grow runs in parallel with the first ones, if others need it):", *lines]
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: an unknown stage, or a time that no stage could end in.
    """
    parser = argparse.ArgumentParser(
        prog="bench/gpu.sh",
        description=__doc__,
        epilog=listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="stages to run; by default, all except claim"
    )
    parser.add_argument("--data", type=Path, help="JSON lines; by default, the project's examples")
    parser.add_argument(
        "--candidates",
        type=Path,
        help="QAGS's answer candidates for --data, made by python -m bench.claim --prepare FILE",
    )
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument(
        "--total", type=float, help="time for all chosen stages together, in seconds"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="folder for results and logs (default: runs/gpu; dry run: runs/gpu_dry)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="run on a CPU; figures are meaningless"
    )
    arguments = parser.parse_args(argv)
    check_stages(parser, arguments, STAGES, "seconds")
    for name in ("data", "candidates"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} must be a file, but {path} does not exist")
        # The stages run in the root of the tree.
        setattr(arguments, name, path and path.resolve())
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages, print the last table; return the exit code."""
    begin = time.monotonic()
    arguments = parse(argv)
    if not (arguments.dry_run or torch.cuda.is_available()):
        print("this machine has no GPU; use --dry-run to run on a CPU", file=sys.stderr)
        return 2
    together = [name for name in STAGES if arguments.dry_run or not STAGES[name].is_alone]
    stages = {name: STAGES[name] for name in arguments.stages or together}
    folder = arguments.folder or ROOT / "runs" / ("gpu_dry" if arguments.dry_run else "gpu")
    setup = Setup(
        device="cpu" if arguments.dry_run else "cuda",
        data=arguments.data,
        candidates=arguments.candidates or (None if arguments.data else ANSWERS),
        compiles=arguments.compile,
        is_dry=arguments.dry_run,
    )
    scale = 3.0 if setup.is_dry else 1.0  # the limits are a GPU's
    if arguments.total is not None:
        limits = (stage.limit_s for stage in stages.values())
        scale = arguments.total / sum(limits, wait_s(stages, setup))
    about = machine()
    print(f"{about['gpu'] or about['cpu']}, commit {about['commit']}")
    if about["commit"] == "unknown":
        print("commit unknown: set BENCH_COMMIT to record it in the results", file=sys.stderr)
    out = os.environ.get("OUT")
    archive = Path(out) / ARCHIVE if out else None
    outcomes = Runner(folder.resolve(), setup, archive).run(stages, 2 if setup.is_dry else 1, scale)
    print(
        table(
            [
                {
                    "stage": one.name,
                    "outcome": one.how,
                    "seconds": f"{one.seconds:.0f}",
                    "figure": one.figure,
                }
                for one in outcomes
            ]
        )
    )
    print(f"{time.monotonic() - begin:.0f} s; results and logs: {archive or folder}")
    return 0 if all(one.how == OK for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
