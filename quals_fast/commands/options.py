"""Options that several commands share, and help that lists them under headings."""

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
        help="Input format. csv: columns separated by commas, semicolons or tabs; jsonl: one "
        "object a line, or one JSON array; auto: by name and content.",
    ),
    click.option("--encoding", default="utf-8", help="Input encoding."),
    click.option("--document-field", default="document", help="Key or column of the document."),
    click.option("--summary-field", default="summary", help="Key or column of the summary."),
    click.option("--fail-fast", is_flag=True, help="Stop at the first row with status error."),
)
QUIET = click.option("--quiet", is_flag=True, help="Show no progress bar and no closing line.")


def _take_preset(context: click.Context, _: click.Parameter, name: str) -> str:
    """Let the options that are not given default to a preset's."""
    chosen = PRESETS[name]
    settings = asdict(chosen.decoding) | asdict(chosen.scoring)
    context.default_map = settings | dict(context.default_map or {})
    return name


SETTING_OPTIONS = (
    click.option("--preset", type=click.Choice(list(PRESETS)), default="published", is_eager=True,
                 callback=_take_preset,
                 help="Defaults for the settings below; what you set yourself wins. " + "; ".join(
                     f"{name}: {chosen.about}" for name, chosen in PRESETS.items()) + "."),
    click.option("--rule", default=D.rule,
                 help="Search rule: fairseq09 (as published) or hamming (simpler, faster)."),
    click.option("--num-beams", type=int, default=D.num_beams,
                 help="Question-answer sequences to search for each summary."),
    click.option("--num-beam-groups", type=int, default=D.num_beam_groups,
                 help="Groups of beams that avoid one another's tokens; must divide --num-beams."),
    click.option("--diversity-penalty", type=float, default=D.diversity_penalty,
                 help="Nats that a token costs for each earlier group that chose it."),
    click.option("--length-penalty", type=float, default=D.length_penalty,
                 help="Exponent of the length by which a sequence's score is divided."),
    click.option("--min-length", type=int, default=D.min_length,
                 help="Fewest tokens of a sequence before it may end."),
    click.option("--max-length", type=int, default=D.max_length,
                 help="Most tokens of a sequence before it must end."),
    click.option("--summary-logprob", default=S.summary_logprob,
                 help="Log-probabilities given the summary: the model's own (model), or with the "
                      "diversity penalty, as published (search)."),
    click.option("--max-pairs", default=str(S.max_pairs),
                 help="Stop selecting pairs at this number, once each answer has had its turn; or "
                      "all."),
    click.option("--no-pairs-score", type=float, default=None,
                 help="Score for a summary without pairs; by default it has no score."),
)  # fmt: skip
MODEL_OPTIONS = (
    click.option("--model", default="qagen-mini",
                 help="The bundled model's name, or a local folder."),
    click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, ..."),
    click.option("--dtype", default="auto",
                 help="Precision: float32, mixed (CPU), bfloat16 or float16 (GPU), or int8 for a "
                      "model exported so. auto: the fastest that agrees with float32."),
    click.option("--backend", default="auto",
                 help="eager, triton (GPU), or onnx (a folder written by export). auto: the "
                      "fastest available."),
    click.option("--max-batch-tokens", type=int, default=None,
                 help="Tokens to process at once; sets peak memory."),
    click.option("--threads", type=int, default=None,
                 help="CPU threads; by default one for each core that this process may use."),
)  # fmt: skip
METRIC = click.option(
    "--metric", type=click.Choice(["quals", "qags"]), default="quals",
    help="qags: the baseline that QUALS is compared with. Three networks ask and answer "
         "questions; the score, 0 to 1, is how far summary and document agree on the answers. "
         "It takes the options under QAGS, --device, --dtype and --max-batch-tokens.",
)  # fmt: skip
QAGS_OPTIONS = (
    click.option("--qags-models", default=None, metavar="FOLDER",
                 help="Folder with the Hugging Face folders question_generation and "
                      "question_answering; by default bench/qags_models of the checkout in which "
                      "you run this."),
    click.option("--qags-arm", type=click.Choice(["batched", "as_shipped"]), default="batched",
                 help="as_shipped: one answer at a time in float32, as published; batched: the "
                      "same scores, faster."),
    click.option("--qags-setting", type=click.Choice(["shipped", "paper"]), default="shipped",
                 help="Beams of its search: 5 (shipped, the published script) or 10 (paper)."),
    click.option("--qags-filter", is_flag=True,
                 help="Drop questions that the summary does not answer as expected."),
    click.option("--seed", type=int, default=0,
                 help="Random seed for choosing the answers to ask about."),
)  # fmt: skip
# The options of a scorer, by the heading under which --help lists them.
SCORER_OPTIONS = {"Model": MODEL_OPTIONS, "Search": SETTING_OPTIONS}
METRIC_OPTIONS = {
    "Model": (METRIC, *MODEL_OPTIONS),
    "Search": SETTING_OPTIONS,
    "QAGS": QAGS_OPTIONS,
}  # fmt: skip
# Options that say nothing to the other metric.
ONLY_QAGS = ("qags_models", "qags_arm", "qags_setting", "qags_filter", "seed")
ONLY_QUALS = (
    "model", "backend", "threads", "preset", *DecodingConfig.__slots__, *ScoringConfig.__slots__,
)  # fmt: skip


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
