"""The benchmarks' inputs have the lengths that they say, and stay the same."""

import json

import pytest

from bench.shared.workloads import WORKLOADS, describe, load_workload


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_of_examples_has_its_lengths(name):
    pairs = load_workload(name, None, 100)
    sizes = describe(pairs)
    workload = WORKLOADS[name]
    for what in ("document_tokens", "summary_words"):
        low, high = getattr(workload, what)
        assert low <= sizes[what][0] <= sizes[what][2] <= high
    assert len({pair.document for pair in pairs}) >= 50  # two summaries a document
    assert len({pair.id for pair in pairs}) == 100
    assert load_workload(name, None, 5) == pairs[:5]


def test_workload_of_a_file(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    good = {"document": "river " * 320, "summary": "king " * 20}
    rows = [good | {"document": "river " * n} for n in (100, 310, 320, 500)]
    path.write_text("\n".join(map(json.dumps, rows)))
    pairs = load_workload("short", path, 2)
    assert {len(pair.document.split()) for pair in pairs} == {310, 320}
    assert "2 rows found in pairs.jsonl" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no row for workload 'long': documents must have 600"):
        load_workload("long", path, 2)
    with pytest.raises(ValueError, match="must be one of short, long, but got 'medium'"):
        load_workload("medium", path, 2)
