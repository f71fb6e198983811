"""What the tests of the command line share: good and bad rows, and how they are written."""

import csv
import json
import re
from pathlib import Path

from messages import says

SMALL = "--num-beams 6 --num-beam-groups 6 --min-length 2 --max-length 12".split()
DOCUMENT = "king closed the tower in 1969 . queen anne won ."
# The model of the tests asks "who -> queen" of a summary, so one without her has no pairs.
SUMMARIES = {
    "a": "queen anne opened the bridge in 1962 .",
    "b": "the town won forty four lives",
    "c": "king and queen lost score by a river .",
    "d": "anne won the queen",
}
STATUSES = ["ok", "no_pairs", "ok", "ok"]


def row(row_id, **changes):
    summary = SUMMARIES.get(row_id, "who won")
    return {"id": row_id, "document": DOCUMENT, "summary": summary} | changes


GOOD = [row(row_id) for row_id in SUMMARIES]
# Line 2 is no JSON, line 4 has no document, line 7 has the wrong type.
MIXED = [
    json.dumps(GOOD[0]),
    '{"id": "x", ',
    json.dumps(GOOD[1]),
    json.dumps({"id": "y", "summary": "s"}),
    json.dumps(GOOD[2]),
    json.dumps(row("e", summary=" ")),
    json.dumps(row("z", summary=3)),
    json.dumps(GOOD[3]),
]
MIXED_STATUSES = ["ok", "error", "no_pairs", "error", "ok", "empty_summary", "error", "ok"]
MIXED_IDS = ["a", 2, "b", "y", "c", "e", "z", "d"]


def write(name, rows):
    lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    Path(name).write_text("\n".join(lines) + "\n")
    return name


def write_csv(name, rows):
    with open(name, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return name


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def statuses_of_mixed(run):
    """Score `MIXED` by whatever metric, check what all say of the bad rows; return all statuses.

    Args:
        run: runs a command with its arguments.
    """
    write("in.jsonl", MIXED)
    result = run("score", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 1
    lines = json_lines(Path("out.jsonl").read_text())
    assert [line["id"] for line in lines] == MIXED_IDS
    assert lines[1]["message"].startswith("line 2: invalid JSON")
    statuses = [line["status"] for line in lines]
    assert [i for i, status in enumerate(statuses) if status == "error"] == [1, 3, 6]
    assert statuses[5] == "empty_summary"
    return statuses


def assert_usage_error(result, message):
    """One line on standard error, nothing on standard output, no traceback, exit code 2.

    Args:
        result: of the command.
        message: parts of the line, as for `says`.
    """
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(says(message), result.stderr), result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
