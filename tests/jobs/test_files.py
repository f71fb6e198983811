"""Files as they come: what is read of them, what is said about the rest, and what is written."""

import csv
import gzip
import io
import json
import math
import re
import sys

import pytest
from messages import says

from quals_fast.errors import InputError
from quals_fast.jobs.files import read_rows
from quals_fast.jobs.output import CSV_COLUMNS, RowWriter, open_output
from quals_fast.jobs.parsing import InputRow
from quals_fast.results import QAPair, SummaryScore

pytestmark = [  # a file that stays open fails
    pytest.mark.filterwarnings("error::ResourceWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

GOOD = {"document": "Löwe, a document", "summary": "a “summary”"}
# What messages end with; … as in `says`.
EXPECTED = 'expected one object per line … {"document": "...", "summary": "..."}'
ENCODING = " … --encoding"
QUOTES = " … quote cells"
NAMES = " … --document-field … --summary-field"


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def read(tmp_path):
    """Write a file, read its rows."""

    def _read(content, name="rows.jsonl", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_rows(str(path), **options))

    return _read


@pytest.fixture
def feed(monkeypatch):
    """Put bytes on standard input, read their rows."""

    def _feed(content, **options):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return list(read_rows("-", **options))

    return _feed


def texts(rows):
    return [(row.document, row.summary) for row in rows]


def problems(rows):
    return {row.line: row.problem for row in rows if row.problem is not None}


# What a file can be


CSV_GOOD = f'document,summary\r\n"{GOOD["document"]}",{GOOD["summary"]}\r\n'
CONTAINERS = [
    pytest.param("rows.jsonl", jsonl(GOOD), {}, 1, id="jsonl"),
    pytest.param("rows", jsonl(GOOD), {}, 1, id="no-suffix"),
    pytest.param("rows.txt", CSV_GOOD, {"file_format": "csv"}, 2, id="csv-by-format"),
    pytest.param("rows.csv", jsonl(GOOD), {"file_format": "jsonl"}, 1, id="jsonl-by-format"),
    pytest.param("rows.csv", CSV_GOOD, {}, 2, id="csv"),
    pytest.param("ROWS.CSV", CSV_GOOD, {}, 2, id="csv-upper-case"),
    pytest.param("rows.csv", "\r\n\n" + CSV_GOOD, {}, 4, id="csv-blank-lines-first"),
    pytest.param("rows.csv", CSV_GOOD.replace("\r\n", "\n"), {}, 2, id="csv-lf"),
    pytest.param("rows.csv", CSV_GOOD.rstrip(), {}, 2, id="csv-no-final-newline"),
    pytest.param("rows.jsonl", jsonl(GOOD).rstrip(), {}, 1, id="jsonl-no-final-newline"),
    pytest.param("rows.jsonl", jsonl(GOOD).replace("\n", "\r\n"), {}, 1, id="jsonl-crlf"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize(("name", "content", "options", "line"), CONTAINERS)
def test_containers_and_encodings(read, name, content, options, line, packed, encoding):
    data = content.encode(encoding)
    if packed:
        name, data = name + ".gz", gzip.compress(data)
    if encoding != "utf-8-sig":  # its mark is dropped by default
        options = options | {"encoding": encoding}
    (row,) = read(data, name, **options)
    assert row == InputRow(line=line, id=line, fields=GOOD, **GOOD)


@pytest.mark.parametrize("name", ["utf-8", "UTF-8", "utf8", "U8", "utf_8", "utf-8-sig"])
def test_byte_order_mark_is_dropped_by_any_name_of_utf8(read, name):
    (row,) = read(jsonl(GOOD).encode("utf-8-sig"), encoding=name)
    assert row.problem is None
    (row,) = read(CSV_GOOD.encode("utf-8-sig"), "rows.csv", encoding=name)
    assert texts([row]) == [(GOOD["document"], GOOD["summary"])]


def test_standard_input(feed):
    assert texts(feed(jsonl(GOOD, GOOD).encode())) == 2 * [tuple(GOOD.values())]
    assert texts(feed(CSV_GOOD.encode(), file_format="csv")) == [tuple(GOOD.values())]
    assert feed(b"") == []


SEPARATED = {";": "semicolons", "\t": "tabs", ",": "commas"}


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows", "ROWS.TSV.gz"])
@pytest.mark.parametrize("separator", SEPARATED, ids=SEPARATED.values())
def test_columns_separated_otherwise(read, name, separator):
    lines = [["id", "document", "summary"], ["a", '"x, y; z\tand\n1"', "s"], ["b", "d"]]
    content = "".join(separator.join(line) + "\n" for line in lines).encode()
    rows = read(gzip.compress(content) if name.endswith(".gz") else content, name)
    assert [(row.line, row.id) for row in rows] == [(2, "a"), (4, "b")]
    assert texts(rows[:1]) == [("x, y; z\tand\n1", "s")]
    kind = {";": "semicolon", "\t": "tab", ",": "comma"}[separator]
    assert re.match(says(f"expected 3 cells … but got 2; … a {kind}"), rows[1].problem)


def test_a_separator_of_another_kind_may_stand_in_a_name(read):
    (row,) = read("id;x,document,summary\n1,d,s\n", "rows.csv")
    assert (row.fields["id;x"], row.document) == ("1", "d")


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=ascii)
@pytest.mark.parametrize("separator", [",", ";", "\t"], ids=ascii)
def test_columns_on_standard_input(feed, mark, separator):
    columns = "document,summary\nd,s\n".replace(",", separator)
    assert texts(feed((mark + columns).encode())) == [("d", "s")]


WHOLE = {
    "indented array": json.dumps([GOOD, GOOD], indent=2),
    "array in one line": json.dumps([GOOD, GOOD]),
    "array, an object a line": f"[\n{json.dumps(GOOD)},\n{json.dumps(GOOD)}\n]\n",
    "array that begins with an object": f"[{json.dumps(GOOD)},\r\n{json.dumps(GOOD)}]",
    "objects from the first line on": 2 * (json.dumps(GOOD, separators=(",\n", ": ")) + "\n"),
    "indented objects": 2 * (json.dumps(GOOD, indent=2) + "\n"),
    "blank lines first": "\n\n" + json.dumps([GOOD, GOOD], indent=1) + "\n\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE.keys())
def test_json_that_is_not_one_object_a_line(read, content, encoding):
    rows = read(content.encode(encoding), encoding=encoding.removesuffix("-sig"))
    assert texts(rows) == 2 * [tuple(GOOD.values())]
    lines = [n for n, line in enumerate(content.splitlines(), 1) if "{" in line]
    assert [row.line for row in rows] == (lines if len(lines) == 2 else 2 * lines)


def test_an_array_of_one_object_on_a_line_of_its_own(read):
    assert texts(read(f"[\n{json.dumps(GOOD)}\n]\n")) == [tuple(GOOD.values())]


def test_rows_of_an_array_have_problems_of_their_own(read):
    rows = read(
        '[\n{"id": 0, "document": "d"},\n7, [],\n' + json.dumps(GOOD).replace("ö", "ö") + "]"
    )
    assert [row.line for row in rows] == [2, 3, 3, 4]
    assert rows[0].problem.startswith("expected a key 'summary', but got 'id', 'document'")
    assert rows[1].problem.endswith("but got a number")
    assert rows[2].problem.endswith("but got an array")
    assert rows[3].problem is None
    (row,) = read(b'[{"document": "\xe9", "summary": "s"}]')
    assert row.problem.startswith("expected utf-8, but got the byte 0xE9")
    assert read("[]") == read(" [ ]\n") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n{"document": "d"\n', "Expecting ',' delimiter at line 3, column 1"),
        ('[{"document": "d"}\n{}]', "Expecting ',' delimiter at line 2, column 1"),
        ("[1, 2", "Expecting ',' delimiter at line 1, column 6"),
        ("[1,]", "Expecting value at line 1, column 4"),
        ("[1] 2", "Extra data at line 1, column 5"),
        ('{\n"document": "d",\n', "property name"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_json_that_breaks_off_is_one_error(read, content, message):
    with pytest.raises(InputError, match=f"rows.jsonl is not valid JSON: .*{re.escape(message)}"):
        read(content)


@pytest.mark.parametrize("content", [WHOLE["indented array"], WHOLE["indented objects"]])
def test_json_that_is_read_as_a_whole_has_a_limit(read, monkeypatch, content):
    _, rest = content.split("\n", 1)
    monkeypatch.setattr("quals_fast.jobs.parsing._MAX_WHOLE", len(rest))
    assert len(read(content)) == 2
    monkeypatch.setattr("quals_fast.jobs.parsing._MAX_WHOLE", len(rest) - 1)
    fails(read, content, "rows.jsonl", "rows.jsonl must have one JSON object … jq -c '.[]'")


@pytest.mark.parametrize("limit", [100, 250_000_000])
@pytest.mark.parametrize("first", ["[", "[1, 2]", "{", "[broken", '{"document": "d",'])
def test_a_broken_first_line_of_json_lines_costs_no_other_row(read, monkeypatch, first, limit):
    monkeypatch.setattr("quals_fast.jobs.parsing._MAX_WHOLE", limit)
    rows = read(f"{first}\n" + jsonl(GOOD, GOOD))
    assert list(problems(rows)) == [1]
    assert [row.line for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows"])
def test_gzip_under_any_name_and_on_standard_input(read, feed, name):
    content = CSV_GOOD if name == "rows.csv" else jsonl(GOOD)
    packed = gzip.compress(content.encode())
    assert texts(read(packed, name)) == texts(feed(packed)) == [tuple(GOOD.values())]


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PK\x03\x04\x14", "an Excel workbook or another zip archive … save it as CSV"),
        (bytes.fromhex("d0cf11e0a1b11ae1"), "an old Excel workbook … save it as CSV"),
        (b"ARROW1\0\0", "an Arrow file"),
        (bytes.fromhex("28b52ffd04"), "compressed with zstd … decompress it"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"BZh91AY&SY", "compressed with bzip2"),
    ],
)
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.xlsx", "rows.parquet"])
def test_files_that_are_no_text_are_refused_by_name(read, feed, name, start, what):
    fails(read, start + b"rest\n" * 9, name, f"{name} is {what}")
    with pytest.raises(InputError, match=says(f"standard input is {what}")):
        feed(start)


def test_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match=r"^cannot read standard input: it is closed$"):
        list(read_rows("-"))


@pytest.mark.parametrize("content", ["", "\n", "\n \r\n\t\n"], ids=ascii)
def test_file_without_rows(read, content):
    assert read(content) == []


@pytest.mark.parametrize("size", [128 * 1024, 128 * 1024 + 1, 1_000_000])
def test_long_documents(read, size):
    document = "a bee " * (size // 6) + "b" * (size % 6)
    assert read(jsonl({"document": document, "summary": "s"}))[0].document == document
    assert read(f"document,summary\n{document},s\n", "rows.csv")[0].document == document


# Files that cannot be read at all


def fails(read, content, name, message, **options):
    with pytest.raises(InputError, match=says(message)):
        read(content, name, **options)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.jsonl.gz", "rows.csv.gz"])
def test_missing_file(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=f"^cannot read {path}: No such file or directory$"):
        list(read_rows(str(path)))


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(InputError, match=f"^cannot read {tmp_path}: Is a directory$"):
        list(read_rows(str(tmp_path)))


@pytest.mark.parametrize("name", ["klingon", "", "base64", "utf-8\0", "rot13"], ids=ascii)
def test_unknown_encoding(read, name):
    fails(read, "", "rows.jsonl", f"`--encoding` … utf-8 … but got {name!r}", encoding=name)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
@pytest.mark.parametrize("given", ["utf-8", "latin-1", "iso8859-16", "ascii"])
@pytest.mark.parametrize(
    ("written", "needed"),
    [("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")],
    ids=["mark", "little-endian", "big-endian"],
)
def test_utf16_without_its_encoding(read, name, given, written, needed):
    content = jsonl(GOOD) if name == "rows.jsonl" else CSV_GOOD
    message = f"rows.{name[5:]} looks like UTF-16, not {given} … --encoding {needed}"
    fails(read, content.encode(written), name, message, encoding=given)


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        pytest.param(b'{"a"', "utf-16", "is not utf-16: ", id="utf-8-read-as-utf-16"),
        pytest.param(jsonl(GOOD).encode("utf-16")[:-1], "utf-16", "truncated data", id="odd"),
        pytest.param(jsonl(GOOD).encode(), "utf-32", "is not utf-32: ", id="utf-32"),
    ],
)
def test_encoding_that_does_not_fit_at_all(read, content, encoding, message):
    fails(read, content, "rows.jsonl", message, encoding=encoding)
    fails(read, content, "rows.jsonl", "; give its --encoding", encoding=encoding)


PACKED = gzip.compress(jsonl(*[GOOD | {"id": i} for i in range(3000)]).encode())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(jsonl(GOOD).encode(), "Not a gzipped file", id="plain"),
        pytest.param(PACKED[:-9], "Compressed file ended", id="cut-off"),
        pytest.param(PACKED[:200] + b"\0\0\0" + PACKED[203:], "", id="damaged"),
        pytest.param(PACKED[:-8] + bytes(8), "CRC check failed", id="checksum"),
    ],
)
def test_damaged_gzip(read, content, what):
    message = f"rows.jsonl.gz is not a complete gzip file: … {what} … gzip -t … .gz"
    fails(read, content, "rows.jsonl.gz", message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        pytest.param("", "must have a column 'document', but has none" + NAMES, id="empty-file"),
        pytest.param(
            "document,text\n",
            "must have a column 'summary', but has 'document', 'text'" + NAMES,
            id="missing-column",
        ),
        pytest.param(
            "document, summary\n",
            "must have a column 'summary', but has 'document', ' summary'" + NAMES,
            id="space-in-the-name",
        ),
        pytest.param(
            "text;summary\n",
            "must have a column 'document', but has 'text', 'summary'" + NAMES,
            id="semicolons",
        ),
        pytest.param(
            "document,summary,document\n",
            "one column 'document', but has 2 … rename",
            id="document-twice",
        ),
        pytest.param(
            "id,document,summary,id,id\n",
            "one column 'id', but has 3 … rename",
            id="id-thrice",
        ),
        pytest.param(
            'document,"summary\n', "cannot be read: invalid CSV: unexpected end", id="open-quote"
        ),
    ],
)
def test_csv_header(read, header, message):
    fails(read, header, "rows.csv", message)


