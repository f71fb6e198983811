"""Measure all that a CPU can tell, in stages that resume: 2½ hours of two idle cores.

    bench/cpu.sh                   the stages that are not done at this commit
    bench/cpu.sh claim latency     these stages, whether they are done or not
    bench/cpu.sh --plan            the stages, their minutes, results and commands

A stage is done once its commands have ended well; one that was stopped runs again. While only
results and pages change, later commits count as the run's own, so results can be committed between
stages. A stage begins if it would end within --total, and is stopped after twice its minutes. If it
fails or is stopped, the others still run, and the exit code is 1. State and logs go to runs/cpu,
results to bench/results: `python -m bench.report` pastes them, and `python -m bench.report --audit`
says what keeps them from being of one state of the package.
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.cpu.runner import NoCommitError, Runner
from bench.cpu.stages import STAGES, Inputs, Stage
from bench.shared.common import ROOT, machine
from bench.shared.options import check_stages
from bench.shared.tables import table

TOTAL_MIN = 150


def plan(stages: Mapping[str, Stage], inputs: Inputs, runner: Runner | None = None) -> str:
    """Return the table of stages, with how long they took where they have been done."""
    rows = []
    for name, stage in stages.items():
        seconds = None if runner is None else runner.seconds(name)
        rows.append(
            {
                "stage": f"{name} (extra)" if stage.is_extra else name,
                "minutes": f"{stage.minutes:g}",
                "took": "" if seconds is None else f"{seconds / 60:.1f}",
                "what": stage.purpose,
                "results": ", ".join(stage.results),
                "commands": (" & " if stage.is_at_once else "; ").join(inputs.commands(stage)),
            }
        )
    total = sum(stage.minutes for stage in stages.values() if not stage.is_extra)
    return f"{table(rows)}\n\n{total:g} minutes without the extra stages."


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        SystemExit: an unknown stage, a file that is missing, or no time.
    """
    parser = argparse.ArgumentParser(
        prog="bench/cpu.sh",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="stages to run; by default, all but the extra"
    )
    parser.add_argument("--plan", action="store_true", help="print the stages, and exit")
    parser.add_argument(
        "--data", type=Path, help="JSON lines; by default, data/docsum_pairs.jsonl.gz of --shared"
    )
    parser.add_argument(
        "--shared",
        type=Path,
        default=ROOT.parent / "shared",
        help="folder with data, models and golden (default: ../shared)",
    )
    parser.add_argument(
        "--choices",
        nargs="+",
        default=[],
        metavar="NAME=FOLDER",
        help="models for the stage choices; the first is the baseline",
    )
    parser.add_argument(
        "--total",
        type=float,
        help=f"minutes for all stages (default: {TOTAL_MIN}; none for stages that are named)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "runs" / "cpu",
        help="folder for state and logs (default: runs/cpu)",
    )
    arguments = parser.parse_args(argv)
    check_stages(parser, arguments, STAGES, "minutes")
    if arguments.data is not None and not arguments.data.is_file():
        parser.error(f"--data must be a file, but {arguments.data} does not exist")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages, print the last table; return the exit code."""
    begin = time.monotonic()
    arguments = parse(argv)
    # The stages run in the root of the tree.
    inputs = Inputs(
        shared=arguments.shared.resolve(),
        data=arguments.data and arguments.data.resolve(),
        choices=tuple(arguments.choices),
    )
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        runner = Runner(folder, inputs)
    except NoCommitError as error:
        if arguments.plan:
            print(plan(STAGES, inputs))
            return 0
        print(error, file=sys.stderr)
        return 2
    if arguments.plan:
        print(plan(STAGES, inputs, runner))
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that a stage is stopped, too
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda sent, _: sys.exit(128 + sent))
    chosen = {
        name: stage
        for name, stage in STAGES.items()
        if (name in arguments.stages if arguments.stages else not stage.is_extra)
    }
    total = arguments.total or (None if arguments.stages else TOTAL_MIN)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another run uses {folder}; stages must have the machine", file=sys.stderr)
            return 2
        about = machine()
        print(f"{about['cpu']}, {about['threads']} threads, commit {runner.commit}", flush=True)
        outcomes = runner.run(chosen, total, again=bool(arguments.stages))
    rows = [
        {
            "stage": one.name,
            "outcome": one.how,
            "minutes": f"{one.seconds / 60:.1f}",
            "load": one.load,
            "log": str(folder / "logs" / f"{one.name}.log") if one.has_failed else "",
        }
        for one in outcomes
    ]
    print(f"{table(rows)}\n{(time.monotonic() - begin) / 60:.0f} minutes")
    return 0 if all(one.is_good for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
