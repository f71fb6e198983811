"""The recipe of the bundled calibration: who is in the fit, and who in the report."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bench.recipes import calibration
from bench.report.probability import KINDS, SETS, _best_by_kind
from bench.shared import common
from quals_fast.calibrating import JudgedRow, reliability
from quals_fast.calibration import Calibration, document_key

pytest.importorskip("sklearn", reason="fits need the extra")


def test_the_committed_figures_are_of_the_committed_file():
    result = json.loads((common.ROOT / "bench" / "results" / "calibration.json").read_text())
    bundled = Calibration.load("bundled")
    fitted = result["fitted"]["both"]
    assert bundled.curve.to_dict() == fitted["curve"]
    facts = bundled.content["fitted_on"]
    assert (facts["rows"], facts["documents"]) == (fitted["rows"], fitted["documents"])
    assert bundled.content["settings"]["model"].endswith(result["weights"]["qagen-mini"]["digest"])


def test_the_best_constant_for_a_kind_of_summary_is_its_mean_label():
    labels = dict(zip(SETS, ([1, 0.5, 1], [0, 1], [1, 0], [0] * 5), strict=False))  # but "all"
    shipped = {
        name: {"mean_label": sum(of_set) / len(of_set), "calibration": {"n": len(of_set)}}
        for name, of_set in labels.items()
    } | {"all": {"calibration": {"n": 12}}}
    pooled = [[label for name in names for label in labels[name]] for names in KINDS]
    constants = [sum(of_kind) / len(of_kind) for of_kind in pooled for _ in of_kind]
    expected = reliability(constants, [label for of_kind in pooled for label in of_kind]).brier
    assert _best_by_kind(shipped) == pytest.approx(expected)


def rows_of(name, n, per_document):
    """Return rows of a set; every tenth document is in both sets of one kind of summary."""
    generator = np.random.default_rng(len(name))
    rows = []
    for i in range(n):
        number = i // per_document
        kind = name.removeprefix("qags_").removeprefix("frank_")
        document = f"{kind} {number}" if number % 10 == 0 else f"{name} {number}"
        score = float(generator.uniform(-3, 0))
        label = float(generator.random() < np.exp(score))
        rows.append(
            JudgedRow.of(document, label, score=score, n_pairs=10, truncated_tokens=0)
        )  # fmt: skip
    return [None, *rows[1:]]  # the first has no score


def test_nothing_that_is_reported_was_in_the_fit(tmp_path, monkeypatch, capsys):
    sets = {
        "qags_a": rows_of("qags_a", 120, 1),
        "qags_b": rows_of("qags_b", 120, 1),
        "frank_a": rows_of("frank_a", 120, 4),
        "frank_b": rows_of("frank_b", 120, 4),
    }
    scorer = SimpleNamespace(signature="quals|rule:x|model:m@1|version:0")
    monkeypatch.setattr(calibration.QualsScorer, "from_pretrained", lambda *_, **__: scorer)
    monkeypatch.setattr(calibration, "judged", lambda _, path, __: sets[path.stem])
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    measured = {}

    def note(curve, rows, of_fit, of_set, measure=calibration.measured):
        measured.setdefault(len(of_fit), []).append((rows, of_fit))
        return measure(curve, rows, of_fit, of_set)

    monkeypatch.setattr(calibration, "measured", note)
    paths = ["--qags", "qags_a.gz", "qags_b.gz", "--frank", "frank_a.gz", "frank_b.gz"]
    output = tmp_path / "c.json"
    monkeypatch.setattr(sys, "argv", ["calibration", *paths, "--output", str(output)])
    calibration.main()
    capsys.readouterr()

    result = json.loads((tmp_path / "calibration.json").read_text())
    for calls in measured.values():
        for rows, of_fit in calls:
            assert rows
            seen = {document_key(row.document) for row in of_fit}
            assert not seen & {document_key(row.document) for row in rows}
    # Odd rows of QAGS, counted from 1, are in the fit.
    bundled = Calibration.load(output)
    assert bundled.has_seen(sets["qags_a"][2].document)
    assert not bundled.has_seen(sets["qags_a"][3].document)
    assert result["left_out_seen"] > 0
    assert result["left_out_without_score"] == dict.fromkeys(sets, 1)
    assert bundled.settings == {"rule": "x", "model": "m@1"}
    assert set(result["unseen"]) == {*sets, "all"}