def test_standard_input_has_a_name(feed):
    with pytest.raises(InputError, match=r"^standard input must have a column 'document'"):
        feed(b"a,b\n", file_format="csv")


def test_header_that_repeats_other_columns_is_fine(read):
    (row,) = read("x,document,,summary,,x\n1,d,2,s,3,4\n", "rows.csv")
    assert row.problem is None
    assert texts([row]) == [("d", "s")]


# Rows that cannot be read


BAD_LINES = [
    pytest.param(
        '{"document": "d", "summary": "s"',
        f"invalid JSON: Expecting ',' delimiter at column 33 … {EXPECTED}",
        id="cut-off",
    ),
    pytest.param(
        "{'document': 'd'}",
        "invalid JSON: Expecting property name enclosed in double quotes at column 2 … " + EXPECTED,
        id="single-quotes",
    ),
    pytest.param("a text", f"invalid JSON: Expecting value at column 1 … {EXPECTED}", id="no-json"),
    pytest.param(
        '{"document": "d", "summary": "s"} {}',
        f"invalid JSON: Extra data at column 35 … {EXPECTED}",
        id="two-objects",
    ),
    pytest.param(
        '{"document": "a\tb"}',
        f"invalid JSON: Invalid control character at column 16 … {EXPECTED}",
        id="raw-tab",
    ),
    pytest.param("[" * 100_000, f"invalid JSON: nested too deeply … {EXPECTED}", id="deep"),
    pytest.param(
        '{"document": "d", "summary": "s", "x": ' + '{"a":' * 100_000 + "1" + "}" * 100_001,
        f"invalid JSON: nested too deeply … {EXPECTED}",
        id="deep-but-valid",
    ),
    pytest.param('{"id": 1' + "0" * 5000 + "}", "invalid JSON: Exceeds the limit", id="digits"),
    pytest.param('["d", "s"]', f"{EXPECTED}, but got an array", id="array"),
    pytest.param('"d"', f"{EXPECTED}, but got a string", id="string"),
    pytest.param("3", f"{EXPECTED}, but got a number", id="int"),
    pytest.param("0.5", f"{EXPECTED}, but got a number", id="float"),
    pytest.param("NaN", f"{EXPECTED}, but got a number", id="nan"),
    pytest.param("true", f"{EXPECTED}, but got true or false", id="bool"),
    pytest.param("null", f"{EXPECTED}, but got null", id="null"),
    pytest.param("", "the line is blank", id="blank"),
    pytest.param(" \t", "the line is blank", id="white-space"),
    pytest.param(
        '{"document": "d", "text": "s"}',
        "expected a key 'summary', but got 'document', 'text'" + NAMES,
        id="missing-key",
    ),
    pytest.param("{}", "expected a key 'document', but got none" + NAMES, id="no-keys"),
    pytest.param(
        '{"document": "caf\udce9", "summary": "s"}',
        "expected utf-8, but got the byte 0xE9" + ENCODING,
        id="latin-1",
    ),
    pytest.param("\udcff\udcfe", "expected utf-8, but got the byte 0xFF" + ENCODING, id="bytes"),
]


