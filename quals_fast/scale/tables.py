"""Results as tables of pyarrow, with the names that they have as JSON."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from quals_fast.results import RowScore, signed_row
from quals_fast.signature import has_probability

_PAIR = pa.struct(
    {
        "question": pa.string(),
        "answer": pa.string(),
        "score": pa.float64(),
        "tokens": pa.list_(pa.string()),
        "token_ids": pa.list_(pa.int64()),
        "summary_logprobs": pa.list_(pa.float64()),
        "document_logprobs": pa.list_(pa.float64()),
        "first_counted": pa.int64(),
        "answer_spans": pa.list_(pa.list_(pa.int64())),
    }
)
_SPAN = pa.struct({"start": pa.int64(), "end": pa.int64(), "score": pa.float64()})
_COLUMNS = {
    "score": pa.float64(),
    "probability": pa.float64(),
    "status": pa.string(),
    "n_pairs": pa.int64(),
    "truncated_tokens": pa.int64(),
    "unknown_tokens": pa.int64(),
    "message": pa.string(),
    "pairs": pa.list_(_PAIR),
    "spans": pa.list_(_SPAN),
    "signature": pa.string(),
}


def result_schema(
    *, include_pairs: bool, include_spans: bool, include_probability: bool
) -> pa.Schema:
    """Return names and types of the columns of results."""
    included = {
        "pairs": include_pairs, "spans": include_spans, "probability": include_probability
    }  # fmt: skip
    return pa.schema({name: of for name, of in _COLUMNS.items() if included.get(name, True)})


def result_table(
    results: Sequence[RowScore], signature: str, *, include_pairs: bool, include_spans: bool
) -> pa.Table:
    """Return results as a table; a NaN score becomes null.

    Args:
        results: one for each row of the table.
        signature: of their scorer.
        include_pairs: whether to add a column `pairs`.
        include_spans: whether to add a column `spans`.
    """
    included = {"include_pairs": include_pairs, "include_spans": include_spans}
    schema = result_schema(**included, include_probability=has_probability(signature))
    rows = [signed_row(result, signature, **included) for result in results]
    return pa.Table.from_pylist(rows, schema=schema)
