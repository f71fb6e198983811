"""What a log takes of a set of rows."""

from quals_fast.results import SummaryScore
from quals_fast.training.adapters.rows import summarise


def test_every_row_is_counted_once():
    statuses = ["ok", "no_pairs", "empty_summary", "empty_document", "unknown_text", "error"]
    rows = [
        SummaryScore(status=status, score=-1.0 if status == "ok" else float("nan"))
        for n, status in enumerate(statuses, 1)
        for _ in range(n)
    ]
    found = summarise(rows)
    assert found["quals"] == -1.0
    counts = {
        name: n for name, n in found.items() if name not in ("quals", "quals_low", "quals_high")
    }
    assert counts == {
        "quals_scored": 1,
        "quals_no_pairs": 2,
        "quals_empty": 3 + 4,
        "quals_unknown": 5,
        "quals_error": 6,
    }