@pytest.mark.parametrize(("text", "message"), BAD_LINES)
def test_bad_line_seven_of_nine(read, text, message):
    lines = [json.dumps(GOOD | {"id": f"row {i}"}) for i in range(1, 10)]
    lines[6] = text
    rows = read("\n".join(lines).encode(errors="surrogateescape"))
    assert [row.line for row in rows] == list(range(1, 10))
    assert [row.id for row in rows] == [7 if i == 7 else f"row {i}" for i in range(1, 10)]
    assert list(problems(rows)) == [7]
    assert re.match(says(message), rows[6].problem)
    assert texts(rows[6:7]) == [(None, None)]
    assert texts(rows[:6] + rows[7:]) == 8 * [tuple(GOOD.values())]


def test_row_without_a_key_keeps_its_id(read):
    (row,) = read('{"id": "a17", "document": "d"}')
    assert (row.id, row.fields) == ("a17", {"id": "a17", "document": "d"})


def test_blank_lines_keep_the_alignment_and_do_not_count_at_the_end(read):
    rows = read("\n" + jsonl(GOOD) + "\n  \n" + jsonl(GOOD) + "\n\n")
    assert [row.line for row in rows] == [1, 2, 3, 4, 5]
    assert problems(rows) == {line: "the line is blank" for line in (1, 3, 4)}


