"""`quals-fast train-qagen`: train a generator of question-answer pairs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from quals_fast.commands.options import with_options
from quals_fast.commands.running import usage_errors
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.training.qagen.settings import TrainingError, TrainingSettings, Views

T = {one.name: one.default for one in fields(TrainingSettings)}

TRAINING_OPTIONS = (
    click.option("--train", multiple=True, required=True, metavar="FILE",
                 help="Questions: SQuAD-format .json, or .jsonl (.gz too); may be repeated."),
    click.option("--dev", default=None, metavar="FILE", help="Questions to evaluate on."),
    click.option("--init", required=True, metavar="MODEL",
                 help="A BART: a local folder, a bundled model, or a name on the Hugging Face hub; "
                      "minilm:FOLDER makes one of a BERT-family encoder."),
    click.option("-o", "--output", required=True, metavar="FOLDER",
                 help="For checkpoints and the model; given again, the run goes on."),
    click.option("--decoder-layers", default="1,3,5",
                 help="Of minilm:, the encoder layers that decoder layers start from."),
    click.option("--sep-token", default=T["sep_token"],
                 help="Of a model without a separator; by default a token that no text has."),
    click.option("--positions", type=int, default=T["positions"],
                 help="Tokens of a source, where --init has fewer positions."),
    click.option("--prune", is_flag=True,
                 help="Leave out of a WordPiece vocabulary what no text of --train uses; words "
                      "of letters that none has become unknown."),
    click.option("--epochs", type=float, default=T["epochs"], help="Passes over the questions."),
    click.option("--examples", type=int, default=T["examples"], help="In place of --epochs."),
    click.option("--minutes", type=float, default=T["minutes"],
                 help="End training by then, with the rate falling in time; saving comes after."),
    click.option("--learning-rate", type=float, default=T["learning_rate"],
                 help="Between warm-up and decay."),
    click.option("--warmup-steps", type=int, default=T["warmup_steps"], help="The rate rises."),
    click.option("--decay", type=float, default=T["decay"],
                 help="Share of the steps, at the end, in which the rate falls to 0; with 0 the "
                      "run may be prolonged."),
    click.option("--batch-tokens", type=int, default=T["batch_tokens"],
                 help="Budget of a batch on a device; a target's token counts 2.5."),
    click.option("--accumulate", type=int, default=T["accumulate"], help="Batches a step."),
    click.option("--dropout", type=float, default=T["dropout"],
                 help="Of states, with none of attention and activations; by default "
                      "what --init says of all three."),
    click.option("--label-smoothing", type=float, default=T["label_smoothing"],
                 help="Share of each target's weight that is spread over the vocabulary."),
    click.option("--views", default=str(Views()), help="Shares in which questions are shown."),
    click.option("--early-views", default=None, help="In place of --views at first."),
    click.option("--early-examples", type=int, default=T["early_examples"], help="For how long."),
    click.option("--together", type=int, default=T["together"],
                 help="Questions that may share one text, which is encoded once for all of them."),
    click.option("--renamed", type=float, default=T["renamed"],
                 help="Share of texts in which some answers are renamed throughout, so that the "
                      "text decides and not what the network remembers."),
    click.option("--window-sentences", type=int, default=T["window_sentences"],
                 help="The most that a window shows."),
    click.option("--window-words", type=int, default=T["window_words"],
                 help="Beyond these a window takes no further sentence."),
    click.option("--passage-words", type=int, default=T["passage_words"],
                 help="Longer passages are cut around the answer; by default only what goes beyond "
                      "the model's positions."),
    click.option("--long-contexts", default=T["long_contexts"],
                 help="What is left of a context beyond the positions: around the answer, or its "
                      "start."),
    click.option("--absent-answers", default=T["absent_answers"],
                 help="Questions whose answer is not in the context: drop or keep."),
    click.option("--skip-invalid", is_flag=True,
                 help="Leave out and count what lacks a field, instead of refusing the file."),
    click.option("--cap", "caps", multiple=True, metavar="SOURCE=N",
                 help="Most questions of a source; may be repeated."),
    click.option("--every", type=int, default=T["every"],
                 help="Steps between checkpoints, and between evaluations."),
    click.option("--keep", type=int, default=T["keep"], help="Checkpoints, besides the best."),
    click.option("--patience", type=int, default=T["patience"],
                 help="Stop after so many evaluations without improvement, and take the best."),
    click.option("--dev-questions", type=int, default=T["dev_questions"],
                 help="Of --dev, drawn at random."),
    click.option("--seed", type=int, default=T["seed"], help="Of order, views and dropout."),
    click.option("--bf16", default=T["bf16"], help="auto (where the device has it), on or off."),
    click.option("--cpu", is_flag=True, help="Even if there is a GPU."),
    click.option("--threads", type=int, default=T["threads"], help="Of a CPU."),
    click.option("--workers", type=int, default=T["workers"],
                 help="Processes that prepare batches, so that a GPU does not wait for them."),
)  # fmt: skip


def training_settings(options: dict[str, Any]) -> TrainingSettings:
    """Return the settings that the options ask for.

    Raises:
        ValueError: an option cannot be read, or as for `TrainingSettings`.
    """
    caps = {}
    for cap in options["caps"]:
        source, _, number = cap.partition("=")
        if not source or not number.isdecimal():
            raise ValueError(f"`--cap` must be SOURCE=N, such as qamr=8000, but got {cap!r}")
        caps[source] = int(number)
    layers = options["decoder_layers"].split(",")
    if not all(layer.strip().isdecimal() for layer in layers):
        raise ValueError(
            f"`--decoder-layers` must be numbers such as 1,3,5, but got "
            f"{options['decoder_layers']!r}"
        )
    early, dev = options["early_views"], options["dev"]
    return TrainingSettings(
        **options
        | {
            "train": tuple(map(Path, options["train"])),
            "dev": None if dev is None else Path(dev),
            "output": Path(options["output"]),
            "decoder_layers": tuple(map(int, layers)),
            "views": Views.parse(options["views"]),
            "early_views": None if early is None else Views.parse(early),
            "caps": caps,
        }
    )


@click.command("train-qagen")
@with_options(*TRAINING_OPTIONS)
def train_qagen(**options: Any) -> None:
    """Fine-tune a BART to generate question-answer pairs, and write a folder for --model.

    The same command again goes on from the last whole checkpoint. On several GPUs: torchrun
    --nproc-per-node N --no-python quals-fast train-qagen ... . Exit code: 2 on wrong usage or data,
    and when a checkpoint cannot be written.
    """
    with usage_errors(ValueError):
        settings = training_settings(options)
    with usage_errors(ModuleNotFoundError):
        from quals_fast.training.qagen.pipeline import train

    with usage_errors(TrainingError, CheckpointError):
        train(settings, click.echo)
