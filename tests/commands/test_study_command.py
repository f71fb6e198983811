"""`quals-fast study`: from two files to pages, and from votes to a table."""

import json
from pathlib import Path

import pytest
from cli_helpers import assert_usage_error, write
from click.testing import CliRunner
from studies import SYSTEMS, rows, study, votes, write_systems, write_votes

from quals_fast.commands.app import app
from quals_fast.study.design import Study

BART, PEGASUS = SYSTEMS


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command in a folder of its own, which has the files of two systems."""
    monkeypatch.chdir(tmp_path)
    write_systems()
    return lambda *arguments: CliRunner().invoke(app, ["study", *arguments])


def made(run, *arguments):
    """Make a study and return its key."""
    done = run("bart.jsonl", "pegasus.jsonl", "-o", "study", *arguments)
    assert (done.exit_code, done.stdout) == (0, "")
    return Study.of_dict(json.loads(Path("study/key.json").read_text()), "key.json")


def scores(name, rows):
    common = {"status": "ok", "signature": "quals|model:toy@0123"}
    return write(name, [{"id": row["id"], "score": row["score"]} | common for row in rows])


def test_pages_and_key(run):
    done = run("bart.jsonl", "pegasus.jsonl", "-o", "study/", "--pairs", "4", "--annotators", "2")
    assert (done.exit_code, done.stdout) == (0, "")
    message = "wrote study/: 4 of 6 pairs for 2 annotators; keep key.json from them\n"
    assert done.stderr == message
    names = {path.name for path in Path("study").iterdir()}
    assert names == {"annotator-1.html", "annotator-2.html", "key.json"}
    of = Study.of_dict(json.loads(Path("study/key.json").read_text()), "key.json")
    assert of.systems == SYSTEMS
    for pair in of.pairs:  # the files have the documents in different orders
        first, second = pair.summaries
        assert (first.text[:5], second.text[:5]) == ("right", "wrong")
        assert first.id.split("-")[1] == second.id.split("-")[1] == pair.document.split()[1]
    again = ["-o", "b", "--pairs", "4", "--annotators", "2", "--quiet"]
    assert run("bart.jsonl", "pegasus.jsonl", *again).stderr == ""
    for name in names:  # the same study
        assert Path("b", name).read_bytes() == Path("study", name).read_bytes()


def test_what_is_left_out_is_told(run):
    first, second = rows(0), rows(1)
    second[0]["summary"] = first[0]["summary"]
    second[1]["document"] = "another document"
    write("a.jsonl", [*first, "{"])
    write("b.jsonl", second[:5])
    done = run("a.jsonl", "b.jsonl", "-o", "s", "--pairs", "3")
    assert done.exit_code == 1  # a line is no row
    assert done.stderr == (
        "wrote s: 3 of 3 pairs for 3 annotators; keep key.json from them; 1 pair with identical "
        "summaries left out; 3 documents are not in the rows of every system: a.jsonl, line 2 (not "
        "in b); a.jsonl, line 6 (not in b); b.jsonl, line 2 (not in a); left out; 1 row not read, "
        "first a.jsonl, line 7: invalid JSON: Expecting property name enclosed in double quotes at "
        'column 2; expected one object per line, such as {"document": "...", "summary": "..."}\n'
    )
    write("a.jsonl", [*first, {"document": "d", "summary": 3}])
    done = run("a.jsonl", "b.jsonl", "-o", "t", "--pairs", "3", "--quiet")
    assert (done.exit_code, done.stderr) == (1, "")


def test_both_systems_may_share_a_file(run):
    write("both.jsonl", [row | {"by": SYSTEMS[s]} for s in (1, 0) for row in rows(s)])
    assert run("both.jsonl", "--by", "by", "-o", "s", "--pairs", "6").exit_code == 0
    content = json.loads(Path("s/key.json").read_text())
    of = Study.of_dict(content, "key.json")
    assert of.systems == (PEGASUS, BART)
    assert {pair.summaries[1].text[:5] for pair in of.pairs} == {"right"}
    all_rows = [row | {"score": -1 - s} for s in (0, 1) for row in rows(s)]
    file = scores("scores.jsonl", all_rows)
    for_a = ["A" if shown.a == 0 else "B" for shown in of.orders[0]]
    saved = votes(of, 1) | {"votes": [{"consistency": answer} for answer in for_a]}
    Path("v.json").write_text(json.dumps(saved))  # all prefer pegasus, which scores lower
    done = run("--votes", "v.json", "--key", "s/key.json", "--scores", file, file)
    assert "QUALS agrees with people on factual consistency: 0.0 % of 6 pairs" in done.stdout


def test_votes_become_a_table(run):
    of = made(run, "--pairs", "4", "--annotators", "3")
    write_votes(of, 1, BART, BART, PEGASUS, "equal", name="study/votes-1.json")
    write_votes(of, 2, BART, BART, name="study/votes-2 (1).json")
    done = run("--votes", "study/votes-1.json", "study/votes-2 (1).json", "--key", "study/key.json")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == "bart better equal pegasus better same vote alpha".split()
    assert lines[1].split() == "Factual consistency 50.0 % 25.0 % 25.0 % 100.0 % -".split()
    assert lines[2].split()[0].startswith("[")
    assert lines[-3:] == [
        "4 pairs, 2 of 3 annotators; 95 % bootstrap intervals over pairs in brackets, none where "
        "all pairs are alike",
        "annotator 2 (study/votes-2 (1).json) answered 6 of 12 questions",
        "no votes of annotator 3",
    ]
    assert run("--votes", "study").stdout == done.stdout  # the folder
    assert run("--votes", "study/*1*.json", "study/key.json").stdout == done.stdout


def test_votes_and_scores_become_json(run):
    of = made(run, "--pairs", "6", "--annotators", "1")
    file = write_votes(of, 1, *[BART] * 4, PEGASUS, "equal")
    first = scores("a.jsonl", [row | {"score": -1} for row in rows(0)])
    second = scores("b.jsonl", [row | {"score": -2} for row in rows(1)[::-1]])
    arguments = ["--votes", file, "--key", "study/key.json", "--scores", first, second]
    done = run(*arguments, "-o", "out.json")
    assert "\nQUALS agrees with people on factual consistency: 80.0 % [" in done.stdout
    assert "] of 5 pairs; people are undecided on 1\nscores: bart from a.jsonl, " in done.stdout
    assert done.stdout.endswith("pegasus from b.jsonl\nquals|model:toy@0123\n")
    content = json.loads(Path("out.json").read_text())
    assert content["metric"]["agreement"]["value"] == 0.8
    assert content["metric"]["files"] == [first, second]
    assert content["systems"] == [BART, PEGASUS]
    assert content["annotators"] == [{"annotator": 1, "file": file, "n_answers": 18}]
    assert [one["attribute"] for one in content["attributes"]] == [
        "consistency", "informativeness", "grammar",
    ]  # fmt: skip
    assert content["attributes"][0]["alpha"] is None
    assert json.loads(run(*arguments, "-o", "-").stdout) == content
    assert run(*arguments, "-o", "out.json", "--quiet").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("bart.jsonl -o s", "compares two systems, but got bart; give"),
        (
            "bart.jsonl pegasus.jsonl long.jsonl -o s",
            "compares two systems, but got bart, pegasus, long",
        ),
        ("bart.jsonl ./bart.jsonl -o s", "FILES must have each file once"),
        ("bart.jsonl pegasus.jsonl", "needs a folder … -o FOLDER"),
        ("bart.jsonl pegasus.jsonl -o s", "a study of 100 pairs … but got 6; ask … --pairs 6"),
        ("bart.jsonl long.jsonl -o s", "got 0; 15 documents … both need the same doc"),
        ("bart.jsonl pegasus.jsonl -o old --pairs 2", "old has the key of a study … another name"),
        ("bart.jsonl pegasus.jsonl -o no/s --pairs 2", "cannot write no/s: No such file"),
        ("bart.jsonl pegasus.jsonl -o bart.jsonl --pairs 2", "cannot write bart.jsonl: File exis"),
        ("bart.jsonl pegasus.jsonl -o s --key old/key.json", "--key works only with --votes"),
        ("bart.jsonl none.jsonl -o s", "cannot read none.jsonl"),
        ("--votes v1.json --format csv", "--format works only without --votes"),
        ("--votes v1.json --pairs 3", "--pairs works only without --votes"),
        ("--votes v1.json", "votes need the key … got none beside the votes; add --key"),
        ("--votes v1.json --key v1.json", "--key must be the key.json of a study, but v1.json ho"),
        ("--votes v1.json old/key.json other/key.json", "got old/key.json, other/key.json; add"),
        ("--votes other.json --key old/key.json", "of the study … other.json is of … leave it out"),
        ("--votes v1.json v1b.json --key old/key.json", "v1.json (18 … v1b.json (3 … annotator 1"),
        ("--votes bart.jsonl --key old/key.json", "bart.jsonl must hold votes … something else"),
        ("--votes none.json --key old/key.json", "cannot read none.json"),
        ("--votes v1.json --key none.json", "cannot read none.json"),
        ("--votes empty.json --key old/key.json", "needs votes, but no question was answered"),
        ("--votes odd.json --key old/key.json", "odd.json must be as the page saved it"),
        ("--votes other", "other must have votes of a study, but has no file votes*.json"),
        (
            "--votes v1.json --key old/key.json --scores bart.jsonl pegasus.jsonl",
            "quals-fast score",
        ),
        ("--votes v1.json --key old/key.json -o v1.json", "must not be the same file as INPUT"),
    ],
)
def test_bad_input(run, arguments, message):
    write("long.jsonl", [{"document": f"long {i}", "summary": "s"} for i in range(9)])
    of = study()
    for name, one in (("old", of), ("other", study(seed=1))):
        Path(name).mkdir()
        Path(name, "key.json").write_text(json.dumps(one.to_dict()))
    write_votes(of, 1, *[BART] * 6, name="v1.json")
    write_votes(of, 1, PEGASUS, name="v1b.json")
    write_votes(of, 1, name="empty.json")
    write_votes(study(seed=1), 1, BART, name="other.json")
    Path("odd.json").write_text(json.dumps(votes(of, 1) | {"annotator": 4}))
    before = {path: path.read_bytes() for path in Path().rglob("*.*")}
    assert_usage_error(run(*arguments.split()), message)
    assert {path: path.read_bytes() for path in Path().rglob("*.*")} == before


@pytest.mark.parametrize(
    "change",
    [
        {"annotator": "1"}, {"annotator": 0}, {"votes": []}, {"votes": 3}, {"votes": [3] * 6},
        {"votes": [{"consistency": "C"}] * 6}, {"votes": [{"style": "A"}] * 6},
    ],
    ids=str,
)  # fmt: skip
def test_votes_that_were_changed_are_refused(run, change):
    of = made(run, "--pairs", "6")
    Path("v.json").write_text(json.dumps(votes(of, 1, BART) | change))
    done = run("--votes", "v.json", "--key", "study/key.json")
    assert_usage_error(done, "v.json must be as the page saved it, but was changed; ask")


def test_files_of_one_name_are_told_apart(run):
    for system in (0, 1):
        Path(SYSTEMS[system]).mkdir()
        write(f"{SYSTEMS[system]}/out.jsonl", rows(system))
    run("bart/out.jsonl", "pegasus/out.jsonl", "-o", "study", "--pairs", "2")
    key = json.loads(Path("study/key.json").read_text())
    assert key["systems"] == ["bart/out.jsonl", "pegasus/out.jsonl"]


def test_without_jinja(run, monkeypatch):
    monkeypatch.setattr("quals_fast.commands.running.find_spec", lambda _: None)
    done = run("bart.jsonl", "pegasus.jsonl", "-o", "s")
    assert_usage_error(done, "need Jinja: pip install jinja2")


def test_help_shows_every_option(run):
    text = run("--help").stdout
    assert "study [OPTIONS] FILES..." in text
    for parameter in app.commands["study"].params[1:]:
        assert parameter.opts[-1] in text and parameter.help