def test_texts_of_any_type_are_left_to_the_scorer(read):
    (row,) = read('{"document": null, "summary": ["\\ud800", "\\u0000"]}')
    assert (row.document, row.summary, row.problem) == (None, ["\ud800", "\0"], None)


def test_line_separators_inside_a_text_do_not_end_a_line(read):
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\rg\nh"
    (row,) = read(jsonl({"document": text, "summary": "s"}))
    assert row.document == text
    (row,) = read('document,summary\n"{text}",s\n'.replace("{text}", text), "rows.csv")
    assert row.document == text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param('"a"', "a", id="string"),
        pytest.param("0", 0, id="zero"),
        pytest.param("17", 17, id="int"),
        pytest.param("-0.5", -0.5, id="float"),
        pytest.param("false", False, id="false"),
        pytest.param('""', "", id="empty-string"),
        pytest.param('["a", 1]', ["a", 1], id="array"),
        pytest.param('{"n": 1}', {"n": 1}, id="object"),
        pytest.param('"\\ud800"', "\ud800", id="lone-surrogate"),
        pytest.param("null", 1, id="null-is-none"),
        pytest.param("NaN", 1, id="nan-cannot-be-written"),
        pytest.param("1e999", 1, id="infinity-cannot-be-written"),
        pytest.param("[-Infinity]", 1, id="nor-inside-an-array"),
    ],
)
def test_ids(read, given, expected):
    (row,) = read(f'{{"id": {given}, "document": "d", "summary": "s"}}')
    assert row.id == expected
    assert type(row.id) is type(expected)
    out = io.StringIO()
    RowWriter(out).write(row, SummaryScore(status="no_pairs"), "sig")
    assert json.loads(out.getvalue())["id"] == expected


