"""Options that several commands share, listed under headings by --help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from quals_fast.config import PRESETS, DecodingConfig, ScoringConfig

D, S = DecodingConfig(), ScoringConfig()

FORMAT_OPTIONS = (
    click.option(
        "--format",
        "file_format",
        type=click.Choice(["auto", "jsonl", "csv", "parquet"]),
        default="auto",
        help="Input format. jsonl: one JSON object per line, or a JSON array. csv: a header, and "
        "columns separated by commas, semicolons or tabs. parquet: needs pyarrow. auto: detect by "
        "file name and content.",
    ),
    click.option("--encoding", default="utf-8",
                 help="Encoding of JSON and CSV, such as utf-8 or latin-1."),
    click.option("--document-field", default="document", metavar="NAME",
                 help="JSON key or column of the document."),
    click.option("--summary-field", default="summary", metavar="NAME",
                 help="JSON key or column of the summary."),
)  # fmt: skip
READING_OPTIONS = (
    *FORMAT_OPTIONS,
    click.option("--fail-fast", is_flag=True,
                 help="Stop at the first row with status error. By default, the job continues with "
                      "the other rows."),
)  # fmt: skip
INPUT_OPTIONS = (click.argument("input", metavar="INPUT"), *READING_OPTIONS)
QUIET = click.option("--quiet", is_flag=True, help="Hide the progress bar and the summary line.")


def _take_preset(context: click.Context, _: click.Parameter, name: str) -> str:
    """Make the preset's settings the defaults of the options below."""
    chosen = PRESETS[name]
    settings = asdict(chosen.decoding) | asdict(chosen.scoring)
    context.default_map = settings | dict(context.default_map or {})
    return name


