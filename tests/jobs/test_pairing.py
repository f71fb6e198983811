"""Rows of several systems by document: what pairs, what does not, and what is refused."""

import json

import pytest
from messages import says

from quals_fast.errors import InputError
from quals_fast.jobs.pairing import (
    MAX_SYSTEMS,
    holds_scores,
    pair_scores,
    pair_texts,
    system_names,
)
from quals_fast.jobs.parsing import InputRow

SIGNATURE = "quals|rule:fairseq09|dtype:float32|version:0.1.0"
NAMES = {"a.jsonl": "a", "b.jsonl": "b"}


def text_row(file, line, document="d", summary="s", **fields):
    problem = fields.pop("problem", None)
    return InputRow(
        line=line, id=line, fields=fields, file=file, problem=problem,
        document=document, summary=summary,
    )  # fmt: skip


def texts(*documents, file="a.jsonl"):
    return [text_row(file, line, document) for line, document in enumerate(documents, 1)]


def write_scores(path, *ids, **changes):
    row = {"score": -1.0, "status": "ok", "signature": SIGNATURE} | changes
    lines = [json.dumps({"id": one} | row) + "\n" for one in ids]
    path.write_text("".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["x/a.jsonl", "y/b.csv.gz", "c"], ["a", "b", "c"]),
        (["x/out.jsonl", "y/out.jsonl"], ["x/out.jsonl", "y/out.jsonl"]),
        (["a.jsonl", "a.csv"], ["a.jsonl", "a.csv"]),
    ],
)
def test_names_of_systems_are_distinct(paths, names):
    assert list(system_names(paths).values()) == names


def test_documents_pair_by_their_text():
    rows = [*texts("one", "two", "two"), *texts(" two\n", "three", "ONE", file="b.jsonl")]
    pairing, bad = pair_texts(rows, NAMES)
    assert (pairing.systems, bad) == (["a", "b"], [])
    ((two, of_two),) = pairing.paired().items()
    assert two == "two"
    assert {system: [row.line for row in of] for system, of in of_two.items()} == {
        "a": [2, 3],
        "b": [1],
    }
    assert pairing.unpaired_line() == (
        "3 documents are not in the rows of every system: a.jsonl, line 1 (not in b); "
        "b.jsonl, line 2 (not in a); b.jsonl, line 3 (not in a)"
    )


def test_white_space_does_not_matter():
    rows = [*texts("one\r\ntwo \r\n"), *texts("one\n\ttwo", "onetwo", file="b.jsonl")]
    pairing, _ = pair_texts(rows, NAMES)
    assert list(pairing.paired()) == ["one two"]


def test_only_the_first_unpaired_documents_are_named():
    pairing, _ = pair_texts(texts(*"abcdef"), NAMES)
    assert pairing.unpaired_line().endswith("a.jsonl, line 3 (not in b) and 3 more")
    pairing, _ = pair_texts(texts("a"), NAMES)
    assert pairing.unpaired_line().startswith("1 document is not in")


def test_rows_that_cannot_be_scored_are_set_apart():
    rows = [
        text_row("a.jsonl", 1, problem="invalid JSON"),
        text_row("a.jsonl", 2, document=None),
        text_row("a.jsonl", 3, summary=4),
        text_row("a.jsonl", 4, summary=" "),
    ]
    pairing, bad = pair_texts(rows, NAMES)
    assert [row.line for row in bad] == [1, 2, 3]
    assert list(pairing.rows) == ["d"]  # an empty summary is one of the system's


def test_systems_of_a_column_keep_their_order():
    rows = [text_row(None, i, who=who) for i, who in enumerate(["lead", 2, True, "lead"], 1)]
    pairing, _ = pair_texts(rows, {"in.jsonl": "in"}, by="who")
    assert pairing.systems == ["lead", "2", "true"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": 1}, "line 7: expected the name of a system in 'who', but got the keys 'kind'"),
        ({"who": None}, "but got None … --by"),
        ({"who": ""}, "but got ''"),
        ({"who": ["a"]}, "but got ['a']"),
        ({}, "the keys of an empty row"),
    ],
)
def test_a_row_without_a_system(fields, message):
    with pytest.raises(InputError, match=says(message)):
        pair_texts([text_row(None, 7, **fields)], {"in.jsonl": "in"}, by="who")