def test_custom_fields(read):
    options = {"document_field": "source text", "summary_field": "hyp"}
    content = {"source text": "d", "hyp": "s", "document": "x", "summary": "y", "label": 0}
    (row,) = read(jsonl(content), **options)
    assert texts([row]) == [("d", "s")]
    assert row.fields == content
    (row,) = read('source text,"hyp",label\nd,s,1\n', "rows.csv", **options)
    assert texts([row]) == [("d", "s")]
    assert row.fields == {"source text": "d", "hyp": "s", "label": "1"}
    (row,) = read("7", **options)
    assert re.match(says('expected … {"source text": "...", "hyp": "..."}'), row.problem)
    (row,) = read(jsonl(GOOD), **options)
    parts = "expected a key 'source text', but got 'document', 'summary'" + NAMES
    assert re.match(says(parts), row.problem)


def test_one_field_for_both(read):
    (row,) = read(jsonl(GOOD), summary_field="document")
    assert row.document == row.summary == GOOD["document"]


BAD_CSV_ROWS = [
    pytest.param(
        "7,d",
        "expected 3 cells … but got 2; quote cells … comma",
        1,
        id="too-few-cells",
    ),
    pytest.param("7,a, b,s", "expected 3 cells … but got 4", 1, id="too-many"),
    pytest.param(
        "7,caf\udce9,s", "expected utf-8, but got the byte 0xE9" + ENCODING, 1, id="latin-1"
    ),
    pytest.param(
        '7,"a "quote" inside",s',
        f"invalid CSV: ',' expected after '\"'{QUOTES}",
        1,
        id="undoubled-quotes",
    ),
    pytest.param('7,"a\n\nb"', "expected 3 cells", 3, id="too-few-over-3-lines"),
]


