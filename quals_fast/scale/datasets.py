"""Score the rows of a Ray Dataset."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
from ray.data import Dataset

from quals_fast.config import check_integer
from quals_fast.jobs.inputs import MAX_WINDOW_ROWS
from quals_fast.jobs.parsing import InputRow
from quals_fast.jobs.scoring import score_together
from quals_fast.scale.tables import result_schema, result_table
from quals_fast.scale.workers import Pool, Worker, actor_id, start_coordinator
from quals_fast.scorer import QualsScorer

GPU_BATCH_ROWS = 256  # beyond, the rate hardly rises (docs/gpu.md)


def score_dataset(
    ds: Dataset,
    *,
    document: str = "document",
    summary: str = "summary",
    model: str | Path = "qagen-mini",
    include_pairs: bool = False,
    include_spans: bool = False,
    concurrency: int | tuple[int, int] | None = None,
    num_cpus: int = 1,
    num_gpus: float = 0,
    batch_size: int | None = None,
    **options: Any,
) -> Dataset:
    """Score each row of a Ray Dataset on the workers of a cluster.

    Each worker is a process that loads the model once. If it dies, Ray starts another and repeats
    its batch. A row that cannot be scored gets status ``error`` and a message; the others are not
    affected. Rows keep their order only if Ray does (``DataContext.execution_options``).

    Args:
        ds: Rows with two columns of texts.
        document: Column of the documents.
        summary: Column of the summaries.
        model: As for `QualsScorer.from_pretrained`. A folder must have the same path on all nodes.
        include_pairs: Add a column with the question-answer pairs of each row.
        include_spans: Add a column with the spans of each row.
        concurrency: The most workers, or a tuple of the least and the most. By default, Ray adds
            workers while the cluster has room. It starts the least at once, even if they leave no
            core for reading: then the job waits forever.
        num_cpus: Cores of a worker, and the number of its threads.
        num_gpus: GPUs of a worker. By default 0: it scores on the CPU.
        batch_size: Rows that a worker scores in one call, and loses when it dies. The engine forms
            batches within its token budget from them, and encodes a document once for those of its
            summaries that are among them. By default, 64, or 256 on a GPU.
        **options: As for `QualsScorer.from_pretrained`: `dtype`, `preset`, `decoding`, `scoring`,
            `calibration`, `cache_bytes`, ...

    Returns:
        A lazy Dataset with the columns of `ds`, and `score` (null if there is none), `status`,
        `n_pairs`, `truncated_tokens`, `unknown_tokens`, `message`, `signature`, as in the output of
        ``quals-fast score``. With `calibration`, also `probability`.

    Raises:
        ValueError: If `ds` lacks a column, has one of those above already, or a setting is wrong.
            Where Ray does not know the columns in advance, the first batch says so.
        CheckpointError: If the model cannot be used.
        TypeError: If an option is unknown or has the wrong type.
    """
    pool = Pool(concurrency=concurrency, num_cpus=num_cpus, num_gpus=num_gpus)
    if batch_size is None:
        batch_size = GPU_BATCH_ROWS if num_gpus else MAX_WINDOW_ROWS
    check_integer("batch_size", batch_size, 1)
    included = {"include_pairs": include_pairs, "include_spans": include_spans}
    has_calibration = options.get("calibration") is not None
    added = result_schema(**included, include_probability=has_calibration).names
    known = ds.schema(fetch_if_missing=False)
    if known is not None:
        _check_columns(known.names, (document, summary), added)
    arguments = {
        "loading": pool.loading(model, options),
        "coordinator": start_coordinator(),
        "columns": (document, summary),
        "added": added,
        "included": included,
    }
    rows = ds.repartition(target_num_rows_per_block=batch_size)
    return pool.map(rows, _TableScorer, batch_size=batch_size, arguments=arguments)


class _TableScorer(Worker):
    """Adds results to tables.

    Args:
        columns: of the documents and of the summaries.
        added: names of the columns of the results.
        included: whether to add the pairs and the spans, as arguments of `result_table`.
        **worker: as for `Worker`.
    """

    def __init__(
        self,
        *,
        columns: tuple[str, str],
        added: list[str],
        included: dict[str, bool],
        **worker: Any,
    ) -> None:
        super().__init__(**worker)
        self._columns = columns
        self._added = added
        self._included = included

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the rows of a table."""
        _check_columns(batch.column_names, self._columns, self._added)
        texts = [batch.column(name).to_pylist() for name in self._columns]
        # Ray repeats a batch in the same actor; other actors may have a batch of the same texts.
        digest = hashlib.sha256(repr(texts).encode("utf-8", "backslashreplace")).hexdigest()
        return self.once(f"{actor_id()} {digest}", lambda scorer: self._score(scorer, batch, texts))

    def _score(self, scorer: QualsScorer, batch: pa.Table, texts: list[list[Any]]) -> pa.Table:
        rows = [
            InputRow(line=n, id=n, fields={}, document=document, summary=summary)
            for n, (document, summary) in enumerate(zip(*texts, strict=True), 1)
        ]
        results = score_together(scorer, rows)
        added = result_table(results, scorer.signature, **self._included)
        for name in added.column_names:
            batch = batch.append_column(added.schema.field(name), added.column(name))
        return batch


def _check_columns(names: list[str], wanted: tuple[str, str], added: list[str]) -> None:
    """Check that a table has the texts, and room for the results.

    Raises:
        ValueError: it has not.
    """
    for argument, name in zip(("document", "summary"), wanted, strict=True):
        if name not in names:
            raise ValueError(
                f"`{argument}` must be a column of the dataset, but got {name!r}; it has "
                f"{', '.join(map(repr, names)) or 'none'}"
            )
    taken = set(names) & set(added)
    if taken:
        raise ValueError(
            f"the dataset must not have the columns of the results, but has "
            f"{', '.join(map(repr, sorted(taken)))}; rename or drop them"
        )
