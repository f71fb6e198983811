"""Score files on a cluster into a directory, one file of results for each chunk of rows.

Readers, tasks of the cluster, cut each input file into chunks. Workers score a chunk as the plain
runner does, in the same windows from the file's beginning, write its file and return its counts.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from pyarrow import parquet
from ray.data import TaskPoolStrategy

from quals_fast.errors import InputError
from quals_fast.jobs.files import read_rows
from quals_fast.jobs.inputs import MAX_WINDOW_ROWS, JobInput
from quals_fast.jobs.output import RowWriter, named_errors
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scoring import Window, score_windows
from quals_fast.pages.tables import Tally
from quals_fast.results import RowScore, SummaryScore
from quals_fast.scale.directories import write_whole
from quals_fast.scale.tables import result_table
from quals_fast.scale.workers import Pool, Worker, start_coordinator
from quals_fast.scorer import QualsScorer
from quals_fast.signature import must_match

MAX_READERS = 8  # they take no core from the workers, which need little to be kept busy
_READ_BACK = ("score", "status", "truncated_tokens", "unknown_tokens", "message")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesJob:
    """What readers and workers must know.

    Attributes:
        source: the input; its order numbers the files.
        paths: of its files, absolute: each process of the cluster has a working directory of its
            own.
        folder: where the results go; the same path on all nodes.
        file_format: `jsonl` or `parquet`.
        include_pairs: whether results have the pairs.
        include_spans: whether results have the spans.
        done: names of the files that are there.
    """

    source: JobInput
    paths: tuple[str, ...]
    folder: Path
    file_format: str
    include_pairs: bool
    include_spans: bool
    done: frozenset[str]

    def name_of(self, file: int, number: int) -> str:
        """Return the name of a chunk's results; in order of names they are those of the input."""
        return f"part-{file:05d}-{number:06d}.{self.file_format}"

    def chunks_of(self, file: int) -> Iterator[tuple[list[InputRow], bool]]:
        """Yield the chunks of an input file, at least one, and whether each is the last."""
        source = self.source
        rows = read_rows(self.paths[file], **source.reading)
        named = source.paths[file] if len(source.paths) > 1 else None
        bare = (replace(row, fields={}, file=named) for row in rows)
        ahead = next(bare, None)
        for number in count():
            start = [] if ahead is None else [ahead]
            chunk = list(islice(chain(start, bare), _rows_of(number)))
            ahead = next(bare, None)
            yield chunk, ahead is None
            if ahead is None:
                return

    def write(self, name: str, rows: list[InputRow], scorer: QualsScorer) -> list[RowScore]:
        """Score a chunk and write its file."""
        window: Window = list(chain.from_iterable(score_windows(scorer, rows)))
        encode = self._json_lines if self.file_format == "jsonl" else self._parquet
        with named_errors(str(self.folder / name)):
            write_whole(self.folder / name, encode(window, scorer.signature))
        return [result for _, result in window]

    def read_back(self, name: str) -> list[RowScore]:
        """Return the results of a file without their pairs."""
        path = self.folder / name
        if self.file_format == "jsonl":
            contents = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        else:
            contents = parquet.read_table(path, columns=list(_READ_BACK)).to_pylist()
        results: list[RowScore] = []
        for content in contents:
            fields = {name: content.get(name) for name in _READ_BACK}
            score = math.nan if fields["score"] is None else fields["score"]
            results.append(SummaryScore(**(fields | {"score": score})))
        return results

    def expected(self) -> str | None:
        """Return what the scores depend on that are there; None if there are none."""
        for name in sorted(self.done):
            path = self.folder / name
            if self.file_format == "jsonl":
                with path.open(encoding="utf-8") as file:
                    line = file.readline()
                signatures = [json.loads(line)["signature"]] if line else []
            else:
                table = parquet.read_table(path, columns=["signature"])
                signatures = table.slice(0, 1).column("signature").to_pylist()
            if signatures:
                return must_match(signatures[0])
        return None

    @property
    def _included(self) -> dict[str, bool]:
        return {"include_pairs": self.include_pairs, "include_spans": self.include_spans}

    def _json_lines(self, window: Window, signature: str) -> bytes:
        text = io.StringIO()
        has_files = len(self.source.paths) > 1
        writer = RowWriter(text, include_file=has_files, **self._included)
        for row, result in window:
            writer.write(row, result, signature)
        return text.getvalue().encode("utf-8", "backslashreplace")

    def _parquet(self, window: Window, signature: str) -> bytes:
        results = [result for _, result in window]
        table = result_table(results, signature, **self._included)
        table = table.add_column(0, "id", pa.array([_text(row.id) for row, _ in window], "string"))
        if len(self.source.paths) > 1:
            files = pa.array([_text(row.file) for row, _ in window], "string")
            table = table.add_column(0, "file", files)
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        return sink.getvalue().to_pybytes()


