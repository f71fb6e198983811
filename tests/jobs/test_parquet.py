"""Parquet files: what is read of them, what is refused, and memory."""

import datetime
import decimal
import subprocess
import sys

import pytest
from messages import says

from quals_fast.errors import InputError
from quals_fast.jobs.files import read_rows

pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")

GOOD = {"document": ["d1", "d2"], "summary": ["s1", "s2"]}


@pytest.fixture
def read(tmp_path):
    """Write a table, read its rows."""

    def _read(columns, name="rows.parquet", **options):
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / name)
        return list(read_rows(str(tmp_path / name), **options))

    return _read


def texts(rows):
    return [(row.document, row.summary) for row in rows]


@pytest.mark.parametrize("name", ["rows.parquet", "rows", "rows.jsonl", "ROWS.PARQUET"])
@pytest.mark.parametrize("file_format", ["auto", "parquet"])
def test_rows(read, name, file_format):
    rows = read(GOOD | {"id": ["a", None], "label": [1, 0]}, name, file_format=file_format)
    assert texts(rows) == [("d1", "s1"), ("d2", "s2")]
    assert [(row.id, row.line, row.place) for row in rows] == [("a", 1, "row 1"), (2, 2, "row 2")]
    assert rows[0].fields == {"document": "d1", "summary": "s1", "id": "a", "label": 1}


def test_rows_of_several_batches_and_groups_keep_their_order(tmp_path):
    path, n = tmp_path / "rows.parquet", 1000
    columns = {"id": range(n), "document": ["d"] * n, "summary": [f"s{i}" for i in range(n)]}
    pq.write_table(pa.table(columns), path, row_group_size=300)
    rows = list(read_rows(str(path)))
    assert [row.id for row in rows] == list(range(n))
    assert [row.summary for row in rows] == columns["summary"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_of_any_type(read, kind):
    rows = read({name: pa.array(values).cast(kind) for name, values in GOOD.items()})
    assert texts(rows) == [("d1", "s1"), ("d2", "s2")]


def test_missing_values_are_left_to_the_scorer(read):
    rows = read({"document": ["d", None], "summary": pa.nulls(2)})
    assert texts(rows) == [("d", None), (None, None)]
    assert [row.problem for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([7, 8]), [7, 8]),
        (pa.array([0.5, float("nan")]), [0.5, 2]),
        (pa.array([datetime.date(2026, 1, 2), None]), ["2026-01-02", 2]),
        (pa.array([decimal.Decimal("1.50")] * 2), ["1.50", "1.50"]),
    ],
    ids=["int", "float", "date", "decimal"],
)
def test_ids(read, ids, expected):
    assert [row.id for row in read(GOOD | {"id": ids})] == expected


def test_times_are_texts_whatever_python_can_hold(read):
    rows = read(GOOD | {
        "far": pa.array([2**62, None], pa.timestamp("us")),
        "fine": pa.array([1_000_000_001, 0], pa.timestamp("ns")),
    })  # fmt: skip
    assert texts(rows) == [("d1", "s1"), ("d2", "s2")]
    assert [row.fields["fine"][:23] for row in rows] == [
        "1970-01-01 00:00:01.000", "1970-01-01 00:00:00.000"
    ]  # fmt: skip
    assert rows[1].fields["far"] is None


def test_text_that_is_not_utf8(tmp_path):
    offsets, data = b"".join(n.to_bytes(4, "little") for n in (0, 1, 3)), b"s\xff\xfe"
    bad = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"document": ["d", "d"], "summary": bad}), path)
    with pytest.raises(InputError, match=says("rows.parquet, rows 1 to 2: … UTF-8 … 0xff … write")):
        list(read_rows(str(path)))


def test_no_rows(read):
    assert read(pa.schema([("document", "string"), ("summary", "string")]).empty_table()) == []


def test_other_names(read):
    rows = read({"source": ["d"], "hyp": ["s"]}, document_field="source", summary_field="hyp")
    assert texts(rows) == [("d", "s")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"document": ["d"], "text": ["s"]},
            "must have a column 'summary', but has 'document', 'text' … --summary-field",
        ),
        (
            {"document": ["d"], "summary": [3]},
            "the column 'summary' must hold text, but its type is int64; convert it",
        ),
        (
            pa.table([["d"], ["s"], ["s"]], names=["document", "summary", "summary"]),
            "must have one column 'summary', but has 2; rename the others",
        ),
    ],
    ids=["missing", "numbers", "twice"],
)
def test_columns_that_do_not_fit(read, columns, message):
    with pytest.raises(InputError, match=says(f"rows.parquet … {message}")):
        read(columns)


@pytest.mark.parametrize("size", [0, 3, 100, -20], ids=["empty", "start", "middle", "end"])
def test_a_file_that_breaks_off(tmp_path, size):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(GOOD), path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"rows.parquet is not a complete Parquet file: "):
        list(read_rows(str(path)))


def test_damaged_rows(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(GOOD), path, compression="snappy")
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(60) + content[64:])
    with pytest.raises(InputError, match=r"rows\.parquet"):
        list(read_rows(str(path)))


@pytest.mark.parametrize(
    ("name", "content", "file_format", "message"),
    [
        ("a.jsonl", b"{}\n", "parquet", "a.jsonl is not a Parquet file, but got --format parquet"),
        ("a.parquet", b"PAR1", "csv", "a.parquet is a Parquet file, but got --format csv; leave"),
    ],
)
def test_the_format_that_is_given_must_be_right(tmp_path, name, content, file_format, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_rows(str(tmp_path / name), file_format=file_format))


def test_without_pyarrow(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table(GOOD), path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=says('needs pyarrow: pip install ".[parquet]" in the')):
        list(read_rows(str(path)))


PEAK = """
import sys
import pyarrow
from quals_fast.jobs.files import read_rows
print(sum(1 for _ in read_rows(sys.argv[1])), pyarrow.default_memory_pool().max_memory() // 2**20)
"""


@pytest.mark.parametrize("group", [100_000, 1000], ids=["one-group", "many-groups"])
def test_memory_does_not_grow_with_the_file(tmp_path, group):
    """Of 80 MiB, little is read at a time, even from a single row group."""
    path, n = tmp_path / "rows.parquet", 8_000
    documents = [f"{i} " + "a queen in a tower " * 550 for i in range(n)]
    table = pa.table({"document": documents, "summary": ["s"] * n})
    pq.write_table(table, path, row_group_size=group, compression="none", use_dictionary=False)
    assert path.stat().st_size > 75 * 2**20
    found = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    rows, mib = map(int, found.stdout.split())
    assert rows == n
    assert mib < 40