@pytest.mark.parametrize(("text", "message", "height"), BAD_CSV_ROWS)
def test_bad_csv_row(read, text, message, height):
    lines = ["id,document,summary", "a,d,s", text, "b,d,s"]
    rows = read("\n".join(lines).encode(errors="surrogateescape"), "rows.csv")
    assert [row.line for row in rows] == [2, 3, 3 + height]
    assert list(problems(rows)) == [3]
    assert re.match(says(message), rows[1].problem)
    assert [rows[0].id, rows[2].id] == ["a", "b"]
    assert texts([rows[0], rows[2]]) == [("d", "s"), ("d", "s")]


def test_open_quote_is_named_at_its_row_and_not_taken_for_a_text(read):
    rows = read('document,summary\nd,s\nd,"open\nd,s\nd,s\n', "rows.csv")
    assert texts(rows) == [("d", "s"), (None, None)]
    assert list(problems(rows)) == [3]
    assert re.match(says(f"invalid CSV: unexpected end of data{QUOTES}"), rows[1].problem)


def test_quoted_line_breaks_count_as_lines(read):
    content = 'document,summary\r\n"one\ntwo\r\n\nfour",s\r\nd,"a ""b"", c"\r\n"x\n",y\nd,s\n'
    rows = read(content, "rows.csv")
    assert [row.line for row in rows] == [2, 6, 7, 9]
    assert [row.id for row in rows] == [2, 6, 7, 9]
    assert texts(rows) == [("one\ntwo\r\n\nfour", "s"), ("d", 'a "b", c'), ("x\n", "y"), ("d", "s")]


def test_blank_csv_lines_are_skipped_as_every_reader_of_csv_does(read):
    rows = read("document,summary\n\na,s\n\n\nb,s\n\n", "rows.csv")
    assert [(row.line, row.document) for row in rows] == [(3, "a"), (6, "b")]


def test_blank_csv_cells_are_empty_texts(read):
    rows = read('id,document,summary\n,,\n0,"",s\n', "rows.csv")
    assert [(row.id, row.document, row.summary) for row in rows] == [(2, "", ""), ("0", "", "s")]


