"""What are the bundled model's scores worth, and with ``--settings``, what are the settings worth?

    python -m bench.model --dev ../shared/data/qa_dev.jsonl.gz \
        --labels ../shared/data/factcons_{qags,frank_valid}_{cnndm,xsum}.jsonl.gz
    python -m bench.model ... --settings          all settings against cost; hours on two cores
    python -m bench.model --page                  rewrites the page from the last results

A set with "qags" in its name has odd rows for choosing and even rows for reporting; all others are
for reporting only. Scores that others published for a row are compared with QUALS (`published`).
Writes bench/results/model.json (with --settings also model_settings.json), bench/MODEL.md and
bench/model_settings.svg. Passes are stored row by row in --work, so that an interrupted run can be
resumed, and anything that follows from a stored pass needs no search.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.shared.common import RESULTS, ROOT, finish
from bench.shared.options import command_line
from bench.shared.weights import weights_of
from bench.studies import examples
from bench.studies.model.definitions import ANSWERS, DEFINITIONS, PUBLISHED, definitions, rivals
from bench.studies.model.page import page, plot
from bench.studies.model.passes import Stored, load_rows
from bench.studies.model.quality import generation, is_split, perplexity, with_people
from bench.studies.model.settings import DEFAULT, Passes, Variant, cost, quality, variants

MODEL, SETTINGS, CHOICES = "model", "model_settings", "choices"


def main() -> None:
    """Measure, write, draw."""
    a = _arguments()
    if a.threads is not None:
        torch.set_num_threads(a.threads)
    if not a.page:
        sets = {path.name.split(".")[0]: load_rows(path, a.rows) for path in a.labels}
        passes = Passes(a.model, a.device, a.work)
        default, weights = Variant(), weights_of(a.model)
        scorer = default.scorer(a.model, a.device)
        result: dict[str, Any] = {
            "signature": scorer.signature,
            "rows": a.rows,
            "perplexity": perplexity(scorer, a.dev, a.questions),
            "examples": examples.count(scorer),
        }
        stored = {name: passes.stored(default, rows) for name, rows in sets.items()}
        sep = scorer.engine.model.conventions.sep_token_id
        result |= {
            "generation": {
                name: generation(rows, stored[name])
                for name, rows in sets.items()
                if is_split(name)
            },
            "with_people": {
                name: with_people(
                    rows, passes.scores(default, rows), a.resamples, split=is_split(name)
                )
                for name, rows in sets.items()
            },
            "definitions": definitions(sets, stored, sep, a.resamples),
            "rivals": {
                name: rivals(rows, _by_definition(stored[name], sep), a.resamples)
                for name, rows in sets.items()
                if any(row.published for row in rows)
            },
        }
        finish(MODEL, result, a.device, weights=weights)
        if a.settings:
            positions = scorer.engine.model.conventions.max_source_tokens
            compared = variants(positions, a.int8)
            if a.only:
                compared = {n: v for n, v in compared.items() if n in (DEFAULT, *a.only)}
            chosen_on = {name: rows for name, rows in sets.items() if is_split(name)}
            few = [row.pair for rows in chosen_on.values() for row in rows[: a.cost_rows]]
            result = {
                "rows": max(map(len, chosen_on.values())),
                "groups": {name: variant.group for name, variant in compared.items()},
                "quality": quality(passes, compared, chosen_on, a.resamples),
                "cost_rows": len(few),
                "cost": cost(compared, a.model, a.device, few, a.rounds),
            }
            finish(SETTINGS, result, a.device, weights=weights)
    write_page()


def _by_definition(stored: Sequence[Stored], sep: int) -> dict[str, list[float]]:
    """Return the scores by the definitions that are compared with published metrics."""
    return {
        f"QUALS, {name}": [DEFINITIONS[name].score(one, sep) for one in stored]
        for name in (PUBLISHED, ANSWERS)
    }


def write_page() -> None:
    """Write bench/MODEL.md and its plot from the results."""
    model, settings, choices = (_load(name) for name in (MODEL, SETTINGS, CHOICES))
    if model is None:
        raise SystemExit(f"{RESULTS / MODEL}.json is missing: run python -m bench.model first")
    (ROOT / "bench" / "MODEL.md").write_text(page(model, settings, choices), "utf-8")
    if settings is not None:
        plot(settings, ROOT / "bench" / f"{SETTINGS}.svg")


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__, device="cpu")
    parser.add_argument("--dev", type=Path, help="questions to compute the perplexity on")
    parser.add_argument("--labels", type=Path, nargs="+", help="summaries with human judgements")
    parser.add_argument("--model", default="qagen-mini", help="bundled model or folder")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--rows", type=int, help="rows of each set, evenly spaced, at least 6")
    parser.add_argument("--questions", type=int, default=2_000, help="questions of --dev to use")
    parser.add_argument("--resamples", type=int, default=1_000, help="bootstrap resamples")
    parser.add_argument("--settings", action="store_true", help="also compare settings")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="compare only these settings")
    parser.add_argument("--int8", metavar="FOLDER", help="also compare this int8 export")
    parser.add_argument("--cost-rows", type=int, default=4, help="rows of each set to time")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing")
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".benchmarks" / "model", help="folder of stored passes"
    )
    parser.add_argument("--page", action="store_true", help="rewrite the page, and exit")
    arguments = parser.parse_args()
    if not arguments.page and (arguments.dev is None or arguments.labels is None):
        parser.error("--dev and --labels are required without --page")
    if arguments.settings and not any(is_split(path.name) for path in arguments.labels or ()):
        parser.error("--settings needs --labels of QAGS, on whose odd rows settings are chosen")
    if arguments.rows is not None and arguments.rows < 6:
        parser.error("--rows must be at least 6: agreement needs 3 odd and 3 even rows of a set")
    return arguments


if __name__ == "__main__":
    main()
