"""`quals-fast export`: a model as ONNX graphs."""

from __future__ import annotations

from typing import Any

import click

from quals_fast.commands.options import REVISION, SETTING_OPTIONS, with_options
from quals_fast.commands.running import options_given, require, score_settings, usage_errors
from quals_fast.errors import BackendUnavailableError


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("output", metavar="OUT")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    help="Precision of the graphs. int8 reads and rescores documents in 8-bit integers; the search "
    "stays in float32, with 8-bit integers only to preselect the next tokens. T5 models "
    "cannot be exported in float16.",
)
@click.option(
    "--single-file",
    is_flag=True,
    help="Write the file OUT: one float32 graph that computes the whole score, with the settings "
    "below built in. Any program with ONNX Runtime can run it; it takes token ids and returns "
    "scores and kept question-answer pairs. The model must have a WordPiece tokenizer.",
)
@REVISION
@with_options(*SETTING_OPTIONS)
def export(
    model: str, output: str, dtype: str, single_file: bool, revision: str | None, **options: Any
) -> None:
    """Export a model to ONNX and check the export.

    MODEL is a bundled model's name, a local folder, or OWNER/NAME on the Hugging Face hub. OUT is
    a new folder for the ONNX graphs. After the export, the graphs are compared with the model on
    real texts. Then score with --model OUT, which needs ONNX Runtime but not PyTorch.

    \b
    Export to a folder and score with it:
      quals-fast export qagen-mini exported/ --dtype int8
      quals-fast score pairs.jsonl --model exported/
    Export the whole score as one graph, with other settings:
      quals-fast export qagen-mini quals.onnx --single-file --preset fast

    Exit codes: 0 if the export succeeded, 1 if the graphs differ from the model by more than their
    type explains, 2 if the command cannot run as given.
    """  # noqa: D301 - click must get the character that the backslash stands for
    require("torch", message='exporting needs PyTorch: pip install ".[onnx]" in the checkout')
    from quals_fast.export.exporter import ExportParityError

    run = _export_single_file if single_file else _export_folder
    try:
        with usage_errors(ValueError, TypeError, ModuleNotFoundError, BackendUnavailableError):
            click.echo(run(model, revision, output, dtype, options))
    except ExportParityError as error:
        raise click.ClickException(str(error)) from error


def _export_folder(
    model: str, revision: str | None, output: str, dtype: str, options: dict[str, Any]
) -> str:
    """Export graphs and say what their check found."""
    from quals_fast.export.exporter import export as export_folder

    for option in options_given(options):
        raise ValueError(
            f"`{option}` needs --single-file; without it, pass {option} to quals-fast score"
        )
    parity = export_folder(model, output, revision=revision, dtype=dtype)
    return (
        f"wrote {output} ({dtype}); compared with the model, log-probabilities differ by at most "
        f"{parity['max_abs_delta']:.1e} ({parity['mean_abs_delta']:.1e} on average), and "
        f"{100 * parity['identical_sequences']:.0f} % of the sequences are identical"
    )


def _export_single_file(
    model: str, revision: str | None, output: str, dtype: str, options: dict[str, Any]
) -> str:
    """Export one graph and say what its check found."""
    from quals_fast.export.single_file import export_single_file

    if dtype != "float32":
        raise ValueError(f"`--single-file` needs --dtype float32, but got {dtype}")
    parity = export_single_file(model, output, revision=revision, **score_settings(options))
    return (
        f"wrote {output}; compared with the model, {100 * parity['identical_pairs']:.0f} % of "
        f"{parity['pairs']} pairs are identical, and log-probabilities and scores differ by at "
        f"most {parity['max_abs_delta']:.1e}"
    )
