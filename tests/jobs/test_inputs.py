"""Which rows a job has: several files, patterns, shards, and what tells them from other input."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from messages import says

from quals_fast.errors import InputError
from quals_fast.jobs.inputs import (
    MAX_WINDOW_ROWS,
    JobInput,
    check_shard,
    matching_files,
    shard_of,
)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, *ids):
    rows = [{"id": i, "document": "d", "summary": "s"} for i in ids]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


def test_files_one_after_the_other():
    rows = JobInput(paths=(write("b.jsonl", 1, 2), write("a.jsonl.gz", 1)))
    assert [(row.file, row.id, row.line) for row in rows] == [
        ("b.jsonl", 1, 1),
        ("b.jsonl", 2, 2),
        ("a.jsonl.gz", 1, 1),  # ids are not keys
    ]
    assert [row.place for row in rows][-1] == "a.jsonl.gz, line 1"
    assert rows.survey().n_rows == 3


def test_a_single_file_is_not_named():
    (row,) = JobInput(paths=(write("a.jsonl", 1),))
    assert (row.file, row.place) == (None, "line 1")


def test_formats_may_differ_and_a_file_may_be_empty():
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    Path("b.csv").write_text("summary;document;id\ns;d;2\n")
    pq.write_table(pa.table({"id": [3], "summary": ["s"], "document": ["d"]}), "c.parquet")
    rows = JobInput(paths=(write("a.jsonl", 1), write("empty.jsonl"), "b.csv", "c.parquet"))
    assert [row.id for row in rows] == [1, "2", 3]
    assert {(row.document, row.summary) for row in rows} == {("d", "s")}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.jsonl.gz", gzip.compress(b"{}\n" * 99)[:-9], "b.jsonl.gz is not a complete gzip file"),
        ("b.csv", b"document,text\nd,s\n", "b.csv must have a column 'summary', but has"),
        ("b.parquet", b"", "b.parquet is not a complete Parquet file"),
    ],
    ids=["gzip", "csv", "parquet"],
)
def test_the_survey_names_the_bad_one_of_several_files(name, content, message):
    Path(name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        JobInput(paths=(write("a.jsonl", 1), name)).survey()


def test_one_parquet_file_without_a_column():
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    for name in "abc":
        text = "text" if name == "b" else "summary"
        pq.write_table(pa.table({"document": ["d"], text: ["s"]}), f"{name}.parquet")
    with pytest.raises(InputError, match=r"^b.parquet must have a column 'summary', but has 'doc"):
        JobInput(paths=matching_files(("*.parquet",))).survey()


def test_missing_ids_of_several_files():
    rows = JobInput(paths=(write("a.jsonl", 1), write("b.jsonl", 2)), ids=("3",))
    with pytest.raises(InputError, match=r"^no row of a.jsonl b.jsonl has the id 3"):
        rows.survey()


# Patterns


def test_patterns():
    for name in ("in/b.jsonl", "in/a.jsonl", "in/c.csv", "x[1].jsonl", "x1.jsonl"):
        write(name)
    assert matching_files(("in/*.jsonl",)) == ("in/a.jsonl", "in/b.jsonl")
    assert matching_files(("in/c.csv", "**/a.jsonl")) == ("in/c.csv", "in/a.jsonl")
    assert matching_files(("x[1].jsonl",)) == ("x[1].jsonl",)  # a file of that name
    assert matching_files(("-", "none.jsonl")) == ("-", "none.jsonl")  # reading them will tell


@pytest.mark.parametrize("names", [("in/*.jsonl",), ("a.jsonl", "b?.jsonl")])
def test_a_pattern_without_files(names):
    write("a.jsonl")
    with pytest.raises(InputError, match=says(f"no file matches {names[-1]}")):
        matching_files(names)


@pytest.mark.parametrize(
    "names", [("a.jsonl", "a.jsonl"), ("a.jsonl", "*.jsonl"), ("a.jsonl", "link"), ("-", "-")]
)
def test_a_file_that_comes_twice(names):
    write("a.jsonl")
    Path("link").symlink_to("a.jsonl")
    message = says(f"each file once, but {names[0]} and … are the same; leave one of them out")
    with pytest.raises(InputError, match=message):
        matching_files(names)
    with pytest.raises(InputError, match=r"^SCORES must have each file once"):
        matching_files(names, "SCORES")


# Digests


def test_digests_are_those_of_all_bytes_of_each_file():
    pa = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet", reason="Parquet needs pyarrow")
    row = {"document": "d" * 9_999, "summary": "s"}
    text = 40 * json.dumps(row) + "\n\n"
    Path("a.jsonl").write_text(text)
    Path("b.json").write_text(json.dumps([row] * 40, indent=2) + "\n" * 9_999)
    Path("c.csv").write_text("document,summary\n" + "d,s\n" * 9_999)
    Path("d.jsonl.gz").write_bytes(gzip.compress(text.encode()) + bytes(9_999))  # padding
    pq.write_table(pa.table({"document": ["d" * 99_999], "summary": ["s"]}), "e.parquet")
    paths = ("a.jsonl", "b.json", "c.csv", "d.jsonl.gz", "e.parquet")
    rows = JobInput(paths=paths)
    assert rows.survey().digests == [
        f"{path}@{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}" for path in paths
    ]  # fmt: skip


def test_no_digest_of_a_file_that_has_gone():
    with pytest.raises(InputError, match=r"^cannot read a.jsonl: No such file or directory$"):
        JobInput(paths=("a.jsonl",)).survey()


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts what is read")
def test_a_survey_reads_a_file_once():
    def n_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    path = write("a.jsonl", *range(50_000))
    before = n_read()
    assert JobInput(paths=(path,)).survey().n_rows == 50_000
    assert n_read() - before < 1.1 * Path(path).stat().st_size


# Shards


@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 65, 640, 1000])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
def test_shards_are_all_rows_once_in_whole_windows(n_rows, n):
    shards = [shard_of(f"{i}/{n}", n_rows) for i in range(1, n + 1)]
    assert [row for shard in shards for row in shard] == list(range(n_rows))
    assert all(shard.start % MAX_WINDOW_ROWS == 0 for shard in shards if shard)
    assert max(map(len, shards)) - min(map(len, shards)) <= 2 * MAX_WINDOW_ROWS
    assert shard_of(None, n_rows) == range(n_rows)


@pytest.mark.parametrize(
    "shard", ["0/1", "2/1", "1", "1/2/3", "a/b", "1.0/2", "-1/2", "", "\u0661/\u0662"], ids=ascii
)
def test_no_shards(shard):
    with pytest.raises(
        InputError, match=says(f"`--shard` must be i/n … but got {shard!r}; number")
    ):
        check_shard(shard, JobInput(paths=("a.jsonl",)))


def test_a_stream_has_no_shards():
    with pytest.raises(InputError, match="`--shard` needs files, but got standard input; write"):
        check_shard("1/2", JobInput(paths=("-",)))
    check_shard(None, JobInput(paths=("-",)))
