"""Does peak memory stay flat as a job grows? Resident memory of `quals-fast score` by rows.

    python -m bench.memory --rows 100 500 --file-rows 10000 100000 1000000

Each job runs in its own process, on repeated examples with the published settings. In the jobs of
`--file-rows`, all summaries are empty: they are read and written, but nothing is scored.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

from rich.progress import track

from bench.shared.common import EXAMPLES, finish, load_pairs
from bench.shared.options import command_line
from bench.shared.weights import MODEL, weights_of

FORMATS = ("jsonl", "jsonl.gz", "parquet")


def rows_of(n: int, *, is_scored: bool) -> Iterator[dict[str, str]]:
    """Yield rows of the examples, again and again, with documents that all differ."""
    for i, pair in enumerate(islice(cycle(load_pairs([EXAMPLES])), n)):
        summary = pair.summary if is_scored else ""
        yield {"id": str(i), "document": f"{i}. {pair.document}", "summary": summary}


def write(path: Path, rows: Iterator[dict[str, str]]) -> None:
    """Write rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        schema = pa.schema([(name, pa.string()) for name in ("id", "document", "summary")])
        with ParquetWriter(path, schema) as parquet:
            while some := list(islice(rows, 10_000)):
                parquet.write_table(pa.Table.from_pylist(some, schema))
    else:
        lines = (json.dumps(row) + "\n" for row in rows)
        with gzip.open(path, "wt", 1) if path.suffix == ".gz" else path.open("w") as file:
            file.writelines(lines)


def peak_mib(source: Path, settings: list[str]) -> float:
    """Score a file in a new process; return its peak resident memory, MiB."""
    command = [sys.executable, "-m", "quals_fast", "score", str(source)]
    target = str(source.with_name("scores.jsonl"))
    with subprocess.Popen(
        [*command, "-o", target, "--pairs", *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)  # the only call that tells one child's peak
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"scoring {source.name} failed: {errors}")
    return usage.ru_maxrss / 1024


def peak_of(n: int, form: str, settings: list[str], *, is_scored: bool) -> float:
    """Write that many rows to a file, and return the peak memory of its job, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"rows.{form}"
        write(source, rows_of(n, is_scored=is_scored))
        return peak_mib(source, settings)


def main() -> None:
    """Measure each size."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[100, 500],
        help="rows of each scored job (default: 100 500)",
    )
    parser.add_argument(
        "--file-rows",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="rows of each job that is only read and written (default: 10000 100000 1000000)",
    )
    parser.add_argument("--model", default=MODEL, help="bundled model or folder")
    arguments, extra = parser.parse_known_args()
    settings = ["--model", arguments.model, *extra]
    scored = {n: peak_of(n, "jsonl", settings, is_scored=True) for n in track(arguments.rows)}
    files = {
        form: {n: peak_of(n, form, settings, is_scored=False) for n in track(arguments.file_rows)}
        for form in FORMATS
    }
    result = {"settings": extra, "peak_mib": scored, "file_peak_mib": files}
    finish("memory", result, weights=weights_of(arguments.model))


if __name__ == "__main__":
    main()