def score_files(
    job: FilesJob,
    pool: Pool,
    loading: dict[str, Any],
    *,
    on_progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Score all chunks.

    Args:
        job: what to score.
        pool: the workers.
        loading: as from `Pool.loading`.
        on_progress: called with the counts so far.

    Returns:
        The counts of all rows, in the order of the input.

    Raises:
        InputError: an input file cannot be read, or a file of results cannot be written.
        RuntimeError: a worker cannot score, or not all chunks came back.
    """
    files = [{"file": n} for n in range(len(job.source.paths))]
    chunks = ray.data.from_items(files, override_num_blocks=len(files))
    chunks.context.target_max_block_size = 1  # a row, which is a chunk, makes a block
    chunks.context.raise_original_map_exception = True  # Ray's own would hide what happened
    chunks = chunks.map_batches(
        _read,
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"job": job},
        compute=TaskPoolStrategy(size=min(MAX_READERS, len(files))),
        num_cpus=0,
    )
    arguments = {
        "job": job, "loading": loading, "coordinator": start_coordinator(job.expected())
    }  # fmt: skip
    counts = pool.map(chunks, _ChunkScorer, batch_size=1, arguments=arguments)
    so_far = Tally(0)
    states: dict[tuple[int, int], str] = {}
    last: dict[int, int] = {}
    for batch in counts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for one in batch.to_pylist():
            place = (one["file"], one["number"])
            states[place] = one["state"]
            if one["is_last"]:
                last[one["file"]] = one["number"]
            so_far.include(json.loads(one["state"]))
            on_progress(so_far)
    expected = {(file, n) for file in range(len(files)) for n in range(last.get(file, 0) + 1)}
    if states.keys() != expected or len(last) != len(files):
        raise RuntimeError(
            f"{len(expected - states.keys())} chunks of rows were not scored; run the same command "
            "again with --resume"
        )
    tally = Tally(0)
    for place in sorted(states):
        tally.include(json.loads(states[place]))
    return tally


def _read(files: pa.Table, job: FilesJob) -> Iterator[pa.Table]:
    """Yield a table of one row for each chunk of the files."""
    for file in files.column("file").to_pylist():
        for number, (rows, is_last) in enumerate(job.chunks_of(file)):
            if job.name_of(file, number) in job.done:
                rows = [replace(row, document=None, summary=None) for row in rows]
            chunk = {
                "file": file, "number": number, "is_last": is_last, "rows": pickle.dumps(rows)
            }  # fmt: skip
            yield pa.Table.from_pylist([chunk])


class _ChunkScorer(Worker):
    """Writes the results of chunks and returns their counts.

    Args:
        job: what is scored.
        **worker: as for `Worker`.
    """

    def __init__(self, *, job: FilesJob, **worker: Any) -> None:
        super().__init__(**worker)
        self._job = job

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a chunk whose results are not there yet."""
        (chunk,) = batch.to_pylist()
        rows: list[InputRow] = pickle.loads(chunk.pop("rows"))
        name = self._job.name_of(chunk["file"], chunk["number"])
        if (self._job.folder / name).exists():
            results = self._job.read_back(name)
        else:
            results = self.once(name, lambda scorer: self._job.write(name, rows, scorer))
        if len(results) != len(rows):
            raise InputError(
                f"{self._job.folder / name} has {len(results)} rows, but {len(rows)} belong there; "
                "start over with --overwrite"
            )
        tally = Tally(0)
        for row, result in zip(rows, results, strict=True):
            tally.add(row, result)
        return pa.Table.from_pylist([chunk | {"state": json.dumps(tally.state())}])


def _rows_of(number: int) -> int:
    """Return the rows of a file's n-th chunk.

    These are whole windows, so that rows have their batch mates: few at first, so that a small
    job has work for many workers, then more, so that a large one does not have too many files.
    """
    return MAX_WINDOW_ROWS * min(4, 1 + number // 16)


def _text(value: Any) -> str | None:
    """Return an id as text: a string as it is, anything else as JSON."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
