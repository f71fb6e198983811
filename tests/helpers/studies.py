"""What the tests of the human study share: two systems, and votes on their summaries."""

import json
from pathlib import Path

from quals_fast.study.design import ATTRIBUTES, VOTES, draw
from quals_fast.study.pairs import Pair, Summary

SYSTEMS = ("bart", "pegasus")


def text(system, i):
    return f"{('right', 'wrong')[system]} summary {i} </script>"


def rows(system, n=6):
    """Rows of a file; their ids name the system."""
    ids = (f"{SYSTEMS[system]}-{i}" for i in range(n))
    return [
        {"id": row_id, "document": f"document {i} <b>", "summary": text(system, i)}
        for i, row_id in enumerate(ids)
    ]


def write_systems(n=6):
    """Write bart.jsonl and pegasus.jsonl, with the documents in different orders."""
    for system, name in enumerate(SYSTEMS):
        of_system = rows(system, n)[:: 1 - 2 * system]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_system))
    return [f"{name}.jsonl" for name in SYSTEMS]


def pairs(n=6):
    return [
        Pair(
            document=f"document {i}",
            summaries=tuple(Summary(id=i, text=text(s, i)) for s in (0, 1)),
        )
        for i in range(n)
    ]


def study(n=6, n_annotators=3, seed=0):
    return draw(pairs(n), systems=SYSTEMS, n_pairs=n, n_annotators=n_annotators, seed=seed)


def votes(of, annotator, *answers):
    """Return what a page saves.

    Args:
        of: the study.
        annotator: number of the annotator, from 1.
        answers: for each pair of the study, the system that is better in all attributes, "equal",
            or None for no answer. The pairs behind the last one get no answer.
    """
    saved = []
    for shown in of.orders[annotator - 1]:
        answer = answers[shown.pair] if shown.pair < len(answers) else None
        if answer in SYSTEMS:
            answer = "AB"[shown.a ^ SYSTEMS.index(answer)]
        saved.append(dict.fromkeys(ATTRIBUTES, answer))
    return {"kind": VOTES, "study": of.id, "annotator": annotator, "votes": saved}


def write_votes(of, annotator, *answers, name=None):
    name = name or f"votes-{annotator}.json"
    Path(name).write_text(json.dumps(votes(of, annotator, *answers)))
    return name
