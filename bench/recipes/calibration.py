"""Fit the bundled model's calibration to public judgements, and measure it on other documents.

    python -m bench.calibration \
        --qags ../shared/data/factcons_qags_{xsum,cnndm}.jsonl.gz \
        --frank ../shared/data/factcons_frank_valid_{xsum,cnndm}.jsonl.gz

Writes calibration.json beside the model and bench/results/calibration.json. The form of the curve
is chosen on QAGS's odd rows. The curve is fitted to these and to half of FRANK's documents, and
measured on QAGS's even rows and the other half. The pass over the summaries is stored row by row in
--work, which bench.model can share, so that an interrupted run goes on with the rows that it lacks.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.shared.common import ROOT, finish
from bench.shared.options import command_line
from bench.shared.weights import weights_of
from bench.studies.model.passes import load_rows, run_pass
from quals_fast import QualsScorer, __version__
from quals_fast.calibrating import (
    JudgedRow,
    brier_losses,
    calibration_file,
    fit,
    reliability,
)
from quals_fast.calibration import BUNDLED, Curve, document_key, settings_of

MODEL = "qagen-mini"
RESAMPLES = 1000
LIMITS = (
    "A few hundred summaries of English news (CNN/DM and XSum) by systems of 2015 to 2020. A label "
    "is the share of a summary's sentences that most annotators called consistent. QAGS and FRANK "
    "judged summaries of the same kind by different rules, so expect your own judges to differ."
)


def main() -> None:
    """Score, fit, measure, write."""
    parser = command_line(__doc__, device="cpu")
    for name, what in (("qags", "the QAGS sets"), ("frank", "FRANK's validation part")):
        parser.add_argument(f"--{name}", type=Path, nargs=2, required=True, help=what)
    parser.add_argument("--work", type=Path, default=ROOT / ".benchmarks" / "model",
                        help="folder for passes")  # fmt: skip
    parser.add_argument("--output", type=Path, default=BUNDLED, help="file of the calibration")
    a = parser.parse_args()
    scorer = QualsScorer.from_pretrained(MODEL, device=a.device)
    scored = {_name(path): judged(scorer, path, a.work) for path in (*a.qags, *a.frank)}
    of_fit, of_report = {}, {}
    for path in (*a.qags, *a.frank):
        name = _name(path)
        of_fit[name], of_report[name] = _parts(scored[name], by_line=path in a.qags)
    of_both = _all(of_fit)
    of_qags = _all({name: of_fit[name] for name in map(_name, a.qags)})
    chosen = fit(of_qags)
    fitted = fit(of_both, forms=[chosen.form])
    seen = {document_key(row.document) for row in of_both}
    fair = {
        name: [row for row in rows if document_key(row.document) not in seen]
        for name, rows in of_report.items()
    }
    about = {
        "file": ", ".join(path.name for path in (*a.qags, *a.frank)),
        "label": "label",
        "judgements": "odd rows of QAGS (Wang et al. 2020), half of the documents of FRANK's "
        "validation part (Pagnoni et al. 2021)",
        "limits": LIMITS,
        "date": datetime.now(UTC).date().isoformat(),
        "quals_fast": __version__,
    }
    content = calibration_file(
        fitted, of_both, settings=settings_of(scorer.signature), fitted_on=about
    )
    content["cross_validated_log_loss"] = chosen.log_losses  # on QAGS's odd rows
    finish(
        "calibration",
        {
            "signature": scorer.signature,
            "form": str(chosen.form),
            "log_losses_on_qags_odd": chosen.log_losses,
            "fitted": {
                name: {
                    "curve": curve.to_dict(),
                    "rows": len(rows),
                    "documents": len({document_key(row.document) for row in rows}),
                    "mean_label": _mean_label(rows),
                }
                for name, curve, rows in (
                    ("both", fitted.curve, of_both),
                    ("qags", chosen.curve, of_qags),
                )
            },
            "left_out_seen": len(_all(of_report)) - len(_all(fair)),
            "left_out_without_score": {
                name: sum(row is None for row in rows) for name, rows in scored.items()
            },
            "unseen": {
                name: {
                    "both": measured(fitted.curve, rows, of_both, of_fit.get(name)),
                    "qags": measured(chosen.curve, rows, of_qags, None),
                }
                for name, rows in (fair | {"all": _all(fair)}).items()
            },
        },
        a.device,
        weights=weights_of(MODEL),
    )
    a.output.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def judged(scorer: QualsScorer, path: Path, work: Path) -> list[JudgedRow | None]:
    """Score a file's rows, but for those that `work` has; None is a row without a score."""
    rows = load_rows(path, None)
    stored = run_pass(scorer, rows, work, path.name)
    model, scoring = scorer.engine.model, scorer.scoring
    result: list[JudgedRow | None] = []
    for row, one in zip(rows, stored, strict=True):
        pairs = one.scored_pairs(scoring, model.conventions.sep_token_id)
        if not pairs or row.pair.label is None:
            result.append(None)
            continue
        sources = model.tokenizer.encode([row.pair.summary, row.pair.document])
        result.append(
            JudgedRow.of(
                row.pair.document,
                row.pair.label,
                score=math.fsum(pair.score for pair in pairs) / len(pairs),
                n_pairs=len(pairs),
                truncated_tokens=sum(source.truncated_tokens for source in sources),
            )
        )
    return result


