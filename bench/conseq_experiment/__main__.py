"""Does ConSeq with QUALS make a small summariser more faithful? The article's experiment, small.

    python -m bench.conseq_experiment --data ../shared/data/docsum_pairs.jsonl.gz
    python -m bench.conseq_experiment --page      writes the page anew from the last result

Three steps, each of which goes on where it was stopped when the same command is given again:

1. A summariser with the bundled model's weights learns, by maximum likelihood, the sentence that
   introduces a news article of the BBC.
2. ConSeq, by QUALS and by ROUGE: samples are drawn once; each arm is trained with every seed.
3. Held-out documents are summarised, and the summaries measured by QUALS with the published
   settings, by QAGS with the bundled networks, by ROUGE, length, and what was copied.

Results go to bench/results/conseq_experiment.json, examples/conseq_report.md and its plot; what is
made on the way into the folder of --run. The defaults take about an hour on two idle cores.
A trial: --texts 60 --examples 64 --measured 10 --documents 30 --seeds 0 1 --run runs/trial
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.common import EXAMPLES, RESULTS, ROOT, finish, load_pairs
from bench.conseq_experiment.contrast import train_by_contrast
from bench.conseq_experiment.likelihood import train_by_likelihood
from bench.conseq_experiment.measures import GENERATE, Measures, write_summaries
from bench.conseq_experiment.outcome import Runs, summarise
from bench.conseq_experiment.page import page, plot, verdict
from bench.conseq_experiment.texts import SOURCE_TOKENS, Cutter, read_texts
from bench.qags_training.loop import Recipe
from quals_fast.training import ConSeqConfig
from quals_fast.training.conseq.config import By

NAME = "conseq_experiment"
PAGE = ROOT / "examples" / "conseq_report.md"
ARMS: dict[By, str] = {"quals": "ConSeq-QUALS", "rouge": "ConSeq-ROUGE"}
SHOWN = 3  # documents of the examples


def main() -> None:
    """Run what has not been run yet; write result and page."""
    arguments = _arguments()
    if not arguments.page:
        torch.set_num_threads(arguments.threads)
        finish(NAME, _run(arguments))
    write_page()


def write_page() -> None:
    """Write page and plot from the last result."""
    result = json.loads((RESULTS / f"{NAME}.json").read_text("utf-8"))
    picture = PAGE.with_suffix(".svg")
    PAGE.write_text(page(result, picture.name), "utf-8")
    plot(result, picture)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    texts = read_texts(arguments.data, arguments.held_out, arguments.texts)
    folder: Path = arguments.run
    recipe = Recipe(
        examples=arguments.examples,
        minutes=arguments.minutes,
        batch_size=16,
        learning_rate=arguments.learning_rate,
        seed=arguments.seeds[0],
        threads=arguments.threads,
    )
    likelihood = folder / "likelihood"
    made = train_by_likelihood(
        texts.references + texts.others, recipe, arguments.dropout, likelihood
    )
    chosen_from = texts.references[: arguments.documents]
    config = ConSeqConfig(
        positive_fraction=arguments.positive_fraction,
        negative_fraction=arguments.negative_fraction,
        learning_rate=arguments.conseq_rate,
        max_source_tokens=SOURCE_TOKENS,
    )
    contrast = train_by_contrast(
        chosen_from,
        likelihood / "summariser",
        folder / "conseq",
        config,
        arguments.seeds,
        arguments.beams,
        _say,
    )
    summarisers = {
        "MLE": [likelihood / "summariser"],
        **{ARMS[by]: [*of_seeds.values()] for by, of_seeds in contrast.models.items()},
    }
    measured = texts.held_out[: arguments.measured]
    measures = Measures(measured, folder / "measures", _say)
    summaries = {
        arm: [measures.summarise(model) for model in models] for arm, models in summarisers.items()
    }
    arms: dict[str, Runs] = {
        "reference": [measures.of(measures.references)],
        **{arm: [measures.of(one) for one in each] for arm, each in summaries.items()},
    }
    result = {
        "data": arguments.data.name,
        "texts": {
            "source_tokens": SOURCE_TOKENS,
            "references": len(texts.references),
            "others": len(texts.others),
            "held_out": len(measured),
        },
        "likelihood": made["header"] | {"seen": made["seen"]},
        "conseq": asdict(config) | {"seeds": arguments.seeds, "beams": arguments.beams},
        "selection": contrast.selection,
        "selection_shared": contrast.shared,
        "generate": GENERATE,
        "signatures": measures.signatures,
        **summarise(arms),
        "as_before": {
            arm: [
                sum(a == b for a, b in zip(one, summaries["MLE"][0], strict=True)) for one in each
            ]
            for arm, each in summaries.items()
        },
        "examples": _examples({arm: models[0] for arm, models in summarisers.items()}),
    }
    return {"verdict": verdict(result), **result}


def _examples(summarisers: dict[str, Path]) -> list[dict[str, str]]:
    """Summarise documents that the project may show."""
    cut = Cutter().document
    documents = list(dict.fromkeys(cut(pair.document) for pair in load_pairs([EXAMPLES])))[:SHOWN]
    columns = {arm: write_summaries(model, documents) for arm, model in summarisers.items()}
    return [
        {"document": document, **{arm: column[row] for arm, column in columns.items()}}
        for row, document in enumerate(documents)
    ]


def _say(stage: str, done: int, total: int) -> None:
    print(f"{time.strftime('%H:%M:%S')} {stage}: {done} of {total}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    parser.add_argument("--data", type=Path, help="JSON lines like docsum_pairs")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "conseq", help="folder")
    parser.add_argument("--texts", type=int, help="of each kind to learn from; all by default")
    parser.add_argument("--held-out", type=int, default=210, help="documents kept from training")
    parser.add_argument("--measured", type=int, default=120, help="of these are reported on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of ConSeq")
    step = parser.add_argument_group("by likelihood")
    step.add_argument("--examples", type=int, default=18_000, help="shown in all")
    step.add_argument("--minutes", type=float, default=45.0, help="end by then")
    step.add_argument("--learning-rate", type=float, default=2e-4)
    step.add_argument("--dropout", type=float, default=0.1)
    step = parser.add_argument_group("ConSeq")
    step.add_argument("--documents", type=int, default=192, help="that samples are drawn of")
    step.add_argument("--beams", type=int, default=10, help="of QUALS when it judges samples")
    step.add_argument("--positive-fraction", type=float, default=0.5)
    step.add_argument("--negative-fraction", type=float, default=0.5)
    step.add_argument("--conseq-rate", type=float, default=1e-4, help="learning rate")
    arguments = parser.parse_args()
    if arguments.data is None and not arguments.page:
        parser.error("--data is needed: the project holds no news text")
    return arguments


if __name__ == "__main__":
    main()