def test_a_row_without_a_reference():
    rows = [text_row("a.jsonl", 1, gold="fine"), text_row("a.jsonl", 2, gold=None)]
    message = "a.jsonl, line 2: expected a reference summary 'gold', but got None … --reference"
    with pytest.raises(InputError, match=says(message)):
        pair_texts(rows, NAMES, reference_field="gold")


def test_too_many_systems():
    rows = [text_row(None, i, who=i) for i in range(1, MAX_SYSTEMS + 2)]
    with pytest.raises(InputError, match=says("at most 50 systems … but line 51 … '51' … --by")):
        pair_texts(rows, {"in.jsonl": "in"}, by="who")


def test_scores_pair_by_id(tmp_path):
    a = write_scores(tmp_path / "a.jsonl", "x", "y", 3)
    b = write_scores(tmp_path / "b.jsonl", 3, "x", score=None, status="no_pairs")
    (tmp_path / "b.jsonl").open("a").write('{"id": "y", "sco\n')
    pairing, bad, signatures = pair_scores(system_names([a, b]))
    assert list(pairing.paired()) == ["x", "3"]
    assert str(pairing.paired()["x"]["b"][0].score) == "nan"
    assert pairing.unpaired_line().endswith(f"{a}, line 2 (not in b)")
    assert [one.line for one in bad] == [3]
    assert signatures == [SIGNATURE]


def test_scores_of_several_files_may_share_a_file(tmp_path):
    path = tmp_path / "s.jsonl"
    write_scores(path, 1, 2, file="in/a.jsonl")
    lines = path.read_text()
    write_scores(path, 1, 2, file="in/b.jsonl")
    path.write_text(lines + path.read_text())
    pairing, _, _ = pair_scores({str(path): "s"}, by="file")
    assert pairing.systems == ["in/a.jsonl", "in/b.jsonl"]
    assert len(pairing.paired()) == 2


def test_an_infinite_score_is_none(tmp_path):
    a = write_scores(tmp_path / "a.jsonl", "x", score=float("inf"))
    pairing, _, _ = pair_scores({a: "a"})
    assert str(pairing.rows["x"]["a"][0].score) == "nan"


def test_an_id_that_comes_twice(tmp_path):
    a = write_scores(tmp_path / "a.jsonl", "x", "y", "x")
    message = f"{a}, line 3: a has the id 'x' twice, first at {a}, line 1 … also takes --by"
    with pytest.raises(InputError, match=says(message)):
        pair_scores({a: "a"})


def test_scores_of_other_settings_are_not_comparable(tmp_path):
    a = write_scores(tmp_path / "a.jsonl", "x")
    b = write_scores(tmp_path / "b.jsonl", "x", signature=SIGNATURE.replace("float32", "mixed"))
    message = (
        f"not comparable, but {a}, line 1 has dtype:float32 and {b}, line 1 has dtype:mixed; score"
    )
    with pytest.raises(InputError, match=says(message)):
        pair_scores({a: "a", b: "b"})


def test_scores_of_another_version_are_comparable(tmp_path):
    other = SIGNATURE.replace("0.1.0", "0.2.0")
    a = write_scores(tmp_path / "a.jsonl", "x")
    b = write_scores(tmp_path / "b.jsonl", "x", signature=other)
    assert pair_scores({a: "a", b: "b"})[2] == [SIGNATURE, other]


def test_what_a_file_holds(tmp_path):
    path = tmp_path / "f.jsonl"
    write_scores(path, 1)
    path.write_text("{broken\n" + path.read_text())
    assert holds_scores(str(path), "document")
    write_scores(path, 1, document="d")  # scores beside the texts: as texts
    assert not holds_scores(str(path), "document")
    assert holds_scores(str(path), "article")
    (tmp_path / "s.csv").write_text(f"id,score,status,signature\n1,-0.5,ok,{SIGNATURE}\n")
    assert holds_scores(str(tmp_path / "s.csv"), "document")
    path.write_text('{"document": "d", "summary": "s"}\n')
    assert not holds_scores(str(path), "document")
    assert not holds_scores(str(tmp_path / "none"), "document")