SETTING_OPTIONS = (
    click.option("--preset", type=click.Choice(list(PRESETS)), default="published", is_eager=True,
                 callback=_take_preset,
                 help="Defaults for the options below; options you set yourself win. " + " ".join(
                     f"{name}: {chosen.about}." for name, chosen in PRESETS.items())),
    click.option("--rule", default=D.rule, metavar="[fairseq09|hamming]",
                 help="Search rule. fairseq09: as in the published program. hamming: as in the "
                      "diverse beam search paper; faster, and finds other questions."),
    click.option("--num-beams", type=int, default=D.num_beams,
                 help="Beams: question-answer sequences generated from each summary."),
    click.option("--num-beam-groups", type=int, default=D.num_beam_groups,
                 help="Groups of beams that avoid each other's tokens; must divide --num-beams."),
    click.option("--diversity-penalty", type=float, default=D.diversity_penalty,
                 help="Penalty on a token, in nats, for each earlier group that chose it."),
    click.option("--length-penalty", type=float, default=D.length_penalty,
                 help="A sequence's score is its log-probability divided by its length to the "
                      "power of this number."),
    click.option("--min-length", type=int, default=D.min_length,
                 help="Minimum length of a sequence in tokens, not counting the end token."),
    click.option("--max-length", type=int, default=D.max_length,
                 help="Maximum length of a sequence in tokens, not counting the end token."),
    click.option("--summary-logprob", default=S.summary_logprob, metavar="[model|search]",
                 help="Log-probabilities given the summary. model: the model's own. search: with "
                      "the diversity penalty included, as in the published program."),
    click.option("--tokens", default=S.tokens, metavar="[all|answer]",
                 help="Tokens of a question-answer pair that count. all: as published. answer: "
                      "only the answer's."),
    click.option("--max-pairs", default=str(S.max_pairs), metavar="[N|all]",
                 help="Stop selecting question-answer pairs once there are this many. Each answer "
                      "gets at least one turn, so there may be more."),
    click.option("--no-pairs-score", type=float, default=None,
                 help="Score for a summary that yields no question-answer pairs. By default, it "
                      "has no score."),
)  # fmt: skip
REVISION = click.option(
    "--revision", default=None,
    help="Branch, tag or commit of a model on the hub. By default, its main branch.",
)  # fmt: skip
MODEL_OPTIONS = (
    click.option("--model", default="qagen-mini",
                 help="Model that asks the questions: a bundled model's name, a local folder, or "
                      "OWNER/NAME on the Hugging Face hub, which is downloaded once."),
    REVISION,
    click.option("--device", default="auto",
                 help="Device: cpu, cuda, cuda:1, ... auto: a GPU if there is one."),
    click.option("--dtype", default="auto",
                 help="Precision: float32, mixed (CPU only), bfloat16 or float16 (GPU only). auto: "
                      "the fastest that agrees with float32; for a T5 model, bfloat16 on a GPU "
                      "that has it, otherwise float32. The signature says which. An exported "
                      "model has the precision that it was exported with."),
    click.option("--backend", default="auto", metavar="[auto|eager|triton|onnx]",
                 help="eager: plain PyTorch. triton: GPU kernels. onnx: a folder written by "
                      "quals-fast export. auto: onnx for such a folder, otherwise triton on a GPU "
                      "and eager on a CPU."),
    click.option("--max-batch-tokens", type=int, default=None,
                 help="Tokens to process at once. Lower it to save memory. By default, 32768 on a "
                      "CPU and 327680 on a GPU."),
    click.option("--threads", type=int, default=None,
                 help="CPU threads. By default, one per core that this process may use."),
)  # fmt: skip
CALIBRATION = click.option(
    "--calibration", default=None, metavar="FILE",
    help="Add a probability that people call a summary consistent. FILE is what quals-fast "
         "calibrate wrote for this model and these settings, or bundled for that of the bundled "
         "model.",
)  # fmt: skip
METRIC_NAMES = click.Choice(["quals", "qags", "classifier", "factcc"])
ABOUT_METRICS = (
    "qags is the baseline that QUALS is compared with: three networks ask and answer questions, "
    "and the score, from 0 to 1, says how well the answers found in the summary and in the "
    "document agree. classifier: any text classifier reads the document with each sentence of the "
    "summary; the score is the mean probability of the label for consistent text. factcc: the same "
    "with FactCC's conventions. With qags, only the options under QAGS apply, with the other two "
    "those under Classifier and --revision; and with all three --device, --dtype and "
    "--max-batch-tokens (by default, 2048 on a CPU and 131072 on a GPU)."
)
METRIC = click.option(
    "--metric", type=METRIC_NAMES, default="quals", help=f"Metric. {ABOUT_METRICS}"
)
METRICS = click.option(
    "--metric", "metrics", type=METRIC_NAMES, default=("quals",), multiple=True,
    help=f"Metric; repeat the option for several. {ABOUT_METRICS}",
)  # fmt: skip
QAGS_OPTIONS = (
    click.option("--qags-models", default=None, metavar="FOLDER",
                 help="Folder that holds the Hugging Face models question_generation and "
                      "question_answering. By default, bench/qags_models in the checkout in which "
                      "you run this."),
    click.option("--qags-arm", type=click.Choice(["batched", "as_shipped"]), default="batched",
                 help="How QAGS runs. as_shipped: one answer at a time in float32, as published. "
                      "batched: the same scores, faster."),
    click.option("--qags-setting", type=click.Choice(["shipped", "paper"]), default="shipped",
                 help="Beams for generating questions. shipped: 5, as in the published script. "
                      "paper: 10."),
    click.option("--qags-filter", is_flag=True,
                 help="Drop questions that get a different answer from the summary than the one "
                      "they were generated for."),
    click.option("--seed", type=int, default=0,
                 help="Random seed for drawing the answers to ask about."),
)  # fmt: skip
CLASSIFIER_OPTIONS = (
    click.option("--classifier", default=None, metavar="MODEL",
                 help="Classifier: a folder as written by transformers, or OWNER/NAME on the "
                      "Hugging Face hub. With factcc, also FactCC's checkpoint, with vocab.txt of "
                      "bert-base-uncased in its folder."),
    click.option("--positive", default=None, metavar="LABEL",
                 help="Label for consistent text. For factcc, it is CORRECT."),
)  # fmt: skip
# The options of a scorer, by the heading under which --help lists them.
SCORER_OPTIONS = {"Model": MODEL_OPTIONS, "Search": SETTING_OPTIONS}
METRIC_OPTIONS = {
    "Model": (METRIC, *MODEL_OPTIONS),
    "Search": SETTING_OPTIONS,
    "QAGS": QAGS_OPTIONS,
    "Classifier": CLASSIFIER_OPTIONS,
}  # fmt: skip
# The metrics that have an option, if not all do.
METRICS_OF = {
    **dict.fromkeys(("model", "backend", "threads", "preset", "calibration"), ("quals",)),
    **dict.fromkeys((*DecodingConfig.__slots__, *ScoringConfig.__slots__), ("quals",)),
    "revision": ("quals", "classifier", "factcc"),
    **dict.fromkeys(("qags_models", "qags_arm", "qags_setting", "qags_filter", "seed"), ("qags",)),
    "classifier": ("classifier", "factcc"),
    "positive": ("classifier",),
}


def with_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Add options in the order in which they are listed."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def with_groups(groups: dict[str, tuple[Callable[..., Any], ...]]) -> Callable[..., Any]:
    """Add options under headings; the command must be a `GroupedCommand`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for heading, options in reversed(groups.items()):
            for option in reversed(options):
                command = option(command)
                command.__click_params__[-1].heading = heading  # type: ignore[attr-defined]
        return command

    return decorate


class GroupedCommand(click.Command):
    """A command whose help lists its options under their headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "heading", "Other"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
