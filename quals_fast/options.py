"""Options of the commands; those of `train-qagen` stand in training/options.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from quals_fast.config import PRESETS, DecodingConfig, ScoringConfig

D, S = DecodingConfig(), ScoringConfig()

INPUT_OPTIONS = (
    click.argument("input", metavar="INPUT"),
    click.option(
        "--format",
        "file_format",
        type=click.Choice(["auto", "jsonl", "csv"]),
        default="auto",
        help="Of INPUT; auto goes by its name.",
    ),
    click.option("--encoding", default="utf-8", help="Of INPUT."),
    click.option("--document-field", default="document", help="Key or column of the document."),
    click.option("--summary-field", default="summary", help="Key or column of the summary."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first row with status error."),
    click.option("--quiet", is_flag=True, help="No progress bar and no closing line."),
)


def _take_preset(context: click.Context, _: click.Parameter, name: str) -> str:
    """Let the options that are not given default to a preset's."""
    chosen = PRESETS[name]
    settings = asdict(chosen.decoding) | asdict(chosen.scoring)
    context.default_map = settings | dict(context.default_map or {})
    return name


SETTING_OPTIONS = (
    click.option("--preset", type=click.Choice(list(PRESETS)), default="published", is_eager=True,
                 callback=_take_preset,
                 help="Defaults of the settings below, which go before it: " + "; ".join(
                     f"{name}, {chosen.about}" for name, chosen in PRESETS.items()) + "."),
    click.option("--rule", default=D.rule, help="Of the search: fairseq09 (published) or hamming."),
    click.option("--num-beams", type=int, default=D.num_beams, help="Hypotheses a summary."),
    click.option("--num-beam-groups", type=int, default=D.num_beam_groups,
                 help="Groups that penalise one another; must divide the beams."),
    click.option("--diversity-penalty", type=float, default=D.diversity_penalty, help="Nats."),
    click.option("--length-penalty", type=float, default=D.length_penalty,
                 help="Exponent of a hypothesis' length."),
    click.option("--min-length", type=int, default=D.min_length, help="Tokens before an end."),
    click.option("--max-length", type=int, default=D.max_length,
                 help="Tokens before the end is forced."),
    click.option("--summary-logprob", default=S.summary_logprob,
                 help="model, or search: with the diversity penalty in it, as published."),
    click.option("--max-pairs", default=str(S.max_pairs),
                 help="Pairs at which selection stops after its round, or all."),
    click.option("--no-pairs-score", type=float, default=None,
                 help="Score of a summary without pairs; by default it has none."),
)  # fmt: skip
MODEL_OPTIONS = (
    click.option("--model", default="qagen-mini", help="The bundled model, or a local folder."),
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ..."),
    click.option("--dtype", default="auto",
                 help="auto (the fastest that agrees with float32), float32, mixed, bfloat16 or "
                      "float16; int8 for what was exported so."),
    click.option("--backend", default="auto",
                 help="auto, eager, triton (GPU), or onnx for a folder that export has written; "
                      "reference runs the slow program that defines correct."),
    click.option("--max-batch-tokens", type=int, default=None,
                 help="Tokens that the network holds at once; sets peak memory."),
    click.option("--threads", type=int, default=None,
                 help="Of the CPU that compute; by default as many as PyTorch or ONNX Runtime "
                      "take."),
    *SETTING_OPTIONS,
)  # fmt: skip
METRIC_OPTIONS = (
    click.option("--metric", type=click.Choice(["quals", "qags"]), default="quals",
                 help="qags is the published baseline: three networks ask and answer questions, "
                      "and the score, 0 to 1, is how far summary and document give the same "
                      "answers. The options below are its own; of the others it takes --device, "
                      "--dtype and --max-batch-tokens."),
    click.option("--qags-models", default=None, metavar="FOLDER",
                 help="Folder with the Hugging Face folders question_generation and "
                      "question_answering; in a checkout, by default its small ones."),
    click.option("--qags-arm", type=click.Choice(["batched", "as_shipped"]), default="batched",
                 help="as_shipped generates for one answer at a time in float32, as published; "
                      "batched gives the same scores faster."),
    click.option("--qags-setting", type=click.Choice(["shipped", "paper"]), default="shipped",
                 help="Of its search: beam 5 as in the published script, or beam 10."),
    click.option("--qags-filter", is_flag=True,
                 help="Ask only what the summary answers as expected."),
    click.option("--seed", type=int, default=0, help="Of the draw of answers to ask about."),
)  # fmt: skip
CONSEQ_OPTIONS = (
    click.option("--summariser", required=True, metavar="FOLDER",
                 help="Sequence-to-sequence model that has learnt the summaries by likelihood."),
    click.option("-o", "--output", required=True, metavar="FOLDER",
                 help="For samples, scores, pairs and the trained model; a run that was stopped "
                      "goes on from there."),
    click.option("--by", type=click.Choice(["quals", "rouge"]), default="quals",
                 help="What judges the samples; rouge is the baseline."),
    click.option("--samples", "num_samples", type=int, default=6, help="Of each document."),
    click.option("--top-k", type=int, default=50, help="Tokens that a sample draws from."),
    click.option("--sample-min-length", type=int, default=10, help="Tokens."),
    click.option("--sample-max-length", type=int, default=60, help="Tokens."),
    click.option("--positive-fraction", type=float, default=0.3,
                 help="Documents with the best summaries to learn from."),
    click.option("--negative-fraction", type=float, default=0.3,
                 help="Documents with the worst samples to learn from."),
    click.option("--learning-rate", type=float, default=3e-6, help="Of Adam."),
    click.option("--epochs", type=int, default=2, help="Over the chosen documents."),
    click.option("--batch-size", type=int, default=8, help="Documents at once."),
    click.option("--label-smoothing", type=float, default=0.1, help="Of the loss."),
    click.option("--max-source-tokens", type=int, default=1024, help="Of a document."),
    click.option("--seed", type=int, default=0, help="Of samples and training."),
)  # fmt: skip
# Options that say nothing to the other metric.
ONLY_QAGS = ("qags_models", "qags_arm", "qags_setting", "qags_filter", "seed")
ONLY_QUALS = (
    "model", "backend", "threads", "preset", *DecodingConfig.__slots__, *ScoringConfig.__slots__,
)  # fmt: skip
CONSEQ = (
    "by", "num_samples", "top_k", "positive_fraction", "negative_fraction", "learning_rate",
    "epochs", "batch_size", "label_smoothing", "max_source_tokens", "seed",
)  # fmt: skip
READING = ("file_format", "encoding", "document_field", "summary_field")
REFERENCE_OPTIONS = {
    "device": ("auto", "cpu"),
    "dtype": ("auto", "float32"),
    "max_batch_tokens": (None,),
    "threads": (None,),
}


def with_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Add options in the order in which they are listed."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
