"""`quals-fast train-qagen`: train a generator of question-answer pairs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from quals_fast.commands.options import REVISION, GroupedCommand, with_groups
from quals_fast.commands.running import usage_errors
from quals_fast.models.checkpoint import CheckpointError
from quals_fast.training.qagen.settings import TrainingError, TrainingSettings, Views

T = {one.name: one.default for one in fields(TrainingSettings)}

DATA_OPTIONS = (
    click.option("--train", multiple=True, required=True, metavar="FILE",
                 help="Training questions: SQuAD-format .json, or .jsonl with a context per line; "
                      "may be gzipped. Repeat for more files."),
    click.option("--dev", default=None, metavar="FILE",
                 help="Questions to evaluate on, in the same formats. By default, none."),
    click.option("--dev-questions", type=int, default=T["dev_questions"], metavar="N",
                 help="Evaluate on N questions of --dev, drawn at random."),
    click.option("--cap", "caps", multiple=True, metavar="SOURCE=N",
                 help="Use at most N questions from a source, such as qamr=8000. Repeat for more "
                      "sources."),
    click.option("--absent-answers", default=T["absent_answers"], metavar="[drop|keep]",
                 help="What to do with questions whose answer does not occur in the context."),
    click.option("--long-contexts", default=T["long_contexts"], metavar="[around|start]",
                 help="Which part of a context to show if it is too long for the model: the part "
                      "around the answer, or the start."),
    click.option("--skip-invalid", is_flag=True,
                 help="Skip and count entries that lack a field. By default, they are an error."),
)  # fmt: skip
MODEL_OPTIONS = (
    click.option("--init", required=True, metavar="MODEL",
                 help="BART or T5 model to start from: a local folder, a bundled model's name, or "
                      "a name on the Hugging Face hub. minilm:FOLDER builds a BART from a "
                      "BERT-family encoder."),
    REVISION,
    click.option("--decoder-layers", default="1,3,5", metavar="N,N,...",
                 help="With minilm:, the encoder layers to copy into the decoder."),
    click.option("--sep-token", default=T["sep_token"], metavar="TOKEN",
                 help="Token between question and answer, for a model without one. By default, a "
                      "token that occurs in no text."),
    click.option("--positions", type=int, default=T["positions"],
                 help="Extend the model to this many positions (tokens of a source). New positions "
                      "start as copies of the first ones. A T5 has no such table: this sets how "
                      "long its sources may be."),
    click.option("--prune", is_flag=True,
                 help="Remove the tokens that no training text uses from a WordPiece vocabulary. "
                      "A word with a letter that no training text has becomes unknown."),
)  # fmt: skip
VIEW_OPTIONS = (
    click.option("--views", default=str(Views()), metavar="VIEW=SHARE,...",
                 help="How often each question is shown with which context, in shares of 1. "
                      "window: a few sentences around the answer. passage: the whole passage. "
                      "distractors: the passage among others. answer_given: a window and the "
                      "answer, to generate the question alone."),
    click.option("--early-views", default=None, metavar="VIEW=SHARE,...",
                 help="Views for the first --early-examples, in place of --views."),
    click.option("--early-examples", type=int, default=T["early_examples"], metavar="N",
                 help="Number of questions to show with --early-views."),
    click.option("--window-sentences", type=int, default=T["window_sentences"],
                 help="Maximum number of sentences in a window."),
    click.option("--window-words", type=int, default=T["window_words"],
                 help="Add no sentence to a window that would exceed this many words."),
    click.option("--passage-words", type=int, default=T["passage_words"],
                 help="Cut passages to this many words around the answer. By default, only "
                      "passages that are too long for the model are cut."),
    click.option("--together", type=int, default=T["together"], metavar="N",
                 help="Let up to N questions share a text, which is then encoded only once. "
                      "Trains faster."),
    click.option("--renamed", type=float, default=T["renamed"], metavar="SHARE",
                 help="Share of texts, from 0 to 1, in which some answers are replaced throughout "
                      "by others of the same kind, so that the model must read the text instead "
                      "of recalling facts."),
)  # fmt: skip
TRAINING_OPTIONS = (
    click.option("--epochs", type=float, default=T["epochs"], help="Passes over the questions."),
    click.option("--examples", type=int, default=T["examples"],
                 help="Number of questions to show, in place of --epochs."),
    click.option("--minutes", type=float, default=T["minutes"],
                 help="Stop training after this many minutes; the learning rate reaches 0 in time. "
                      "Saving the model takes extra time."),
    click.option("--learning-rate", type=float, default=T["learning_rate"],
                 help="Peak learning rate, between warm-up and decay."),
    click.option("--warmup-steps", type=int, default=T["warmup_steps"],
                 help="Steps in which the learning rate rises from 0 to its peak."),
    click.option("--decay", type=float, default=T["decay"],
                 help="Share of the steps, from 0 to 1, over which the learning rate falls to 0 "
                      "at the end of the run. With 0, it stays at its peak, so that you can "
                      "extend the run later."),
    click.option("--batch-tokens", type=int, default=T["batch_tokens"],
                 help="Maximum size of a batch on each device, in tokens; target tokens count "
                      "2.5 times."),
    click.option("--accumulate", type=int, default=T["accumulate"],
                 help="Batches per training step, on each device."),
    click.option("--dropout", type=float, default=T["dropout"],
                 help="Dropout of hidden states, from 0 to 1; switches off dropout of attention "
                      "and activations. A T5 has one rate for all. By default, as in --init."),
    click.option("--label-smoothing", type=float, default=T["label_smoothing"],
                 help="Label smoothing of the loss, from 0 to 1."),
    click.option("--seed", type=int, default=T["seed"],
                 help="Random seed for the order, views and dropout."),
)  # fmt: skip
CHECKPOINT_OPTIONS = (
    click.option("-o", "--output", required=True, metavar="FOLDER",
                 help="Folder for the checkpoints and the trained model. Run the same command "
                      "again to resume an interrupted run."),
    click.option("--every", type=int, default=T["every"], metavar="STEPS",
                 help="Save a checkpoint, and evaluate on --dev, every so many steps."),
    click.option("--keep", type=int, default=T["keep"], metavar="N",
                 help="Keep the last N checkpoints, and the best one; at least 2."),
    click.option("--patience", type=int, default=T["patience"], metavar="N",
                 help="Stop after N evaluations without improvement, and use the best checkpoint. "
                      "By default, never stop early."),
)  # fmt: skip
DEVICE_OPTIONS = (
    click.option("--cpu", is_flag=True, help="Train on the CPU even if a GPU is available."),
    click.option("--bf16", default=T["bf16"], metavar="[auto|on|off]",
                 help="Mixed-precision training in bfloat16. auto: if the device supports it."),
    click.option("--threads", type=int, default=T["threads"],
                 help="CPU threads. By default, PyTorch's own choice."),
    click.option("--workers", type=int, default=T["workers"],
                 help="Processes that prepare batches in advance, so that a GPU need not wait. "
                      "With 0, batches are prepared between steps."),
)  # fmt: skip
OPTIONS = {
    "Data": DATA_OPTIONS,
    "Model": MODEL_OPTIONS,
    "Output": CHECKPOINT_OPTIONS,
    "Training": TRAINING_OPTIONS,
    "Views": VIEW_OPTIONS,
    "Device": DEVICE_OPTIONS,
}


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
            f"`--decoder-layers` must be layer numbers such as 1,3,5, but got "
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


@click.command("train-qagen", cls=GroupedCommand)
@with_groups(OPTIONS)
def train_qagen(**options: Any) -> None:
    """Train a model that generates question-answer pairs.

    Fine-tunes a BART or T5 model on questions with their contexts and answers, and writes a folder
    that the other commands take as --model. Run the same command again to resume from the last
    complete checkpoint.

    \b
    Train BART-large on SQuAD and NewsQA:
      quals-fast train-qagen --train squad.json --train newsqa.jsonl.gz \\
          --dev squad-dev.json --init facebook/bart-large -o qagen-large
    Use it:
      quals-fast score pairs.jsonl --model qagen-large
    Train on eight GPUs:
      torchrun --nproc-per-node 8 --no-python quals-fast train-qagen ...

    Exit codes: 0 if the model was trained, 2 if the command cannot run as given, the data is
    invalid or a checkpoint cannot be written.
    """  # noqa: D301 - click must get the character that the backslash stands for
    with usage_errors(ValueError):
        settings = training_settings(options)
    with usage_errors(ModuleNotFoundError):
        from quals_fast.training.qagen.pipeline import train

    with usage_errors(TrainingError, CheckpointError):
        train(settings, click.echo)
