"""Does ConSeq with QUALS make a small summariser more faithful? The published experiment, small.

    python -m bench.conseq_experiment --data ../shared/data/docsum_pairs.jsonl.gz
    python -m bench.conseq_experiment --page      rewrites the page from the last result

There are three steps. Run the same command again to resume an interrupted one:

1. A summariser with the bundled model's weights learns, by maximum likelihood, the sentence that
   introduces a news article of the BBC.
2. ConSeq, by QUALS and by ROUGE: samples are drawn once; each arm is trained with every seed.
3. Held-out documents are summarised. The summaries are measured by QUALS with the published
   settings, by QAGS with the bundled networks, by ROUGE, length, and share of copied text.

Results go to bench/results/conseq_experiment.json, examples/conseq_report.md and its plot;
intermediate files go to --run. The defaults take about an hour on two idle cores.
On a GPU (bench/gpu_conseq.sh), --write --device cuda stops after QUALS, and --finish measures the
rest on a machine with spaCy, from --run alone; the names of their results end in _gpu.
--classifier adds the score of a classifier. The summaries of each system go to systems/ in --run,
where bench.evaluation_table compares them.
For a trial: --texts 60 --examples 64 --measured 10 --documents 30 --seeds 0 1 --run runs/trial
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench.recipes.qags_training.loop import Recipe
from bench.shared.common import EXAMPLES, RESULTS, ROOT, finish, load_pairs, machine, result_name
from bench.shared.options import command_line
from bench.shared.weights import weights_in
from bench.studies.conseq_experiment.contrast import train_by_contrast
from bench.studies.conseq_experiment.likelihood import train_by_likelihood
from bench.studies.conseq_experiment.measures import GENERATE, Measures, write_summaries
from bench.studies.conseq_experiment.outcome import summarise
from bench.studies.conseq_experiment.page import page, plot, verdict
from bench.studies.conseq_experiment.texts import SOURCE_TOKENS, Cutter, Text, read_texts
from quals_fast.training import ConSeqConfig
from quals_fast.training.conseq.config import By
from quals_fast.training.conseq.stages import check_header, digest, write_whole

NAME = "conseq_experiment"
PAGE = ROOT / "examples" / "conseq_report.md"
ARMS: dict[By, str] = {"quals": "ConSeq-QUALS", "rouge": "ConSeq-ROUGE"}
SHOWN = 3  # documents of the examples


def main() -> None:
    """Run what has not been run yet; write result and page."""
    arguments = _arguments()
    if arguments.page:
        return write_page(arguments.device)
    torch.set_num_threads(arguments.threads)
    record: Path = arguments.run / "written.json"
    if not arguments.finish:
        write(arguments, record)
    elif not record.is_file():
        raise SystemExit(f"{record} is missing: run the first two steps with --write")
    written = json.loads(record.read_text("utf-8"))
    texts = [Text(*text) for text in written["held_out"]]
    write_systems(written, arguments.run / "systems")
    measures = Measures(
        texts,
        arguments.run / "measures",
        _say,
        arguments.base,
        arguments.device,
        arguments.classifier,
        arguments.positive,
        "factcc" if arguments.factcc else "classifier",
    )
    runs: dict[str, list[list[str]]] = {
        "reference": [measures.references],
        **written["summaries"],
    }
    if arguments.write:
        for of_arm in runs.values():
            for summaries in of_arm:
                measures.quals(summaries)
        return None
    device = written["result"]["device"]
    result = outcome(written, runs, measures)
    finish(NAME, result, device, weights=weights_in(result["signatures"]))
    return write_page(device)


def write_systems(written: Mapping[str, Any], folder: Path) -> None:
    """Write the summaries of each system to a file for `quals-fast compare`.

    A system has a summary of each document for each seed. References keep their letters; they are
    measured in lower case, as the systems write, where this matters.
    """
    folder.mkdir(exist_ok=True)
    seeds = written["result"]["conseq"]["seeds"]
    for system, of_seeds in written["summaries"].items():
        rows = [
            {"id": i, "system": system, "seed": seed, "document": document, "summary": summary,
             "reference": reference}
            for seed, summaries in zip(seeds, of_seeds, strict=False)  # MLE has one
            for i, ((document, reference), summary) in enumerate(
                zip(written["held_out"], summaries, strict=True), start=1
            )
        ]  # fmt: skip
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_whole(folder / f"{system}.jsonl", "".join(lines))


def write_page(device: str) -> None:
    """Write page and plot from the last result of a device."""
    name = result_name(NAME, device)
    result = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    target = PAGE.with_stem(result_name(PAGE.stem, device))
    picture = target.with_suffix(".svg")
    target.write_text(page(result, picture.name), "utf-8")
    plot(result, picture)


def write(a: argparse.Namespace, record: Path) -> None:
    """Take the first two steps and write all summaries; or go on where that was stopped.

    Args:
        a: the command's.
        record: file for all that the third step needs, so that no weights need to be kept.
    """
    texts = read_texts(a.data, a.held_out, a.texts, a.base)
    folder: Path = a.run
    recipe = Recipe(
        examples=a.examples,
        minutes=a.minutes,
        batch_size=16,
        learning_rate=a.learning_rate,
        seed=a.seeds[0],
        threads=a.threads,
    )
    config = ConSeqConfig(
        positive_fraction=a.positive_fraction,
        negative_fraction=a.negative_fraction,
        learning_rate=a.conseq_rate,
        max_source_tokens=SOURCE_TOKENS,
    )
    measured = texts.held_out[: a.measured]
    header = {
        "texts": digest([texts.references, texts.others, measured]),
        "likelihood": [asdict(recipe), a.dropout, a.frozen],
        "conseq": [asdict(config), a.documents, a.beams, a.seeds],
        "base": a.base,
    }
    if record.is_file():
        check_header(record, json.loads(record.read_text("utf-8"))["header"], header)
        return
    likelihood = folder / "likelihood"
    made = train_by_likelihood(
        texts.references + texts.others, recipe, a.dropout, likelihood, a.base, a.device,
        frozen=a.frozen,
    )  # fmt: skip
    contrast = train_by_contrast(
        texts.references[: a.documents],
        likelihood / "summariser",
        folder / "conseq",
        config,
        a.seeds,
        a.beams,
        _say,
        a.base,
        a.device,
    )
    measures = Measures(measured, folder / "measures", _say, a.base, a.device)
    mle = likelihood / "summariser"
    models = {"MLE": [mle]}
    summaries = {"MLE": [measures.summarise("MLE", mle, likelihood / "likelihood.json")]}
    for by, of_seeds in contrast.models.items():
        models[ARMS[by]] = [*of_seeds.values()]
        summaries[ARMS[by]] = [
            measures.summarise(f"{by}-seed{seed}", model, model.with_name(f"training_{by}.json"))
            for seed, model in of_seeds.items()
        ]
    result = {
        "data": a.data.name,
        "device": a.device,
        "written_on": machine(),
        "texts": {
            "source_tokens": SOURCE_TOKENS,
            "references": len(texts.references),
            "others": len(texts.others),
            "held_out": len(measured),
        },
        "likelihood": made["header"] | {"seen": made["seen"]},
        "conseq": asdict(config) | {"seeds": a.seeds, "beams": a.beams},
        "selection": contrast.selection,
        "selection_shared": contrast.shared,
        "generate": GENERATE,
        "examples": _examples({arm: of_arm[0] for arm, of_arm in models.items()}, a),
    }
    content = {"header": header, "held_out": measured, "summaries": summaries, "result": result}
    write_whole(record, json.dumps(content))


def outcome(
    written: Mapping[str, Any], runs: Mapping[str, list[list[str]]], measures: Measures
) -> dict[str, Any]:
    """Measure the summaries of all runs, by arm; return the whole result."""
    before = written["summaries"]["MLE"][0]
    result = {
        **written["result"],
        "signatures": measures.signatures,
        **summarise({arm: [measures.of(one) for one in each] for arm, each in runs.items()}),
        "as_before": {
            arm: [sum(a == b for a, b in zip(one, before, strict=True)) for one in each]
            for arm, each in written["summaries"].items()
        },
    }
    return {"verdict": verdict(result), **result}


def _examples(summarisers: dict[str, Path], a: argparse.Namespace) -> list[dict[str, str]]:
    """Summarise documents that the project may show."""
    cut = Cutter(a.base).document
    documents = list(dict.fromkeys(cut(pair.document) for pair in load_pairs([EXAMPLES])))[:SHOWN]
    columns = {
        arm: write_summaries(model, documents, a.device) for arm, model in summarisers.items()
    }
    return [
        {"document": document, **{arm: column[row] for arm, column in columns.items()}}
        for row, document in enumerate(documents)
    ]


def _say(stage: str, done: int, total: int) -> None:
    print(f"{time.strftime('%H:%M:%S')} {stage}: {done} of {total}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--page", action="store_true", help="only rewrite the page")
    only.add_argument("--write", action="store_true", help="stop after QUALS of the summaries")
    only.add_argument("--finish", action="store_true", help="measure what is in --run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for everything but QAGS")
    parser.add_argument(
        "--classifier", type=Path, help="folder of a classifier to measure summaries with too"
    )
    parser.add_argument("--positive", help="the classifier's label for consistent text")
    parser.add_argument(
        "--factcc",
        action="store_true",
        help="the classifier is FactCC, whose conventions it follows",
    )
    parser.add_argument(
        "--base", default="qagen-mini", help="model to start from, and to score with"
    )
    parser.add_argument("--data", type=Path, help="JSON lines of news documents with summaries")
    parser.add_argument(
        "--run",
        type=Path,
        default=ROOT / "runs" / "conseq",
        help="working folder (default: runs/conseq)",
    )
    parser.add_argument(
        "--texts", type=int, help="texts of each kind to learn from; all by default"
    )
    parser.add_argument(
        "--held-out", type=int, default=210, help="documents held out from training"
    )
    parser.add_argument("--measured", type=int, default=120, help="held-out documents to report on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[0, 1, 2],
        help="random seeds of ConSeq (default: 0 1 2)",
    )
    step = parser.add_argument_group("by likelihood")
    step.add_argument("--examples", type=int, default=18_000, help="number of examples to train on")
    step.add_argument("--minutes", type=float, default=45.0, help="stop after this many minutes")
    step.add_argument("--learning-rate", type=float, default=2e-4, help="peak learning rate")
    step.add_argument("--dropout", type=float, default=0.1, help="dropout of hidden states")
    step.add_argument("--frozen", action="store_true", help="freeze the embeddings")
    step = parser.add_argument_group("ConSeq")
    step.add_argument(
        "--documents", type=int, default=192, help="documents to sample summaries for"
    )
    step.add_argument("--beams", type=int, default=10, help="beams of QUALS when it scores samples")
    step.add_argument(
        "--positive-fraction", type=float, default=0.5, help="as for quals-fast conseq"
    )
    step.add_argument(
        "--negative-fraction", type=float, default=0.5, help="as for quals-fast conseq"
    )
    step.add_argument("--conseq-rate", type=float, default=1e-4, help="learning rate of ConSeq")
    arguments = parser.parse_args()
    if arguments.data is None and not (arguments.page or arguments.finish):
        parser.error("--data is required: the project contains no news text")
    return arguments


if __name__ == "__main__":
    main()