def test_csv_in_latin1(read):
    content = "document,summary\ncafé,s\nd,s\n".encode("latin-1")
    assert texts(read(content, "rows.csv", encoding="latin-1")) == [("café", "s"), ("d", "s")]
    rows = read(content, "rows.csv")
    assert list(problems(rows)) == [2]
    assert rows[0].problem.startswith("expected utf-8, but got the byte 0xE9")
    assert texts(rows[1:]) == [("d", "s")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_rows_are_read_one_by_one(tmp_path, name):
    path = tmp_path / name
    path.write_text(jsonl(GOOD) + "]" if name == "rows.jsonl" else CSV_GOOD + "x\n")
    rows = read_rows(str(path))
    assert texts([next(rows)]) == [tuple(GOOD.values())]
    rows.close()


# What is written


PAIR = QAPair(
    question="who opened it ?",
    answer="queen “anne”",
    token_ids=(5, 1, 6, 4),
    tokens=("who", "<sep>", "queen", "<eos>"),
    summary_logprobs=(-1.0, -0.5, -0.25, 0.0),
    document_logprobs=(-2.0, -0.5, -4.25, 0.0),
)
RESULTS = [
    SummaryScore(status="ok", score=-1.25, pairs=(PAIR,), n_hypotheses=6, truncated_tokens=3),
    SummaryScore(status="no_pairs", n_hypotheses=6, unknown_tokens=2),
    SummaryScore(status="no_pairs", score=-5.0, n_hypotheses=6),
    SummaryScore(status="empty_summary"),
    SummaryScore(status="error", message='line 5: a "message",\nwith é and \ud800'),
]


def written(tmp_path, name, **options):
    path = tmp_path / name
    with open_output(str(path)) as file:
        writer = RowWriter(file, **options)
        for i, result in enumerate(RESULTS, 1):
            writer.write(InputRow(line=i, id=f"é{i}\udcff", fields={}), result, "sig|é")
            assert path.read_bytes().count(b"sig|") == i  # a stopped job keeps what it has
    return path.read_bytes()


@pytest.mark.parametrize("include_pairs", [False, True], ids=["no-pairs", "pairs"])
def test_json_lines(tmp_path, include_pairs):
    data = written(tmp_path, "out.jsonl", include_pairs=include_pairs)
    assert b"NaN" not in data and b"\r" not in data
    lines = [json.loads(line) for line in data.decode().splitlines()]
    assert [line["id"] for line in lines] == [f"é{i}\udcff" for i in range(1, 6)]
    assert [line["score"] for line in lines] == [-1.25, None, -5.0, None, None]
    assert [line["status"] for line in lines] == [result.status for result in RESULTS]
    assert [line["n_pairs"] for line in lines] == [1, 0, 0, 0, 0]
    assert [line["truncated_tokens"] for line in lines] == [3, 0, 0, 0, 0]
    assert [line["unknown_tokens"] for line in lines] == [0, 2, 0, 0, 0]
    assert [line.get("message") for line in lines] == [result.message for result in RESULTS]
    assert {line["signature"] for line in lines} == {"sig|é"}
    assert all(("pairs" in line) == include_pairs for line in lines)
    if include_pairs:
        assert lines[0]["pairs"] == [PAIR.to_dict()]
        assert lines[0]["pairs"][0]["score"] == -1.25


def test_csv(tmp_path):
    data = written(tmp_path, "out.csv", is_csv=True)
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["id"] for row in rows] == [f"é{i}\\udcff" for i in range(1, 6)]
    assert [row["score"] for row in rows] == ["-1.25", "", "-5.0", "", ""]
    assert [row["status"] for row in rows] == [result.status for result in RESULTS]
    assert [row["unknown_tokens"] for row in rows] == ["0", "2", "0", "0", "0"]
    assert rows[0]["worst_question"] == "who opened it ?"
    assert rows[0]["worst_answer"] == "queen “anne”"
    assert rows[4]["message"] == 'line 5: a "message",\nwith é and \\ud800'
    assert math.isclose(float(rows[0]["score"]), RESULTS[0].score)


def test_what_is_written_can_be_read_again(tmp_path, read):
    fields = {"document_field": "status", "summary_field": "signature"}
    for name in ("out.jsonl", "out.csv"):
        data = written(tmp_path, name, is_csv=name.endswith(".csv"))
        rows = read(data, name, **fields)
        assert [row.document for row in rows] == [result.status for result in RESULTS]
        assert problems(rows) == {}


def test_standard_output_is_utf8_whatever_the_terminal(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with open_output("-") as file:
        RowWriter(file).write(InputRow(line=1, id="é\ud800", fields={}), RESULTS[0], "sig")
    assert not sys.stdout.closed
    assert json.loads(raw.getvalue().decode())["id"] == "é\ud800"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}/none/out.jsonl", "cannot write {0}/none/out.jsonl: there is no folder {0}/none"),
        ("{}", "cannot write {}: Is a directory"),
        ("", "cannot write : No such file or directory"),
        (
            "{}/out.jsonl.gz",
            "uncompressed, but got … {}/out.jsonl.gz; leave out .gz",
        ),
    ],
    ids=["no-folder", "folder", "empty-name", "gz"],
)
def test_output_that_cannot_be_written(tmp_path, path, message):
    with pytest.raises(InputError, match=says(message.format(tmp_path))):
        open_output(path.format(tmp_path))