def measured(
    curve: Curve,
    rows: Sequence[JudgedRow],
    of_fit: Sequence[JudgedRow],
    of_set: Sequence[JudgedRow] | None,
) -> dict[str, Any]:
    """Return the figures of a curve on some rows, beside probabilities that are always the same.

    Args:
        curve: fitted to other rows.
        rows: that it has not seen.
        of_fit: rows that it was fitted to: one baseline is their mean label.
        of_set: those of them that are of the same data set; the other baseline knows the set.
    """
    p = np.array([curve.probability(row.measures) for row in rows])
    y = np.array([row.label for row in rows])
    content: dict[str, Any] = {
        "mean_label": _mean_label(rows),
        "calibration": reliability(p.tolist(), y.tolist()).to_dict(),
    }
    for name, known in (("base_rate", of_fit), ("base_rate_of_set", of_set)):
        if known:
            base = np.full(len(rows), _mean_label(known))
            saved = brier_losses(base, y) - brier_losses(p, y)
            content[name] = reliability(base.tolist(), y.tolist()).to_dict() | {
                "probability": float(base[0]),
                "brier_saved": _mean_over_documents(rows, saved.tolist()),
            }
    return content


def _mean_over_documents(rows: Sequence[JudgedRow], saved: Sequence[float]) -> dict[str, float]:
    """Return the mean with its 95 % bootstrap interval over documents."""
    keys = [document_key(row.document) for row in rows]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    of_row = np.array([numbers[key] for key in keys])
    sums, counts = np.bincount(of_row, saved), np.bincount(of_row)
    draws = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5]).tolist()
    return {"value": math.fsum(saved) / len(saved), "low": low, "high": high}


def _name(path: Path) -> str:
    return path.name.split(".")[0].removeprefix("factcons_")


def _parts(
    rows: Sequence[JudgedRow | None], *, by_line: bool
) -> tuple[list[JudgedRow], list[JudgedRow]]:
    """Split a set: odd and even lines, or two halves of the documents by their hashes."""
    parts: tuple[list[JudgedRow], list[JudgedRow]] = [], []
    for index, row in enumerate(rows):
        if row is not None:
            number = index if by_line else int(document_key(row.document), 16)
            parts[number % 2].append(row)
    return parts


def _all(by_name: Mapping[str, list[JudgedRow]]) -> list[JudgedRow]:
    return [row for rows in by_name.values() for row in rows]


def _mean_label(rows: Sequence[JudgedRow]) -> float:
    return math.fsum(row.label for row in rows) / len(rows)


if __name__ == "__main__":
    main()
