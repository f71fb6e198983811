"""The exit code of bench.parity, by what the comparison finds."""

import sys

import pytest

from bench.checks import parity


@pytest.mark.parametrize(
    ("model", "near_ties", "wrong", "code"),
    [
        ("tiny", 3, 0, 0),
        ("tiny", 4, 0, 1),
        ("t5-small", 10, 0, 0),
        ("t5-small", 11, 0, 1),
        ("t5-small", 0, 1, 1),
    ],
)
def test_near_ties_are_bounded_and_wrong_decisions_fail(
    model, near_ties, wrong, code, monkeypatch, tmp_path
):
    found = {"near_ties": ["a row"] * near_ties, "wrong": ["a row"] * wrong}
    monkeypatch.setattr(parity, "compare", lambda *_: found)
    monkeypatch.setattr(parity, "load_pairs", lambda *_: [None] * 100)
    monkeypatch.setattr(parity, "folder_of", lambda _: tmp_path)
    monkeypatch.setattr(parity, "weights_of", lambda _: {})
    monkeypatch.setattr(parity, "finish", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["parity", "--model", model])
    with pytest.raises(SystemExit) as ended:
        parity.main()
    assert ended.value.code == code
