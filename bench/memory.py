"""Does peak memory stay flat as a job grows? Resident memory of `quals-fast score` by rows.

    python -m bench.memory --rows 100 500

Each size runs in its own process, on repeated examples with the published settings.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.progress import track

from bench.shared.common import EXAMPLES, finish, load_pairs
from bench.shared.options import command_line
from bench.shared.weights import MODEL, weights_of


def peak_mib(rows: int, settings: list[str]) -> float:
    """Score that many rows in a new process; return its peak resident memory, MiB."""
    pairs = load_pairs([EXAMPLES])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        lines = [
            json.dumps({"document": pair.document, "summary": pair.summary})
            for pair in (pairs[i % len(pairs)] for i in range(rows))
        ]
        source.write_text("\n".join(lines), "utf-8")
        command = [
            sys.executable,
            "-m",
            "quals_fast",
            "score",
        ]
        target = str(Path(folder) / "scores.jsonl")
        with subprocess.Popen(
            [*command, str(source), "-o", target, "--pairs", *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            errors = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)  # the only call that tells one child's peak
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"scoring {rows} rows failed: {errors}")
    return usage.ru_maxrss / 1024


def main() -> None:
    """Measure each size."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[100, 500],
        help="rows of each job (default: 100 500)",
    )
    parser.add_argument("--model", default=MODEL, help="bundled model or folder")
    arguments, extra = parser.parse_known_args()
    settings = ["--model", arguments.model, *extra]
    peaks = {rows: peak_mib(rows, settings) for rows in track(arguments.rows)}
    result = {"settings": extra, "peak_mib": peaks}
    finish("memory", result, weights=weights_of(arguments.model))


if __name__ == "__main__":
    main()
